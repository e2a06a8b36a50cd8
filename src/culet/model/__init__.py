"""The encoder and the embedding model, in PyTorch. Knows tensors and no strings."""
