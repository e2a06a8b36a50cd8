"""safetensors files as float32 arrays, memory-mapped, without torch.

Format: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}},
then the data, whose offsets must cover the rest of the file without hole or overlap. Read here
rather than by the safetensors package because numpy has no bfloat16, and because the weights
must stay mapped and not be copied; written here so that one tensor at a time is in memory.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from culet.errors import CheckpointError
from culet.files.atomic import new_file
from culet.files.lookalikes import unreadable

StoredDtype = Literal["float32", "bfloat16"]
_READABLE: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
_CODES: dict[str, np.dtype[Any]] = {"I8": np.dtype("i1"), "U8": np.dtype("u1")}
_UNREADABLE = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    OverflowError,
    RecursionError,
)
_PIECE_NUMBERS = 1 << 18
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file: where it lies and how it is written down."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int

    def float32(self) -> np.ndarray:
        """Return the values as float32; float32 data is a read-only view of the file."""
        return to_float32(self.mapped(), self.dtype)

    def pieces(self) -> Iterator[np.ndarray]:
        """Yield the values as float32, some rows at a time, read and not mapped."""
        dtype = _READABLE[self.dtype]
        columns = math.prod(self.shape[1:])
        step, place = max(1, _PIECE_NUMBERS // max(columns, 1)), self.start
        for first in range(0, self.shape[0] if columns else 0, step):
            rows = min(step, self.shape[0] - first)
            raw = np.fromfile(self.path, dtype, rows * columns, offset=place)
            place += raw.nbytes
            yield to_float32(raw, self.dtype).reshape(rows, *self.shape[1:])

    def mapped(self, *, private: bool = False) -> np.ndarray:
        """Return a view of the file: float32, float16, codes, or bfloat16's bits.

        Read-only, unless it is `private`: then what is written stays in memory.
        """
        dtype = (_READABLE | _CODES)[self.dtype]
        if not math.prod(self.shape):
            return np.zeros(self.shape, dtype)  # an empty range cannot be mapped
        mode: Literal["c", "r"] = "c" if private else "r"
        return np.memmap(self.path, dtype=dtype, mode=mode, offset=self.start, shape=self.shape)


def to_float32(raw: np.ndarray, dtype: str) -> np.ndarray:
    """Return stored values as float32; `dtype` is the format's name of what they are."""
    if dtype == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw if dtype == "F32" else raw.astype(np.float32)


def read_tensors(path: Path, *, codes: bool = False) -> dict[str, StoredTensor]:
    """Return the tensors of a safetensors file by name.

    Args:
        path: The file.
        codes: Whether 8-bit integers are welcome beside floats.

    Raises:
        CheckpointError: If the file is truncated, damaged, or holds another dtype.
    """
    readable = _READABLE | _CODES if codes else _READABLE
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            if len(prefix) < 8:
                raise CheckpointError(_damaged(path, f"it has only {size} bytes"))
            header_bytes = int.from_bytes(prefix, "little")
            if header_bytes > min(size - 8, _MAX_HEADER_BYTES):
                raise CheckpointError(
                    _damaged(path, f"its header claims {header_bytes} bytes of {size}")
                )
            raw = file.read(header_bytes)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        entries = {
            name: (
                str(e["dtype"]),
                tuple(int(n) for n in e["shape"]),
                int(e["data_offsets"][0]),
                int(e["data_offsets"][1]),
            )
            for name, e in header.items()
        }
    except _UNREADABLE as error:
        raise CheckpointError(_damaged(path, f"its header is not readable ({error})")) from error

    data_start, position, tensors = 8 + header_bytes, 0, {}
    for name, (dtype, shape, start, stop) in sorted(entries.items(), key=lambda e: e[1][2]):
        if dtype not in readable:
            raise CheckpointError(
                f"{path}: tensor {name} has dtype {dtype}; expected one of {sorted(readable)}"
            )
        expected = math.prod(shape) * readable[dtype].itemsize
        if start != position or stop - start != expected or min(shape, default=0) < 0:
            raise CheckpointError(
                _damaged(path, f"tensor {name} does not lie where its shape {shape} says")
            )
        position = stop
        tensors[name] = StoredTensor(path, name, dtype, shape, data_start + start)
    if data_start + position != size:
        raise CheckpointError(
            _damaged(path, f"its tensors need {data_start + position} bytes, the file has {size}")
        )
    return tensors


