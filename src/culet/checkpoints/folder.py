"""What every model folder has: JSON, safetensors in one file or several, a tokenizer.

Nothing here knows an architecture. Every reader refuses a missing, damaged or contradictory file
by name, before a weight is touched.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from culet.errors import CheckpointError
from culet.files.lookalikes import unreadable
from culet.files.tensors import StoredDtype, StoredTensor, read_tensors, write_tensors
from culet.files.unique_json import parse_json

if TYPE_CHECKING:
    from culet.text.tokenizer import TextTokenizer

_LISTED = 5  # names in a message
SPECIAL_IDS = {"<pad>": 0, "<eos>": 1, "<bos>": 2}  # the same in every Gemma tokenizer


class Tensor(Protocol):
    """A tensor of a file, read when asked for."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def name(self) -> str:
        """Its name there."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    @property
    def dtype(self) -> str:
        """How its numbers are stored."""

    def float32(self) -> np.ndarray:
        """Return the values."""

    def pieces(self) -> Iterator[np.ndarray]:
        """Yield the values some rows at a time."""


Stored = TypeVar("Stored", bound=Tensor)


class LazyArrays(Mapping[str, np.ndarray]):
    """Arrays that are read when asked for, so that only one is in memory at a time."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> np.ndarray:
        return self._tensors[name].float32()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def weight_files(folder: Path) -> dict[str, StoredTensor]:
    """Return all tensors of a single or sharded safetensors checkpoint, by disk name."""
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if not index.exists():
        return read_tensors(required(single))
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise CheckpointError(f"{index} must hold a weight_map from tensors to files")
    if single.exists() and single.name not in where.values():
        raise CheckpointError(
            f"{folder} holds {single.name} beside {index.name}, which names other files; they may "
            "be of two models, so move away what is not this one's"
        )
    tensors: dict[str, StoredTensor] = {}
    for name in sorted({str(name) for name in where.values()}):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{index} names {name!r}, which is not a safetensors file beside it"
            )
        tensors |= read_tensors(required(folder / name))
    if absent := sorted(set(where) - set(tensors)):
        error = CheckpointError(f"{index} lists tensors that no shard holds: {listed(absent)}")
        add_all(error, missing=absent)
        raise error
    return tensors


def check_tensors(
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, Stored],
    where: Path,
    *,
    source: str = "config.json",
) -> dict[str, Stored]:
    """Return the tensors in canonical order, each there and of its shape, and no other.

    Args:
        shapes: What must be there.
        tensors: What is there.
        where: The folder or file, for the message.
        source: Where the shapes come from, for the message.

    Raises:
        CheckpointError: If one is missing, superfluous or of another shape.
    """
    missing = [name for name in shapes if name not in tensors]
    extra = [name for name in tensors if name not in shapes]
    if missing or extra:
        error = CheckpointError(
            f"{where}: weights and {source} disagree; missing {listed(missing)}, "
            f"unexpected {listed(extra)}"
        )
        add_all(error, missing=missing, unexpected=extra)
        raise error
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise CheckpointError(
                f"{tensors[name].path}: tensor {tensors[name].name} has shape "
                f"{tensors[name].shape}, {source} says {shape}"
            )
    return {name: tensors[name] for name in shapes}


def text_tokenizer(tokenizer_json: str, *, max_length: int = 100_000_000) -> TextTokenizer:
    """Return the tokenizer of a model of this family; without `max_length` no text is cut."""
    from tokenizers import Tokenizer

    from culet.text.tokenizer import TextTokenizer

    stored = Tokenizer.from_str(tokenizer_json)
    bos, eos = SPECIAL_IDS["<bos>"], SPECIAL_IDS["<eos>"]
    return TextTokenizer(stored, max_length, bos_id=bos, eos_id=eos)


def write_shards(
    folder: Path, arrays: Mapping[str, np.ndarray], dtype: StoredDtype, max_bytes: int
) -> None:
    """Write float32 arrays as model.safetensors, or as shards of at most `max_bytes`."""
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
    where: dict[str, str] = {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        write_tensors(folder / file, shard, dtype=dtype)
        where |= dict.fromkeys(shard, file)
    total = sum(array.size for array in arrays.values()) * item
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def read_json(path: Path, default: Any = None, *, kind: type = dict) -> Any:
    """Return the content of a JSON file, or `default` where there is no file."""
    if not path.exists():
        if default is not None:
            return default
        raise CheckpointError(f"{path} is missing; the folder is not complete")
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(unreadable(path, "readable JSON", error)) from error
    if not isinstance(value, kind):
        raise CheckpointError(f"{path} must hold a JSON {kind.__name__}")
    return value


def required(path: Path) -> Path:
    """Return the path of a file that must be there."""
    if not path.exists():
        raise CheckpointError(f"{path} is missing; the folder is not complete")
    return path


def add_all(error: CheckpointError, **names: Sequence[str]) -> None:
    """Note on an error all names that `listed` cuts short: a traceback and `culet -v` show them."""
    for what, all_of_them in names.items():
        if len(all_of_them) > _LISTED:
            error.add_note(f"{what}: {', '.join(all_of_them)}")


def listed(names: Sequence[str]) -> str:
    """Return the first names of a list as words, for a message."""
    shown = ", ".join(names[:_LISTED]) or "nothing"
    return shown + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")


def architecture(raw: Mapping[str, Any]) -> Any:
    """Return the architecture that a config.json names, or what it holds instead of one name."""
    named = raw.get("architectures")
    return named[0] if isinstance(named, list) and len(named) == 1 else named


def check_tied_copy(dropped: Tensor, kept: Tensor) -> None:
    """Raise CheckpointError unless a tensor is the same as the one the config ties it to."""
    if dropped.shape != kept.shape or not np.array_equal(dropped.float32(), kept.float32()):
        raise CheckpointError(
            f"{dropped.path}: the config ties {dropped.name} to {kept.name}, but both are there "
            "and differ; set tie_word_embeddings to false, or leave one of them out"
        )


def generating_files(config: Mapping[str, Any], max_length: int) -> dict[str, str]:
    """Return the small files beside the weights of a model that generates, name to content."""
    special = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    texts = {
        "config.json": {**config, **special},
        "generation_config.json": special,
        "tokenizer_config.json": tokenizer_settings(max_length, padding_side="left"),
    }
    return {name: json_text(value) for name, value in texts.items()}


def tokenizer_settings(max_length: int, *, padding_side: str) -> dict[str, Any]:
    """Return the content of tokenizer_config.json, which transformers reads beside tokenizer.json.

    Args:
        max_length: The longest text, in tokens.
        padding_side: "left" for a model that generates, "right" for one that embeds.
    """
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "padding_side": padding_side,
        "pad_token": "<pad>",
        "eos_token": "<eos>",
        "bos_token": "<bos>",
        "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False,
    }


def json_text(value: Any) -> str:
    """Return the content of a small JSON file, laid out for people."""
    return json.dumps(value, indent=2) + "\n"
