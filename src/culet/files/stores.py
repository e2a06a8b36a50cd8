"""Texts and vectors on disk, read by index: they keep large stages small in memory.

A store of texts is a folder of two files: all texts end to end, and the offset of each. It is
written in one pass and is complete or absent. Stores are read, not mapped: each page of a mapped
file that was read counts as memory of the process until the system reclaims it.
"""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from culet.files.atomic import new_folder

_TEXTS, _STARTS = "texts.jsonl", "starts.npy"
_AT_ONCE = 1024  # values that are read ahead


class TextStore(Sequence[Any]):
    """JSON values (texts, or texts with their titles) by index, read on demand."""

    def __init__(self, folder: Path) -> None:
        starts = np.load(folder / _STARTS, mmap_mode="r")
        self._length, self._header = len(starts) - 1, int(starts.offset)
        self._files = tuple(os.open(folder / name, os.O_RDONLY) for name in (_STARTS, _TEXTS))
        for file in self._files:
            weakref.finalize(self, os.close, file)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            first, stop, step = index.indices(len(self))
            return self._read(first, max(first, stop))[::step]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._read(index, index + 1)[0]

    def since(self, first: int) -> Iterator[Any]:
        """Yield the values from an index on, read in blocks."""
        for begin in range(first, len(self), _AT_ONCE):
            yield from self[begin : begin + _AT_ONCE]

    def _read(self, first: int, stop: int) -> list[Any]:
        """Return the values of a range of indices."""
        offsets, texts = self._files
        raw = read_all(offsets, 8 * (stop - first + 1), self._header + 8 * first)
        starts = np.frombuffer(raw, dtype=np.int64)
        blob = read_all(texts, int(starts[-1] - starts[0]), int(starts[0]))
        cuts = (starts - starts[0]).tolist()
        return [json.loads(blob[a:b]) for a, b in pairwise(cuts)]


def write_store(folder: Path, values: Iterable[Any]) -> TextStore:
    """Write a store, whole or not at all, and return it. There must be at least one value."""
    with new_folder(folder) as aside:
        starts = [np.zeros(1, dtype=np.int64)]
        with (aside / _TEXTS).open("wb") as file:
            source = iter(values)
            while part := [json.dumps(v).encode() + b"\n" for v in islice(source, 65_536)]:
                file.writelines(part)
                lengths = np.fromiter(map(len, part), dtype=np.int64, count=len(part))
                starts.append(starts[-1][-1] + np.cumsum(lengths))
        np.save(aside / _STARTS, np.concatenate(starts))
    return TextStore(folder)


class VectorRows(Protocol):
    """Rows of numbers: a matrix, or a reader of one."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Return some rows, by slice or by index."""


class VectorStore:
    """Half-precision rows [N, E] of a file that holds nothing else.

    Args:
        path: The file; rows appended later are not seen.
        width: E.
    """

    def __init__(self, path: Path, width: int) -> None:
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        self._width = width
        self._length = os.fstat(self._file).st_size // (2 * width)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Return some rows, float16: of a slice without steps, or of indices in any order."""
        if isinstance(rows, slice):
            first, stop, _ = rows.indices(len(self))
            return self._read(first, stop)
        rows = np.asarray(rows)
        if (np.diff(rows) > 0).all():
            return self._gather(rows)
        wanted, place = np.unique(rows, return_inverse=True)
        return self._gather(wanted)[place]

    def _read(self, first: int, stop: int) -> np.ndarray:
        size, begin = 2 * self._width * max(0, stop - first), 2 * self._width * first
        return np.frombuffer(read_all(self._file, size, begin), np.float16).reshape(-1, self._width)

    def _gather(self, rows: np.ndarray) -> np.ndarray:
        """Return rows of ascending indices; consecutive ones are read together."""
        found = np.empty((len(rows), self._width), dtype=np.float16)
        if not len(rows):
            return found
        size, raw = 2 * self._width, found.data.cast("B")
        begins = np.concatenate([[0], np.flatnonzero(np.diff(rows) != 1) + 1])
        firsts, ends = rows[begins].tolist(), [*begins[1:].tolist(), len(rows)]
        for first, begin, end in zip(firsts, begins.tolist(), ends, strict=True):
            part = raw[begin * size : end * size]
            if os.preadv(self._file, [part], first * size) < len(part):
                part[:] = read_all(self._file, len(part), first * size)
        return found


def read_all(file: int, size: int, begin: int) -> bytes:
    """Return `size` bytes of an open file; the system may give fewer at a time."""
    raw = os.pread(file, size, begin)
    while len(raw) < size:
        more = os.pread(file, size - len(raw), begin + len(raw))
        if not more:
            raise EOFError(f"a file of vectors or texts ends {size - len(raw)} bytes too early")
        raw += more
    return raw


class RowSubset:
    """A view of some rows of others."""

    def __init__(self, of: VectorRows, rows: np.ndarray) -> None:
        self._of, self._rows = of, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Return some of the rows."""
        return self._of[self._rows[rows]]