def write_tensors(
    path: Path, arrays: Mapping[str, np.ndarray], *, dtype: StoredDtype = "float32"
) -> None:
    """Write arrays as a safetensors file, whole or not at all.

    Args:
        path: The file.
        arrays: float32 arrays by name; int8 and uint8 arrays are stored as they are.
        dtype: What to store; bfloat16 rounds to nearest, ties to even.
    """
    head, _ = _header({n: (*_stored(array, dtype), array.shape) for n, array in arrays.items()})
    with new_file(path) as aside, aside.open("wb") as file:
        file.write(head)
        for array in arrays.values():
            if _stored(array, dtype)[1] == 1:
                file.write(np.ascontiguousarray(array).data)
            else:
                file.write(_encode(np.ascontiguousarray(array, dtype="<f4"), dtype).data)


@contextmanager
def new_tensors(
    path: Path, shapes: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
) -> Iterator[dict[str, np.ndarray]]:
    """Yield arrays that are views of a new safetensors file, to be filled, each when it suits.

    The file is whole or not there. Several processes may write the same one at once.

    Args:
        path: The file.
        shapes: The dtype (float32, int8, uint8) and shape of each array.

    Raises:
        InputError: If the file cannot be written, or has no room.
    """
    kinds = {dtype: (kind, dtype.itemsize) for kind, dtype in (_CODES | _READABLE).items()}
    head, starts = _header({name: (*kinds[d], shape) for name, (d, shape) in shapes.items()})
    with new_file(path, together=True) as aside:
        with aside.open("wb") as file:
            file.write(head)
            size = max(
                start + d.itemsize * math.prod(shape)
                for (d, shape), start in zip(shapes.values(), starts, strict=True)
            )
            # room is claimed now: a full disk would else kill the process at some later store
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            file.truncate(size)
        arrays = {
            name: np.memmap(aside, dtype=dtype, mode="r+", offset=start, shape=shape)
            for (name, (dtype, shape)), start in zip(shapes.items(), starts, strict=True)
        }
        yield dict(arrays)
        for array in arrays.values():
            array.flush()


def _header(
    entries: Mapping[str, tuple[str, int, tuple[int, ...]]],
) -> tuple[bytes, list[int]]:
    """Return what a file begins with, and where in the file each tensor starts.

    Args:
        entries: By name: the format's name of the dtype, bytes an item, shape.
    """
    header, starts, position = {}, [], 0
    for name, (kind, item, shape) in entries.items():
        stop = position + math.prod(shape) * item
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [position, stop]}
        starts.append(position)
        position = stop
    # transformers refuses a file whose metadata does not name its framework
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, [8 + len(text) + start for start in starts]


def _stored(array: np.ndarray, dtype: StoredDtype) -> tuple[str, int]:
    """Return how an array is stored: the format's name of its dtype, and bytes an item."""
    if array.dtype in (np.int8, np.uint8):
        return ("I8" if array.dtype == np.int8 else "U8"), 1
    return ("BF16", 2) if dtype == "bfloat16" else ("F32", 4)


def _encode(array: np.ndarray, dtype: StoredDtype) -> np.ndarray:
    if dtype == "float32":
        return array
    bits = array.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    rounded = np.where(np.isnan(array), (bits >> 16) | 0x40, rounded)  # rounding may lose a NaN
    return rounded.astype("<u2")


def _damaged(path: Path, why: str) -> str:
    return unreadable(path, "a whole safetensors file", f"{why}; copy or download it again")
