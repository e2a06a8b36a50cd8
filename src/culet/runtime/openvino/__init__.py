"""Embedding on CPUs through OpenVINO, without PyTorch."""
