"""Texts on disk by number, and hashes that tell equal ones: what keeps big stages small in memory.

A store is a folder of two files: all texts end to end, and where each begins. It is written in one
pass, is whole or not there, and is read through the page cache.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from culet.atomic import new_folder

_TEXTS, _STARTS = "texts.jsonl", "starts.npy"


class TextStore(Sequence[Any]):
    """JSON values (texts, or texts with their titles) by number, read when asked for."""

    def __init__(self, folder: Path) -> None:
        self._starts = np.load(folder / _STARTS, mmap_mode="r")
        self._blob: np.ndarray = np.memmap(folder / _TEXTS, dtype=np.uint8, mode="r")

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return json.loads(self._blob[self._starts[index] : self._starts[index + 1]].tobytes())

    def since(self, first: int) -> Iterator[Any]:
        """Yield the values from a number on, read one after another."""
        return (self[i] for i in range(first, len(self)))


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
        number: [K], from 0; equal keys have equal numbers.
        first: [K], True where a key stands for the first time.
    """
    _, where, inverse = np.unique(keys, return_index=True, return_inverse=True)
    rank = np.empty(len(where), dtype=np.int64)
    rank[np.argsort(where)] = np.arange(len(where))
    first = np.zeros(len(keys), dtype=bool)
    first[where] = True
    return rank[inverse], first
