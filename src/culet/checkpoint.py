"""The sentence-transformers folder of EmbeddingGemma, in and out, without torch.

A checkpoint on disk is what every tool of the field reads: modules.json with the stock modules
Transformer, Pooling, Dense, Dense, Normalize; config.json of `gemma3_text`; safetensors; a
tokenizer.json; prompts. Everything that would give silently wrong vectors is refused here, by
name, before any weight is touched. Foreign names live in this file and in `foreign.py` only.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from culet import fingerprint, foreign
from culet.atomic import new_folder
from culet.errors import CheckpointError
from culet.model.config import EmbeddingConfig
from culet.tensorfile import StoredDtype, StoredTensor, read_tensors, write_tensors


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
        return _LazyArrays(self.tensors)


class _LazyArrays(Mapping[str, np.ndarray]):
    """Arrays that are read when asked for, so that only one is in memory at a time."""

    def __init__(self, tensors: Mapping[str, StoredTensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> np.ndarray:
        return self._tensors[name].float32()

    def __iter__(self) -> Any:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


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
    raw = _read_json(folder / "config.json")
    encoder, notes = foreign.encoder_config(raw, where=folder / "config.json")
    encoder = foreign.with_max_length(
        encoder,
        [
            (_read_json(folder / "sentence_bert_config.json", {}), "max_seq_length"),
            (_read_json(folder / "tokenizer_config.json", {}), "model_max_length"),
        ],
    )
    tensors = foreign.encoder_tensors(_weight_files(folder / modules["transformer"]), folder)
    pooling = foreign.pooling_config(
        _read_json(folder / modules["pooling"] / "config.json"), raw, encoder,
        where=folder / modules["pooling"] / "config.json",
    )
    if pooling.kind == "attention":
        tensors |= _pool_tensors(folder / modules["pooling"])
    shapes = []
    for name in ("up", "down"):
        tensors[name] = _dense(folder / modules[name])
        shapes.append(tensors[name].shape)
    foreign.check_head(shapes[0], shapes[1], encoder.model_dim, folder)
    config = EmbeddingConfig(
        encoder=encoder,
        projection_dim=shapes[0][0],
        embedding_dim=shapes[1][0],
        widths=foreign.trained_widths(raw, encoder, shapes[1][0]),
        pooling=pooling.kind,
        pooling_tokens=pooling.tokens,
        pooling_heads=pooling.heads,
    )
    _check_tensors(config, tensors, folder)
    tokenizer_json = folder / "tokenizer.json"
    _check_tokenizer(tokenizer_json, encoder.vocab_size)
    prompts = _read_json(folder / "config_sentence_transformers.json", {}).get("prompts") or {}
    for note in notes:
        warnings.warn(f"{folder}: {note}", UserWarning, stacklevel=2)
    return Checkpoint(
        folder=folder,
        config=config,
        tensors={name: tensors[name] for name in config.weight_shapes()},
        prompts={str(k): str(v) for k, v in prompts.items() if v is not None},
        tokenizer_json=tokenizer_json,
        fingerprint=_fingerprint(folder, tensors, prompts),
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

    Args:
        folder: Where; an older checkpoint there is replaced once the new one is whole.
        config: The architecture.
        arrays: float32 weights under culet's names.
        tokenizer_json: Content of tokenizer.json.
        prompts: Prompt name to prefix.
        dtype: How weights are stored.
        max_shard_bytes: Encoder weights beyond this size are split into several files.
        card: Content of README.md, or None for a short one.
        extra_files: Further small files (name to content), such as the resolved recipe.
    """
    with new_folder(Path(folder)) as aside:
        encoder_arrays = {
            foreign.disk_name(name): arrays[name] for name in config.encoder.weight_shapes()
        }
        _write_shards(aside, encoder_arrays, dtype, max_shard_bytes)
        write_tensors(aside / "2_Dense" / "model.safetensors",
                      {"linear.weight": arrays["up"]}, dtype=dtype)
        write_tensors(aside / "3_Dense" / "model.safetensors",
                      {"linear.weight": arrays["down"]}, dtype=dtype)
        if config.pooling == "attention":
            write_tensors(
                aside / "1_Pooling" / "model.safetensors",
                {name: arrays[name] for name in ("pool.probe", "pool.key", "pool.value")},
                dtype=dtype,
            )
        texts = foreign.folder_texts(config, dtype=dtype, prompts=dict(prompts))
        texts |= {"tokenizer.json": tokenizer_json, "README.md": card or foreign.model_card(config)}
        for name, text in (texts | dict(extra_files or {})).items():
            (aside / name).parent.mkdir(exist_ok=True)
            (aside / name).write_text(text, encoding="utf-8")


def _module_folders(folder: Path) -> dict[str, str]:
    """Return the paths of the five stock modules, or say which one is missing."""
    _refuse_pickle(folder)
    path = folder / "modules.json"
    if not path.exists():
        raise CheckpointError(
            f"{folder} has no modules.json, so its pooling and dense heads are unknown and the "
            "vectors would be wrong; expected the sentence-transformers folder of an embedding "
            "model"
        )
    modules = _read_json(path, kind=list)
    kinds = [str(m.get("type", "")).rpartition(".")[2] for m in modules]
    expected = ["Transformer", "Pooling", "Dense", "Dense", "Normalize"]
    shown = ["Pooling" if kind == "CuletPooling" else kind for kind in kinds]
    if shown != expected:
        missing = "; a dense head is missing" if shown.count("Dense") < 2 else ""
        raise CheckpointError(
            f"{path} lists the modules {kinds}, expected {expected}{missing}; vectors made "
            "without exactly these would be wrong: take the complete folder"
        )
    names = ("transformer", "pooling", "up", "down", "normalize")
    return {name: str(m.get("path", "")) for name, m in zip(names, modules, strict=True)}


