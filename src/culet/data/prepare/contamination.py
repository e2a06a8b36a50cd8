"""What training rows share with evaluation tasks: equal texts, and long runs of equal words.

A training row hits a task if one of its texts, its title among them,

- has a run of `words` words that a text of the task has too (13 by default, as GPT-3 was checked:
  Brown et al. 2020, arXiv 2005.14165, appendix C); or
- is, word for word, one of the task's texts or titles. So texts shorter than such a run are found
  as well, unless they have fewer than `shortest` words: "Yes." is in every corpus.

Case, punctuation and Unicode forms do not count. The index holds 64-bit hashes of the tasks' runs
and texts; memory grows with the tasks, never with the training rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from culet.data.prepare.shingles import mixed, token_runs
from culet.errors import RecipeError
from culet.text.keys import normalised

_BATCH = 2048  # texts that are hashed together
_SLICES = 16  # of the index while it is sorted
_SIEVE_BITS = 26  # 8 MiB: answers most look-ups at once


@dataclass(frozen=True)
class ContaminationConfig:
    """Search for evaluation texts among training rows.

    Attributes:
        tasks: Folders of evaluation tasks (each task a folder with task.json).
        words: Words in a run that tells; twice as many characters in scripts without spaces.
        shortest: Words a whole text must have to count when it equals one of a task.
        remove: Rows that hit go; otherwise they are only counted.
        only: Names of the tasks that are checked; empty means all.
    """

    tasks: tuple[Path, ...]
    words: int = 13
    shortest: int = 5
    remove: bool = True
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.tasks:
            raise RecipeError("contamination.tasks must name at least one folder of tasks")
        if self.words < 2 or self.shortest < 1:
            raise RecipeError(
                "contamination.words must be at least 2 and shortest 1, got "
                f"{self.words} and {self.shortest}"
            )


@dataclass(frozen=True)
class Overlap:
    """One training text that shares something with a task.

    Attributes:
        text: Index of the text among those that were looked up.
        owner: What it shares it with, as named when the index was built: "task/query".
        how: "equal" or "run".
    """

    text: int
    owner: str
    how: str


class OverlapIndex:
    """All runs and whole texts of evaluation tasks, each with its owners.

    Args:
        texts: (owner, text) of every evaluation text; an owner is a task and the role its text
            has there, and their number must stay under 65,536.
        words: As in `ContaminationConfig`.
        shortest: As in `ContaminationConfig`.
    """

    def __init__(self, texts: Iterable[tuple[str, str]], *, words: int, shortest: int) -> None:
        self.words = words
        self.shortest = shortest
        self.owners: list[str] = []
        self.texts = 0
        numbers: dict[str, int] = {}
        runs: list[tuple[np.ndarray, np.ndarray]] = []
        wholes: list[tuple[np.ndarray, np.ndarray]] = []
        for batch in _batches(texts):
            owners = np.array([numbers.setdefault(owner, len(numbers)) for owner, _ in batch])
            self.texts += len(batch)
            found, starts, whole, length = token_runs([normalised(t) for _, t in batch], words)
            runs.append((found, np.repeat(owners, np.diff(starts)).astype(np.uint16)))
            long = length >= shortest
            wholes.append((whole[long], owners[long].astype(np.uint16)))
        self.owners = list(numbers)
        self._runs = _Table(runs)
        self._wholes = _Table(wholes)

    def hits(self, texts: Sequence[str]) -> list[Overlap]:
        """Return what the texts share with evaluation tasks: at most one hit a text and owner."""
        found, starts, whole, length = token_runs([normalised(t) for t in texts], self.words)
        long = np.flatnonzero(length >= self.shortest)
        equal = self._wholes.find(whole[long])
        hits = {(int(long[i]), owner): "equal" for i, owner in equal}
        shared = self._runs.find(found)
        places = np.searchsorted(starts, [i for i, _ in shared], "right") - 1
        for (_, owner), place in zip(shared, places.tolist(), strict=True):
            hits.setdefault((place, owner), "run")
        return [
            Overlap(text, self.owners[owner], how) for (text, owner), how in sorted(hits.items())
        ]


class _Table:
    """Hashes to owners: sorted arrays behind a sieve of bits."""

    def __init__(self, parts: list[tuple[np.ndarray, np.ndarray]]) -> None:
        slices = [_sorted(parts, lead) for lead in range(_SLICES)]
        self.hashes = np.concatenate([hashes for hashes, _ in slices])
        self.owners = np.concatenate([owners for _, owners in slices])
        self._sieve = np.zeros(1 << (_SIEVE_BITS - 3), np.uint8)
        byte, bit = _places(self.hashes)
        np.bitwise_or.at(self._sieve, byte, bit)

    def find(self, hashes: np.ndarray) -> list[tuple[int, int]]:
        """Return (index of the hash, owner) of each that is here."""
        byte, bit = _places(hashes)
        likely = np.flatnonzero(self._sieve[byte] & bit)
        first = np.searchsorted(self.hashes, hashes[likely], "left")
        last = np.searchsorted(self.hashes, hashes[likely], "right")
        return [
            (place, owner)
            for place, low, high in zip(likely.tolist(), first.tolist(), last.tolist(), strict=True)
            for owner in self.owners[low:high].tolist()
        ]


def _places(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return byte and bit of the sieve that stand for each hash."""
    low = mixed(hashes) & np.uint64((1 << _SIEVE_BITS) - 1)
    return low >> np.uint64(3), np.left_shift(1, low & np.uint64(7)).astype(np.uint8)


def _sorted(parts: list[tuple[np.ndarray, np.ndarray]], lead: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the different (hash, owner) whose hash has some leading bits; a slice takes memory."""
    shift = np.uint64(64 - (_SLICES - 1).bit_length())
    chosen = [hashes >> shift == lead for hashes, _ in parts]
    pairs = list(zip(parts, chosen, strict=True))
    hashes = np.concatenate([h[c] for (h, _), c in pairs] or [np.zeros(0, np.uint64)])
    owners = np.concatenate([o[c] for (_, o), c in pairs] or [np.zeros(0, np.uint16)])
    order = np.lexsort((owners, hashes))
    hashes, owners = hashes[order], owners[order]
    fresh = np.ones(len(hashes), bool)
    fresh[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
    return hashes[fresh], owners[fresh]


def _batches(texts: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    source = iter(texts)
    while batch := list(islice(source, _BATCH)):
        yield batch
