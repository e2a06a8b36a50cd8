"""The GGUF container: metadata and the places of tensors, all checked before use.

Format (version 2 and 3, little-endian): "GGUF", version, number of tensors, number of metadata
entries; entries of key, type, value; for each tensor its name, dimensions (fastest first), ggml
type and offset; then, aligned, the data. Read here and not by the `gguf` package because that one
keeps a numpy view for every element of every list: 20 s of CPU against half a second for the
262,144 tokens of Gemma; and because it does not notice a truncated file.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from culet.checkpoints.gguf.blocks import BLOCK_TYPES, BlockType, dequantize
from culet.errors import CheckpointError
from culet.files.lookalikes import lookalike, unreadable

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?"}
_SCALARS |= {10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_DIMENSIONS = 4
_OTHERS = {9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS"}
_OTHERS |= {18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS"}
_OTHERS |= {24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M"}
_ALIGNMENT = 32
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class GGUFTensor:
    """One tensor of a file.

    Attributes:
        path: The file.
        name: Its name there.
        shape: Its shape, rows first.
        kind: How its weights are stored.
        start: Where its first byte lies.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    kind: BlockType
    start: int

    @property
    def dtype(self) -> str:
        """Return how its weights are stored."""
        return self.kind.name

    @property
    def num_bytes(self) -> int:
        """Return its size in bytes."""
        return math.prod(self.shape) // self.kind.weights * self.kind.size

    def float32(self) -> np.ndarray:
        """Return the weights as float32."""
        if not self.num_bytes:
            return np.zeros(self.shape, np.float32)
        raw = np.memmap(self.path, np.uint8, "r", offset=self.start, shape=(self.num_bytes,))
        return dequantize(raw, self.kind, self.shape)

    def pieces(self) -> Iterator[np.ndarray]:
        """Yield the weights as float32, some rows at a time."""
        if len(self.shape) < 2 or not self.num_bytes:
            yield self.float32()
            return
        row = self.num_bytes // self.shape[0]
        step, raw = max(1, _PIECE_BYTES // row), np.memmap(self.path, np.uint8, "r")
        for first in range(0, self.shape[0], step):
            rows = min(step, self.shape[0] - first)
            start = self.start + first * row
            piece = raw[start : start + rows * row]
            yield dequantize(piece, self.kind, (rows, *self.shape[1:]))


@dataclass(frozen=True)
class GGUFFile:
    """A GGUF file whose every byte is accounted for.

    Attributes:
        path: The file.
        metadata: Key to value; lists are Python lists.
        tensors: Name to tensor.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GGUFTensor]


def read_gguf(path: Path) -> GGUFFile:
    """Return the metadata and the tensors of a GGUF file.

    Raises:
        CheckpointError: If it is no GGUF file, truncated or damaged, of a version or with a tensor
            type that is not read here.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read(path, _Cursor(data))
    except (struct.error, IndexError, OverflowError, RecursionError) as error:
        raise CheckpointError(_damaged(path, "it ends in the middle of its header")) from error
    except UnicodeDecodeError as error:
        raise CheckpointError(_damaged(path, f"a name or token is not UTF-8 ({error})")) from error
    except (OSError, ValueError) as error:  # mmap's word for an empty file is ValueError
        found = lookalike(path)
        why = f"it is {found}" if found else str(error)
        raise CheckpointError(f"cannot read {path}: {why}") from error


class _Cursor:
    """A position in the file that advances as values are read."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.place = 0

    def numbers(self, code: str, count: int = 1) -> tuple[Any, ...]:
        size = struct.calcsize(f"<{code}") * count
        self._check(size)
        values = struct.unpack_from(f"<{count}{code}", self.data, self.place)
        self.place += size
        return values

    def text(self) -> str:
        (size,) = self.numbers("Q")
        self._check(size)
        value = self.data[self.place : self.place + size]
        self.place += size
        return value.decode()

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            (inner,) = self.numbers("I")
            (count,) = self.numbers("Q")
            if inner in _SCALARS:
                return list(self.numbers(_SCALARS[inner], count))
            self._check(count)  # each element takes at least a byte
            return [self.value(inner) for _ in range(count)]
        if kind not in _SCALARS:
            raise IndexError(f"type {kind}")
        return self.numbers(_SCALARS[kind])[0]

    def _check(self, size: int) -> None:
        """Refuse to read past the end, before memory is allocated for it."""
        if size > len(self.data) - self.place:
            raise IndexError("past the end")


def _read(path: Path, cursor: _Cursor) -> GGUFFile:
    if cursor.data[:4] != _MAGIC:
        why = "it does not begin with 'GGUF'"
        raise CheckpointError(unreadable(path, "a GGUF file", why))
    cursor.place = 4
    (version,) = cursor.numbers("I")
    if version not in _VERSIONS:
        raise CheckpointError(
            f"{path} is GGUF version {version}; expected one of {_VERSIONS} (little-endian)"
        )
    num_tensors, num_entries = cursor.numbers("Q", 2)
    metadata: dict[str, Any] = {}
    for _ in range(num_entries):
        key = cursor.text()
        (kind,) = cursor.numbers("I")
        metadata[key] = cursor.value(kind)
    entries = [_entry(path, cursor) for _ in range(num_tensors)]
    alignment = metadata.get("general.alignment", _ALIGNMENT)
    if type(alignment) is not int or alignment < 1:
        raise CheckpointError(_damaged(path, f"its alignment is {alignment!r}"))
    first = -(-cursor.place // alignment) * alignment
    tensors: dict[str, GGUFTensor] = {}
    for name, shape, kind, offset in entries:
        tensor = GGUFTensor(path, name, shape, kind, first + offset)
        if name in tensors:
            raise CheckpointError(_damaged(path, f"tensor {name} is listed twice"))
        if shape and shape[-1] % kind.weights:
            raise CheckpointError(
                _damaged(path, f"rows of {name} are not whole {kind.name} blocks: {shape}")
            )
        if tensor.start + tensor.num_bytes > len(cursor.data):
            raise CheckpointError(
                _damaged(
                    path,
                    f"tensor {name} ends at byte {tensor.start + tensor.num_bytes}, the file has "
                    f"{len(cursor.data)}",
                )
            )
        tensors[name] = tensor
    return GGUFFile(path, metadata, tensors)


def _entry(path: Path, cursor: _Cursor) -> tuple[str, tuple[int, ...], BlockType, int]:
    """Return name, shape, type and offset of the next tensor."""
    name = cursor.text()
    (num_dimensions,) = cursor.numbers("I")
    if num_dimensions > _MAX_DIMENSIONS:
        raise CheckpointError(_damaged(path, f"tensor {name} has {num_dimensions} dimensions"))
    shape = tuple(reversed(cursor.numbers("Q", num_dimensions)))
    (kind,) = cursor.numbers("I")
    (offset,) = cursor.numbers("Q")
    if kind not in BLOCK_TYPES:
        readable = ", ".join(known.name for known in BLOCK_TYPES.values())
        found = _OTHERS.get(kind, f"ggml type {kind}")
        raise CheckpointError(
            f"{path}: tensor {name} is stored as {found}, which is not read here; expected "
            f"{readable}: convert the model to one of them"
        )
    return name, shape, BLOCK_TYPES[kind], offset


def _damaged(path: Path, why: str) -> str:
    return f"{path} is not a whole GGUF file: {why}; copy or download it again"
