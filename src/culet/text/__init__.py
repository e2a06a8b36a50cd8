"""Strings to token ids and back: prompts, tokenizers, vocabularies."""
