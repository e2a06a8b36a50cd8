"""Checkpoints with random weights, none of them at its usual start.

A norm that starts at zero hides whether it multiplies by w or by 1 + w, so every norm here is
random too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from culet.architecture.embedding_config import EmbeddingConfig, tiny
from culet.checkpoints.write import write_checkpoint
from culet.text.prompts import Prompts
from culet.text.tokenizer_training import byte_tokenizer


def random_arrays(config: EmbeddingConfig, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Return weights that keep activations near unit size: norms in 0.5 … 1.5 after the + 1."""
    generator = np.random.default_rng(seed)
    arrays = {}
    for name, shape in config.weight_shapes().items():
        if len(shape) == 1 and "probe" not in name:
            array = generator.uniform(-0.5, 0.5, shape)
        else:
            array = generator.standard_normal(shape) * shape[-1] ** -0.5
        arrays[name] = array.astype(np.float32)
    return arrays


def speller(rows: int) -> str:
    """Return the byte tokenizer's JSON with an id for each of some rows; no text has the others."""
    content = json.loads(byte_tokenizer().to_str())
    vocab = content["model"]["vocab"]
    for row in range(len(vocab), rows):
        vocab[f"word {row}"] = row
    return json.dumps(content)


def write_random(
    folder: Path, config: EmbeddingConfig | None = None, *, seed: int = 0, **options: Any
) -> Path:
    """Write a checkpoint whose tokenizer spells a text in bytes; return its folder."""
    config = config or tiny()
    options = {"prompts": Prompts.default().to_names()} | options
    write_checkpoint(
        folder,
        config,
        random_arrays(config, seed=seed),
        tokenizer_json=speller(config.encoder.vocab_size),
        **options,
    )
    return folder


def text_of(tokens: int, *, seed: int = 0) -> str:
    """Return a text that the byte tokenizer makes `tokens` tokens of, BOS and EOS included."""
    letters = np.random.default_rng(seed).integers(97, 123, tokens - 2)
    return bytes(letters.tolist()).decode()
