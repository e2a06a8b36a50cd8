"""The sentence-transformers folder of EmbeddingGemma, in and out, without torch.

A checkpoint on disk is what every tool of the field reads: modules.json with the stock modules
Transformer, Pooling, Dense, Dense, Normalize; config.json of `gemma3_text`; safetensors; a
tokenizer.json; prompts. Everything that would give silently wrong vectors is refused here, by
name, before any weight is touched. Foreign names live in this file, in `foreign.py` (read) and
`foreigntexts.py` (written) only.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from culet import foreigntexts
from culet.architecture.embedding_config import EmbeddingConfig
from culet.checkpoints import sentence_transformers as foreign
from culet.checkpoints.folder import (
    LazyArrays,
    check_tensors,
    check_tokenizer,
    read_json,
    refuse_pickle,
    required,
    weight_files,
    write_shards,
)
from culet.errors import CheckpointError, InputError
from culet.files import fingerprint
from culet.files.atomic import new_folder
from culet.files.tensors import StoredDtype, StoredTensor, read_tensors, write_tensors
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
    modules = _module_folders(folder)
    root = modules["transformer"]  # the folder itself, or 0_Transformer in older ones
    config, notes = _config(root, modules)
    tensors = foreign.encoder_tensors(weight_files(root), folder)
    for name in ("up", "down"):
        tensors[name] = _dense(modules[name])
    if config.pooling == "attention":
        tensors |= read_tensors(required(modules["pooling"] / "model.safetensors"))
    check_tensors(config.weight_shapes(), tensors, folder)
    check_tokenizer(root / "tokenizer.json", config.encoder.vocab_size)
    prompts = _prompts(folder / "config_sentence_transformers.json")
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
        encoder_arrays = {foreign.disk_name(name): arrays[name] for name in encoder.weight_shapes()}
        write_shards(aside, encoder_arrays, dtype, max_shard_bytes)
        write_tensors(
            aside / "2_Dense" / "model.safetensors", {"linear.weight": arrays["up"]}, dtype=dtype
        )
        write_tensors(
            aside / "3_Dense" / "model.safetensors", {"linear.weight": arrays["down"]}, dtype=dtype
        )
        if config.pooling == "attention":
            write_tensors(
                aside / "1_Pooling" / "model.safetensors",
                {name: arrays[name] for name in ("pool.probe", "pool.key", "pool.value")},
                dtype=dtype,
            )
        texts = foreigntexts.folder_texts(config, dtype=dtype, prompts=dict(prompts))
        texts["tokenizer.json"] = with_both_ends(tokenizer_json)
        texts["README.md"] = card or foreigntexts.model_card(config)
        for name, text in (texts | dict(extra_files or {})).items():
            (aside / name).parent.mkdir(exist_ok=True)
            (aside / name).write_text(text, encoding="utf-8")
        check_tokenizer(aside / "tokenizer.json", config.encoder.vocab_size)


def _module_folders(folder: Path) -> dict[str, Path]:
    """Return the folders of the five stock modules, or say which one is missing."""
    refuse_pickle(folder)
    path = folder / "modules.json"
    if not path.exists():
        raise CheckpointError(
            f"{folder} has no modules.json, so its pooling and dense heads are unknown and the "
            "vectors would be wrong; expected the sentence-transformers folder of an embedding "
            "model"
        )
    modules = read_json(path, kind=list)
    if not all(isinstance(module, dict) for module in modules):
        raise CheckpointError(f"{path} must list JSON objects with a type and a path")
    kinds = [str(m.get("type", "")).rpartition(".")[2] for m in modules]
    expected = ["Transformer", "Pooling", "Dense", "Dense", "Normalize"]
    shown = ["Pooling" if kind == "CuletPooling" else kind for kind in kinds]
    if shown != expected:
        missing = "; a dense head is missing" if shown.count("Dense") < 2 else ""
        raise CheckpointError(
            f"{path} lists the modules {kinds}, expected {expected}{missing}; vectors made "
            "without exactly these would be wrong: take the complete folder"
        )
    folders = []
    for module in modules:
        name = str(module.get("path", ""))
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise CheckpointError(f"{path} names {name!r}, which is not a folder inside {folder}")
        folders.append(folder / name)
    names = ("transformer", "pooling", "up", "down", "normalize")
    return dict(zip(names, folders, strict=True))


def _config(root: Path, modules: Mapping[str, Path]) -> tuple[EmbeddingConfig, list[str]]:
    """Return the architecture the small files describe, and notes on what was repaired."""
    if (root / "adapter_config.json").exists():
        raise CheckpointError(
            f"{root} holds an adapter (adapter_config.json) that other tools would add to the "
            "weights; merge it into them and save the whole model"
        )
    where = root / "config.json"
    raw = read_json(where)
    encoder, notes = foreign.encoder_config(raw, where=where)
    sentence = read_json(root / "sentence_bert_config.json", {})
    foreign.check_transformer(sentence, where=root / "sentence_bert_config.json")
    encoder = foreign.with_max_length(
        encoder,
        [
            (sentence, "max_seq_length"),
            (read_json(root / "tokenizer_config.json", {}), "model_max_length"),
        ],
    )
    pooling_json = modules["pooling"] / "config.json"
    pooling = foreign.pooling_config(read_json(pooling_json), encoder, where=pooling_json)
    up, down = (_dense(modules[name]).shape for name in ("up", "down"))
    foreign.check_head(up, down, encoder.model_dim, root)
    normalize_json = modules["normalize"] / "config.json"
    foreign.check_flow(read_json(normalize_json, {}), where=normalize_json)
    try:
        config = EmbeddingConfig(
            encoder=encoder,
            projection_dim=up[0],
            embedding_dim=down[0],
            widths=foreign.trained_widths(raw, encoder, down[0], where=where),
            pooling=pooling.kind,
            pooling_tokens=pooling.tokens,
            pooling_heads=pooling.heads,
        )
    except InputError as error:
        raise CheckpointError(f"{pooling_json}: {error}") from error
    return config, notes


def _dense(folder: Path) -> StoredTensor:
    """Return the weight of a Dense module after checking that it is a plain linear map."""
    refuse_pickle(folder)
    stated = foreign.check_dense(read_json(folder / "config.json"), where=folder / "config.json")
    tensors = read_tensors(required(folder / "model.safetensors"))
    if list(tensors) != ["linear.weight"]:
        raise CheckpointError(f"{folder}: expected one tensor linear.weight, got {sorted(tensors)}")
    weight = tensors["linear.weight"]
    if weight.shape != stated:
        raise CheckpointError(
            f"{folder}: the dense head has shape {weight.shape}, its config says {stated}"
        )
    return weight


def _prompts(path: Path) -> dict[str, str]:
    prompts = read_json(path, {}).get("prompts") or {}
    if not isinstance(prompts, dict) or not all(
        isinstance(prompt, str | None) for prompt in prompts.values()
    ):
        raise CheckpointError(f"{path}: prompts must map names to strings, got {prompts!r:.200}")
    return {name: prompt for name, prompt in prompts.items() if prompt is not None}


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
