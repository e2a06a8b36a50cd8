"""Sizes of models and the name and shape of each of their weights. No torch, no files."""
