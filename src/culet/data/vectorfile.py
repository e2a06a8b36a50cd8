"""Vectors in a file, read when they are asked for.

A mapped file would do the same with less code, but each page that was looked at counts as memory of
the process until the system wants it back, and grows with the rows.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Vectors(Protocol):
    """Rows of numbers: a matrix, or what reads one."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Return some rows, by slice or by number."""


class VectorFile:
    """Half-precision rows [N, E] of a file that holds nothing else.

    Args:
        path: The file; what is appended later is not seen.
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
        """Return some rows, float16: of a slice without steps, or of numbers in any order."""
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
        """Return rows whose numbers rise; those that follow each other are read at once."""
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
    """Return so many bytes of an open file; the system may give fewer at a time."""
    raw = os.pread(file, size, begin)
    while len(raw) < size:
        more = os.pread(file, size - len(raw), begin + len(raw))
        if not more:
            raise EOFError(f"a file of vectors or texts ends {size - len(raw)} bytes too early")
        raw += more
    return raw


class Members:
    """Some rows of others, as if they stood alone."""

    def __init__(self, of: Vectors, rows: np.ndarray) -> None:
        self._of, self._rows = of, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Return some of the rows."""
        return self._of[self._rows[rows]]