def _weight_files(folder: Path) -> dict[str, StoredTensor]:
    """Return all tensors of a single or sharded safetensors checkpoint, by disk name."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return read_tensors(_required(folder / "model.safetensors"))
    where = _read_json(index).get("weight_map", {})
    tensors: dict[str, StoredTensor] = {}
    for name in sorted(set(where.values())):
        if Path(name).name != name:
            raise CheckpointError(f"{index} names {name!r}, which is not a file beside it")
        tensors |= read_tensors(_required(folder / name))
    if absent := sorted(set(where) - set(tensors)):
        raise CheckpointError(f"{index} lists tensors that no shard holds: {absent[:5]}")
    return tensors


def _dense(folder: Path) -> StoredTensor:
    """Return the weight of a Dense module after checking that it is a plain linear map."""
    config = _read_json(folder / "config.json")
    activation = str(config.get("activation_function", "")).rpartition(".")[2]
    if config.get("bias", True) or activation != "Identity":
        raise CheckpointError(
            f"{folder / 'config.json'}: expected a dense head without bias and with activation "
            f"Identity, got bias={config.get('bias', True)} and activation {activation!r}"
        )
    _refuse_pickle(folder)
    tensors = read_tensors(_required(folder / "model.safetensors"))
    if list(tensors) != ["linear.weight"]:
        raise CheckpointError(f"{folder}: expected one tensor linear.weight, got {sorted(tensors)}")
    weight = tensors["linear.weight"]
    stated = (config.get("out_features"), config.get("in_features"))
    if weight.shape != stated:
        raise CheckpointError(
            f"{folder}: the dense head has shape {weight.shape}, its config says {stated}"
        )
    return weight


def _pool_tensors(folder: Path) -> dict[str, StoredTensor]:
    return read_tensors(_required(folder / "model.safetensors"))


def _check_tensors(
    config: EmbeddingConfig, tensors: Mapping[str, StoredTensor], folder: Path
) -> None:
    shapes = config.weight_shapes()
    missing = [name for name in shapes if name not in tensors]
    extra = [name for name in tensors if name not in shapes]
    if missing or extra:
        raise CheckpointError(
            f"{folder}: weights and config.json disagree; missing {_some(missing)}, "
            f"unexpected {_some(extra)}"
        )
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise CheckpointError(
                f"{tensors[name].path}: tensor {tensors[name].name} has shape "
                f"{tensors[name].shape}, config.json says {shape}"
            )


def _check_tokenizer(path: Path, vocab_size: int) -> None:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(_required(path)))
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"{path} is not a readable tokenizer: {error}") from error
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if largest >= vocab_size:
        raise CheckpointError(
            f"{path} has token ids up to {largest}, but the model embeds only {vocab_size}; "
            "tokenizer and weights are not of the same model"
        )


def _write_shards(
    folder: Path, arrays: Mapping[str, np.ndarray], dtype: StoredDtype, max_bytes: int
) -> None:
    item = 2 if dtype == "bfloat16" else 4
    shards: list[dict[str, np.ndarray]] = [{}]
    filled = 0
    for name, array in arrays.items():
        if shards[-1] and filled + array.size * item > max_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = array
        filled += array.size * item
    if len(shards) == 1:
        write_tensors(folder / "model.safetensors", shards[0], dtype=dtype)
        return
    where = {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        write_tensors(folder / file, shard, dtype=dtype)
        where |= dict.fromkeys(shard, file)
    total = sum(array.size for array in arrays.values()) * item
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _fingerprint(
    folder: Path, tensors: Mapping[str, StoredTensor], prompts: Mapping[str, str]
) -> str:
    texts = [folder / name for name in ("config.json", "modules.json", "tokenizer.json")]
    weights = {tensor.path for tensor in tensors.values()}
    files = fingerprint.of_files([*texts, *weights], relative_to=folder)
    return fingerprint.of_settings([files, dict(prompts)])


def _read_json(path: Path, default: Any = None, *, kind: type = dict) -> Any:
    if not path.exists():
        if default is not None:
            return default
        raise CheckpointError(f"{path} is missing; the folder is not complete")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(value, kind):
        raise CheckpointError(f"{path} must hold a JSON {kind.__name__}")
    return value


def _required(path: Path) -> Path:
    if not path.exists():
        raise CheckpointError(f"{path} is missing; the folder is not complete")
    return path


def _refuse_pickle(folder: Path) -> None:
    pickles = [p.name for p in folder.glob("*") if re.search(r"\.(bin|pt|pth|pkl|ckpt)$", p.name)]
    if pickles and not list(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"{folder} holds its weights as pickle ({', '.join(sorted(pickles))}), which can run "
            "code when read; culet reads safetensors only: convert the file, for example with "
            "transformers' save_pretrained"
        )


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5]) or "nothing"
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")
