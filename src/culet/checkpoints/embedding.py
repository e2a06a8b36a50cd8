"""The sentence-transformers folder of EmbeddingGemma, in and out, without torch.

A checkpoint on disk is what every tool of the field reads: modules.json with the stock modules
Transformer, Pooling, Dense, Dense, Normalize; config.json of `gemma3_text`; safetensors; a
tokenizer.json; prompts. Everything that would give silently wrong vectors is refused here, by
name, before any weight is touched.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from culet.architecture.embedding_config import EmbeddingConfig
from culet.architecture.encoder_config import EncoderConfig
from culet.checkpoints import sentence_transformers as modules
from culet.checkpoints.card import model_card
from culet.checkpoints.families import EMBEDDINGGEMMA, read_stack, repairs
from culet.checkpoints.folder import (
    LazyArrays,
    check_tensors,
    check_tokenizer,
    read_json,
    weight_files,
    write_shards,
)
from culet.checkpoints.generating import Layout, named_tensors
from culet.errors import CheckpointError, InputError
from culet.files import fingerprint
from culet.files.atomic import new_folder
from culet.files.tensors import StoredDtype, StoredTensor
from culet.text.tokenizer import with_both_ends


@dataclass(frozen=True)
class Checkpoint:
    """A checked checkpoint folder; weights are still on disk.

    Attributes:
        folder: Where it lies.
        config: The architecture.
        tensors: Where each weight is stored, under culet's names.
        prompts: Prompt name to prefix, as the folder ships them; may be empty.
        tokenizer_json: The path of tokenizer.json.
        fingerprint: 16 hex digits that change with weights, config, tokenizer or prompts.
        notes: What was repaired or deserves a word, as sentences.
    """

    folder: Path
    config: EmbeddingConfig
    tensors: dict[str, StoredTensor]
    prompts: dict[str, str]
    tokenizer_json: Path
    fingerprint: str
    notes: tuple[str, ...]

    def arrays(self) -> Mapping[str, np.ndarray]:
        """Return the weights as float32 arrays; float32 files are mapped, not copied."""
        return LazyArrays(self.tensors)


def read_checkpoint(folder: Path | str) -> Checkpoint:
    """Return the checkpoint in a folder, with everything about it checked.

    Raises:
        CheckpointError: If a file is missing or damaged, a setting would give wrong vectors
            (causal attention, a missing dense head, unknown modules), or shapes and config
            disagree. The message names the file and what to do.
    """
    folder = Path(folder)
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
    check_tensors(config.weight_shapes(), tensors, folder)
    check_tokenizer(root / "tokenizer.json", config.encoder.vocab_size)
    prompts = modules.read_prompts(folder / "config_sentence_transformers.json")
    for note in notes:
        warnings.warn(f"{folder}: {note}", UserWarning, stacklevel=2)
    return Checkpoint(
        folder=folder,
        config=config,
        tensors={name: tensors[name] for name in config.weight_shapes()},
        prompts=prompts,
        tokenizer_json=root / "tokenizer.json",
        fingerprint=_fingerprint(folder, root, config, tensors, prompts),
        notes=tuple(notes),
    )


def write_checkpoint(
    folder: Path | str,
    config: EmbeddingConfig,
    arrays: Mapping[str, np.ndarray],
    *,
    tokenizer_json: str,
    prompts: Mapping[str, str],
    dtype: StoredDtype = "float32",
    max_shard_bytes: int = 5_000_000_000,
    card: str | None = None,
    extra_files: Mapping[str, str] | None = None,
) -> None:
    """Write a folder that culet, sentence-transformers and transformers load alike.

    A pooling that they do not have is written under a name that makes them stop.

    Args:
        folder: Where; an older checkpoint there is replaced once the new one is whole.
        config: The architecture.
        arrays: float32 weights under culet's names.
        tokenizer_json: Content of tokenizer.json; a decoder's is told to end texts, too.
        prompts: Prompt name to prefix.
        dtype: How weights are stored.
        max_shard_bytes: Encoder weights beyond this size are split into several files.
        card: Content of README.md, or None for a short one.
        extra_files: Further small files (name to content), such as the resolved recipe.

    Raises:
        InputError: If transformers could not load a model of these sizes, or the folder cannot
            be written.
        CheckpointError: If the tokenizer does not go with the model.
    """
    encoder = config.encoder
    if encoder.model_dim % encoder.num_heads:
        raise InputError(
            f"model_dim must be a multiple of num_heads, which transformers insists on, got "
            f"{encoder.model_dim} and {encoder.num_heads}"
        )
    with new_folder(Path(folder)) as aside:
        names = _layout(encoder).names
        write_shards(
            aside, {disk: arrays[name] for name, disk in names.items()}, dtype, max_shard_bytes
        )
        heads = {"2_Dense": {"linear.weight": "up"}, "3_Dense": {"linear.weight": "down"}}
        if config.pooling == "attention":
            heads["1_Pooling"] = {name: name for name in ("pool.probe", "pool.key", "pool.value")}
        for place, stored in heads.items():
            (aside / place).mkdir()
            own = {disk: arrays[name] for disk, name in stored.items()}
            write_shards(aside / place, own, dtype, max_shard_bytes)
        texts = modules.small_files(config, dtype=dtype, prompts=prompts)
        texts["tokenizer.json"] = with_both_ends(tokenizer_json)
        texts["README.md"] = card or model_card(config)
        for name, text in (texts | dict(extra_files or {})).items():
            (aside / name).parent.mkdir(exist_ok=True)
            (aside / name).write_text(text, encoding="utf-8")
        check_tokenizer(aside / "tokenizer.json", config.encoder.vocab_size)


def _layout(encoder: EncoderConfig) -> Layout:
    """Return how the encoder's weights lie in the folder of the Transformer module."""
    shapes = encoder.weight_shapes()
    return Layout(
        shapes=shapes,
        names={name: EMBEDDINGGEMMA.disk_name(name) for name in shapes},
        rows=encoder.vocab_size,
        copies={},
        renamed=lambda full: full.removeprefix("model."),
        reads_images=lambda full: False,
    )


def _config(
    places: Mapping[str, Path], heads: Mapping[str, StoredTensor]
) -> tuple[EmbeddingConfig, list[str]]:
    """Return the architecture the small files describe, and notes on what was repaired."""
    root = places["transformer"]
    if (root / "adapter_config.json").exists():
        raise CheckpointError(
            f"{root} holds an adapter (adapter_config.json) that other tools would add to the "
            "weights; merge it into them and save the whole model"
        )
    where = root / "config.json"
    raw = read_json(where)
    stack = read_stack(raw, EMBEDDINGGEMMA, causal=False, where=where)
    encoder = modules.with_stated_length(stack, root)
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
