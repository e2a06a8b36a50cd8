"""A decoder in one GGUF file: container, blocks of numbers, weights, tokenizer."""
