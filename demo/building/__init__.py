"""The parts of `demo/build_data.py`: reading, holding out, evaluation tasks, training files."""
