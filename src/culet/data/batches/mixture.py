"""Which source and which records make up the batch of a step.

Everything follows from the seed and the step: the source of each step is drawn by weight, and a
source hands out its records in one shuffled order after another. So a run can begin at any step
and see exactly what an uninterrupted run would have seen, without saving a position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from culet.data.batches.shuffle import Orders, part_of
from culet.errors import InputError


@dataclass(frozen=True)
class Draw:
    """The records of one step: a source and the indices of its records.

    Attributes:
        source: Number of the source.
        indices: Its records.
        first: Place of the first of them in the whole batch; above 0 in a part of one.
    """

    source: int
    indices: np.ndarray
    first: int = 0

    def part(self, rank: int, world_size: int) -> Draw:
        """Return the share of one process: equal parts in order, the first ones larger by one.

        It may be empty where a source has fewer records than there are processes.
        """
        part = part_of(len(self.indices), rank, world_size)
        return Draw(self.source, self.indices[part], self.first + part.start)


class Mixture:
    """A weighted set of sources; every batch comes from one of them.

    Args:
        sizes: Records in each source.
        weights: Share of the batches each source gets; any positive scale.
        batch_sizes: Pairs in a batch of each source.
        steps: Length of the run.
        seed: Decides sources and orders.
        max_batches: Batches each source may give in the whole run, None for any number. A source
            that has given them is drawn no more, and the others keep their shares of the rest.

    Raises:
        InputError: If nothing can be drawn, or the limits leave fewer batches than steps.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        weights: Sequence[float],
        batch_sizes: Sequence[int],
        *,
        steps: int,
        seed: int,
        max_batches: Sequence[int | None] | None = None,
    ) -> None:
        check_weights(weights)
        if min(sizes) < 1 or min(batch_sizes) < 2:
            raise InputError(
                "every source needs at least one record and a batch of two, got "
                f"{list(sizes)} records and batches of {list(batch_sizes)}"
            )
        self._sizes = list(sizes)
        self._batch_sizes = list(batch_sizes)
        self._order = Orders(sizes, seed)
        rng = np.random.default_rng([seed, 0])
        shares = np.array(weights, dtype=np.float64) / float(sum(weights))
        self._source = _sources(rng.random(steps), shares, max_batches or [None] * len(sizes))
        self._turn = np.zeros(steps, dtype=np.int64)  # how often the source was drawn before
        for source in range(len(sizes)):
            mine = self._source == source
            self._turn[mine] = np.arange(mine.sum())

    def draw(self, step: int) -> Draw:
        """Return the records of a step (from 0)."""
        source = int(self._source[step])
        size, batch = self._sizes[source], self._batch_sizes[source]
        batch = min(batch, size)
        first = int(self._turn[step]) * batch
        positions = np.arange(first, first + batch)
        indices = np.empty(batch, dtype=np.int64)
        for epoch in np.unique(positions // size):
            here = positions // size == epoch
            indices[here] = self._order(source, int(epoch))[positions[here] % size]
        return Draw(source, indices)

    def epochs(self, source: int) -> float:
        """Return how many times the run goes through a source."""
        size = self._sizes[source]
        return self.batches(source) * min(self._batch_sizes[source], size) / size

    def batches(self, source: int) -> int:
        """Return how many batches of the run are from a source."""
        return int((self._source == source).sum())


def check_weights(weights: Sequence[float]) -> None:
    """Raise InputError unless shares can be made of these weights."""
    if not weights or not min(weights) >= 0 or not 0 < sum(weights) < np.inf:
        raise InputError(
            "a mixture needs sources with weights that are not negative and sum above 0, got "
            f"weights {list(weights)}"
        )


def shares(
    sizes: Sequence[int], weights: Sequence[float], *, exponent: float, cap: int | None
) -> list[float]:
    """Return the share of the batches of each source, weight × min(size, cap)^exponent, sum 1.

    The exponent is the inverse of what is called the temperature of a mixture, and the cap its
    artificial limit on sizes (T5, arXiv 1910.10683, section 3.5.2, with weights all 1).
    """
    counted = np.minimum(np.array(sizes, dtype=np.float64), np.inf if cap is None else cap)
    raw = np.array(weights, dtype=np.float64) * counted**exponent
    total = raw.sum()
    return list((raw / total if 0 < total < np.inf else raw).tolist())


def _sources(
    uniform: np.ndarray, shares: np.ndarray, max_batches: Sequence[int | None]
) -> np.ndarray:
    """Return the source of each step from its uniform number, none above its number of batches.

    Each round draws all steps that are left; where a source first exceeds its number, the steps
    from there on are drawn again without it. So a step depends on those before, never after.
    """
    drawn = np.empty(len(uniform), dtype=np.int64)
    left = [len(uniform) if number is None else number for number in max_batches]
    open_shares = np.where(np.array(left) > 0, shares, 0.0)
    first = 0
    while first < len(uniform):
        if not open_shares.sum() > 0:
            raise InputError(
                f"the sources give {first} batches within their limits, and the run has "
                f"{len(uniform)} steps; allow more epochs, or make the run shorter"
            )
        bounds = np.cumsum(open_shares / open_shares.sum())
        # the last bound may fall short of 1 by rounding
        last = int(np.flatnonzero(open_shares)[-1])
        part = np.minimum(np.searchsorted(bounds, uniform[first:], side="right"), last)
        stop = len(part)
        for source in np.flatnonzero(open_shares):
            where = np.flatnonzero(part == source)
            if len(where) > left[source]:
                stop = min(stop, int(where[left[source]]))
        drawn[first : first + stop] = part[:stop]
        for source in np.flatnonzero(open_shares):
            left[source] -= int((part[:stop] == source).sum())
            if left[source] == 0:
                open_shares[source] = 0.0
        first += stop
    return drawn
