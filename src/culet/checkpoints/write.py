"""A model of any kind into a folder that culet and, where they have such a model, others load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from culet.architecture.embedding_config import EmbeddingConfig
from culet.architecture.generating_config import DecoderConfig
from culet.checkpoints import embedding, gemma, t5gemma
from culet.checkpoints.checkpoint import AnyConfig
from culet.checkpoints.folder import write_shards
from culet.checkpoints.sums import write_sums
from culet.checkpoints.tokenizer_files import read_tokenizer
from culet.files.atomic import new_folder
from culet.files.tensors import StoredDtype
from culet.text.tokenizer import with_both_ends


def write_checkpoint(
    folder: Path | str,
    config: AnyConfig,
    arrays: Mapping[str, np.ndarray],
    *,
    tokenizer_json: str,
    prompts: Mapping[str, str] | None = None,
    dtype: StoredDtype = "float32",
    max_shard_bytes: int = 5_000_000_000,
    extra_files: Mapping[str, str] | None = None,
) -> None:
    """Write a model's folder: weights, small files and tokenizer, whole or not at all.

    Args:
        folder: Where; an older one there is replaced once the new one is whole.
        config: The architecture, which decides the kind of folder.
        arrays: float32 weights under their canonical names.
        tokenizer_json: Content of tokenizer.json; an embedding model's is made to end texts, too.
        prompts: Prompt name to prefix, of an embedding model.
        dtype: How weights are stored.
        max_shard_bytes: Weights beyond this size are split into several files.
        extra_files: Further small files (name to content), such as the resolved recipe; one may
            replace the README.md.

    Raises:
        InputError: If transformers could not load a model of these sizes, or the folder cannot
            be written.
        CheckpointError: If the tokenizer does not go with the model.
    """
    if isinstance(config, EmbeddingConfig):
        contents = embedding.contents(config, arrays, dtype, prompts or {})
        tokenizer_json = with_both_ends(tokenizer_json)
    elif isinstance(config, DecoderConfig):
        contents = gemma.contents(config, arrays, dtype)
    else:
        contents = t5gemma.contents(config, arrays, dtype)
    with new_folder(Path(folder)) as aside:
        for place, own in contents.weights.items():
            (aside / place).mkdir(exist_ok=True)
            write_shards(aside / place, own, dtype, max_shard_bytes)
        texts = {**contents.texts, "tokenizer.json": tokenizer_json, **(extra_files or {})}
        for name, text in texts.items():
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            (aside / name).write_text(text, encoding="utf-8")
        read_tokenizer(aside / "tokenizer.json", contents.rows)
        write_sums(aside)
