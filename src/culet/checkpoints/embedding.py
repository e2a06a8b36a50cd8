"""The sentence-transformers folder of EmbeddingGemma, in and out, without torch.

A checkpoint on disk is what every tool of the field reads: modules.json with the stock modules
Transformer, Pooling, Dense, Dense, Normalize; config.json of `gemma3_text`; safetensors; a
tokenizer.json; prompts. Everything that would give silently wrong vectors is refused here, by
name, before any weight is touched.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from culet.architecture.embedding_config import EmbeddingConfig
from culet.architecture.encoder_config import EncoderConfig
from culet.checkpoints import sentence_transformers as modules
from culet.checkpoints.card import model_card
from culet.checkpoints.checkpoint import (
    Checkpoint,
    Contents,
    EmbeddingCheckpoint,
    Layout,
    named_tensors,
)
from culet.checkpoints.families import EMBEDDINGGEMMA, read_stack, repairs
from culet.checkpoints.folder import check_tensors, read_json, weight_files
from culet.checkpoints.refusals import refuse_file
from culet.checkpoints.tokenizer_files import (
    check_prompts_fit,
    read_tokenizer,
    with_stated_length,
)
from culet.checkpoints.values import check_values
from culet.errors import CheckpointError, InputError
from culet.files import fingerprint
from culet.files.tensors import StoredDtype, StoredTensor


def read_embedding_model(folder: Path | str) -> EmbeddingCheckpoint:
    """Return the checkpoint in a folder, with everything about it checked.

    Raises:
        CheckpointError: If a file is missing or damaged, a setting would give wrong vectors
            (causal attention, a missing dense head, unknown modules), or shapes and config
            disagree. The message names the file and what to do.
    """
    folder = Path(folder)
    refuse_file(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; expected a sentence-transformers folder")
    places = modules.module_folders(folder)
    root = places["transformer"]  # the folder itself, or 0_Transformer in older ones
    heads = {name: modules.read_dense(places[name]) for name in ("up", "down")}
    config, notes = _config(places, heads)
    tensors, _ = named_tensors(weight_files(root), _layout(config.encoder))
    tensors |= heads
    if config.pooling == "attention":
        tensors |= weight_files(places["pooling"])
    tensors = check_tensors(config.weight_shapes(), tensors, folder)
    prompts = modules.read_prompts(folder / "config_sentence_transformers.json")
    where, length = root / "tokenizer.json", config.encoder.max_length
    fits = partial(
        check_prompts_fit, prompts=("", *prompts.values()), max_length=length, where=where
    )
    tokenizer = read_tokenizer(where, config.encoder.vocab_size, fits)
    notes += check_values(tensors)
    for note in notes:
        warnings.warn(f"{folder}: {note}", UserWarning, stacklevel=2)
    return Checkpoint(
        path=folder,
        config=config,
        architecture=modules.ARCHITECTURE,
        tensors=tensors,
        tokenizer=tokenizer,
        fingerprint=_fingerprint(folder, root, config, tensors, prompts),
        notes=tuple(notes),
        prompts=prompts,
    )


def contents(
    config: EmbeddingConfig,
    arrays: Mapping[str, np.ndarray],
    dtype: StoredDtype,
    prompts: Mapping[str, str],
) -> Contents:
    """Return what the folder of an embedding model holds.

    A pooling that sentence-transformers does not have is written under a name that makes it stop.

    Raises:
        InputError: If transformers could not load a model of these sizes.
    """
    encoder = config.encoder
    max_heads, _ = encoder.max_heads
    if encoder.model_dim % max_heads:
        raise InputError(
            f"model_dim must be a multiple of num_heads, which transformers insists on, got "
            f"{encoder.model_dim} and {max_heads}"
        )
    layout = _layout(encoder)
    names: dict[str, dict[str, str]] = {  # on disk, from canonical ones
        "": dict(layout.names),
        "2_Dense": {"up": "linear.weight"},
        "3_Dense": {"down": "linear.weight"},
    }
    if config.pooling == "attention":
        names["1_Pooling"] = {name: name for name in ("pool.probe", "pool.key", "pool.value")}
    return Contents(
        weights={
            place: {disk: arrays[name] for name, disk in own.items()}
            for place, own in names.items()
        },
        texts=modules.small_files(config, dtype=dtype, prompts=prompts)
        | {"README.md": model_card(config)},
        rows=layout.rows,
    )


def _layout(encoder: EncoderConfig) -> Layout:
    """Return how the encoder's weights lie in the folder of the Transformer module."""
    return Layout(
        names={name: EMBEDDINGGEMMA.disk_name(name) for name in encoder.weight_shapes()},
        rows=encoder.vocab_size,
        renamed=lambda full: full.removeprefix("model."),
    )


def _config(
    places: Mapping[str, Path], heads: Mapping[str, StoredTensor]
) -> tuple[EmbeddingConfig, list[str]]:
    """Return the architecture the small files describe, and notes on what was repaired."""
    root = places["transformer"]
    where = root / "config.json"
    raw = read_json(where)
    stack = read_stack(raw, EMBEDDINGGEMMA, causal=False, where=where)
    encoder = with_stated_length(stack, root)
    pooling_json = places["pooling"] / "config.json"
    pooling = modules.pooling_config(read_json(pooling_json), encoder, where=pooling_json)
    up, down = (heads[name].shape for name in ("up", "down"))
    modules.check_head(up, down, encoder.model_dim, root)
    normalize_json = places["normalize"] / "config.json"
    modules.check_flow(read_json(normalize_json, {}), where=normalize_json)
    try:
        config = EmbeddingConfig(
            encoder=encoder,
            projection_dim=up[0],
            embedding_dim=down[0],
            widths=modules.trained_widths(raw, encoder, down[0], where=where),
            pooling=pooling.kind,
            pooling_tokens=pooling.tokens,
            pooling_heads=pooling.heads,
        )
    except InputError as error:
        raise CheckpointError(f"{pooling_json}: {error}") from error
    return config, repairs(raw, stack)


def _fingerprint(
    folder: Path,
    root: Path,
    config: EmbeddingConfig,
    tensors: Mapping[str, StoredTensor],
    prompts: Mapping[str, str],
) -> str:
    texts = [root / "tokenizer.json", root / "tokenizer_config.json"]
    weights = {tensor.path for tensor in tensors.values()}
    files = fingerprint.of_files(
        [path for path in (*texts, *weights) if path.exists()], relative_to=folder
    )
    return fingerprint.of_settings([files, config.identity(), dict(prompts)])
