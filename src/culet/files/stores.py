"""Texts on disk by number, and hashes that tell equal ones: what keeps big stages small in memory.

A store is a folder of two files: all texts end to end, and where each begins. It is written in one
pass, is whole or not there, and is read, not mapped: the pages of a mapped file would count as
memory of the process.
"""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
import weakref
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from culet.data.vectorfile import read_all
from culet.files.atomic import new_folder

_TEXTS, _STARTS = "texts.jsonl", "starts.npy"
_AT_ONCE = 1024  # values that are read ahead


class TextStore(Sequence[Any]):
    """JSON values (texts, or texts with their titles) by number, read when asked for."""

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
        """Yield the values from a number on, read some at a time."""
        for begin in range(first, len(self), _AT_ONCE):
            yield from self[begin : begin + _AT_ONCE]

    def _read(self, first: int, stop: int) -> list[Any]:
        """Return the values of some numbers in a row."""
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


def normalized(text: str) -> str:
    """Return a text without case, surplus white space and forms of width (Unicode's NFKC)."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def key(*parts: str) -> int:
    """Return a 64-bit hash of some texts, signed: of ten million, two agree by chance 3 in 10⁶."""
    digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def numbered(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each key's number in order of first occurrence, and where those occurrences are.

    Args:
        keys: [K], with repeats.

    Returns:
        number: int32 [K], from 0; equal keys have equal numbers.
        first: [K], True where a key stands for the first time.
    """
    order = np.argsort(keys, kind="stable")
    known = keys[order]
    begins = np.empty(len(keys), dtype=bool)
    begins[:1], begins[1:] = True, known[1:] != known[:-1]
    del known
    where = order[begins]  # of each distinct key, in order of keys
    rank = np.empty(len(where), dtype=np.int32)
    rank[np.argsort(where)] = np.arange(len(where), dtype=np.int32)
    number = np.empty(len(keys), dtype=np.int32)
    number[order] = np.repeat(rank, np.diff(np.append(np.flatnonzero(begins), len(keys))))
    first = np.zeros(len(keys), dtype=bool)
    first[where] = True
    return number, first
