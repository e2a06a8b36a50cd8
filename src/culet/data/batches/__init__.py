"""What a training step reads: sources, mixtures, windows and collated batches."""
