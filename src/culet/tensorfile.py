"""safetensors files as float32 arrays, memory-mapped, without torch.

Format: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}},
then the data, whose offsets must cover the rest of the file without hole or overlap. Read here
rather than by the safetensors package because numpy has no bfloat16, and because the weights
must stay mapped and not be copied; written here so that one tensor at a time is in memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from culet.atomic import new_file
from culet.errors import CheckpointError

StoredDtype = Literal["float32", "bfloat16"]
_READABLE: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
_UNREADABLE = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    OverflowError,
    RecursionError,
)
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
        dtype = _READABLE[self.dtype]
        raw: np.ndarray = (
            np.memmap(self.path, dtype=dtype, mode="r", offset=self.start, shape=self.shape)
            if math.prod(self.shape)
            else np.zeros(self.shape, dtype)  # an empty range cannot be mapped
        )
        if self.dtype == "BF16":
            return (raw.astype(np.uint32) << 16).view(np.float32)
        return raw if self.dtype == "F32" else raw.astype(np.float32)


def read_tensors(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a safetensors file by name.

    Raises:
        CheckpointError: If the file is truncated, damaged, or holds a dtype that is no float.
    """
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
        if dtype not in _READABLE:
            raise CheckpointError(
                f"{path}: tensor {name} has dtype {dtype}; expected one of {sorted(_READABLE)}"
            )
        expected = math.prod(shape) * _READABLE[dtype].itemsize
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
    """Write float32 arrays as a safetensors file, whole or not at all.

    Args:
        path: The file.
        arrays: Arrays by name.
        dtype: What to store; bfloat16 rounds to nearest, ties to even.
    """
    item, header, position = (2 if dtype == "bfloat16" else 4), {}, 0
    for name, array in arrays.items():
        stop = position + array.size * item
        header[name] = {
            "dtype": "BF16" if dtype == "bfloat16" else "F32",
            "shape": list(array.shape),
            "data_offsets": [position, stop],
        }
        position = stop
    # transformers refuses a file whose metadata does not name its framework
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    with new_file(path) as aside, aside.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(_encode(np.ascontiguousarray(array, dtype="<f4"), dtype).data)


def _encode(array: np.ndarray, dtype: StoredDtype) -> np.ndarray:
    if dtype == "float32":
        return array
    bits = array.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    rounded = np.where(np.isnan(array), (bits >> 16) | 0x40, rounded)  # rounding may lose a NaN
    return rounded.astype("<u2")


def _damaged(path: Path, why: str) -> str:
    return f"{path} is not a whole safetensors file: {why}; copy or download it again"
