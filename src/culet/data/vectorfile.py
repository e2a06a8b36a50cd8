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

_GAP = 16  # rows that are rather read than passed over


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
        wanted, place = np.unique(rows, return_inverse=True)
        parts = np.split(wanted, np.flatnonzero(np.diff(wanted) > _GAP) + 1)
        found = [self._read(int(p[0]), int(p[-1]) + 1)[p - p[0]] for p in parts if len(p)]
        read = np.concatenate(found) if found else self._read(0, 0)
        return read[place]

    def _read(self, first: int, stop: int) -> np.ndarray:
        size, begin = 2 * self._width * max(0, stop - first), 2 * self._width * first
        return np.frombuffer(read_all(self._file, size, begin), np.float16).reshape(-1, self._width)


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
