"""The model card: README.md as hubs and people read it."""

from __future__ import annotations

from culet.architecture.embedding_config import EmbeddingConfig


def model_card(config: EmbeddingConfig) -> str:
    """Return a short README.md with the metadata the hub reads."""
    return (
        "---\nlibrary_name: sentence-transformers\npipeline_tag: sentence-similarity\ntags:\n"
        "- sentence-transformers\n- feature-extraction\n- dense\n- culet\n---\n\n"
        f"A bidirectional Gemma 3 text encoder with {config.num_parameters():,} parameters that "
        f"maps text of up to {config.encoder.max_length} tokens to unit vectors of width "
        f"{config.embedding_dim}. Usable widths: {', '.join(map(str, config.widths))}.\n\n"
        '```python\nimport culet\nembedder = culet.load("path/to/this/folder")\n```\n'
    )
