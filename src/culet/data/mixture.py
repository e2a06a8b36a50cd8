"""Which source and which records make up the batch of a step.

Everything follows from the seed and the step: the source of each step is drawn by weight, and a
source hands out its records in one shuffled order after another. So a run can begin at any step
and see exactly what an uninterrupted run would have seen, without saving a position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
        check_rank(rank, world_size)
        size, more = divmod(len(self.indices), world_size)
        first = rank * size + min(rank, more)
        stop = first + size + (rank < more)
        return Draw(self.source, self.indices[first:stop], self.first + first)


def check_rank(rank: int, world_size: int) -> None:
    """Raise InputError unless `rank` is one of `world_size` processes, counted from 0."""
    if not 0 <= rank < world_size:
        raise InputError(
            f"rank must be from 0 to world_size - 1, got rank {rank} of {world_size} processes"
        )


class Mixture:
    """A weighted set of sources; every batch comes from one of them.

    Args:
        sizes: Records in each source.
        weights: Share of the batches each source gets; any positive scale.
        batch_sizes: Pairs in a batch of each source.
        steps: Length of the run.
        seed: Decides sources and orders.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        weights: Sequence[float],
        batch_sizes: Sequence[int],
        *,
        steps: int,
        seed: int,
    ) -> None:
        total = float(sum(weights))
        if not sizes or not 0 < total < np.inf or min(weights) < 0:
            raise InputError(
                f"a mixture needs sources with weights that are not negative and sum above 0, "
                f"got weights {list(weights)}"
            )
        if min(sizes) < 1 or min(batch_sizes) < 2:
            raise InputError(
                "every source needs at least one record and a batch of two, got "
                f"{list(sizes)} records and batches of {list(batch_sizes)}"
            )
        self._sizes = list(sizes)
        self._batch_sizes = list(batch_sizes)
        self._seed = seed
        rng = np.random.default_rng([seed, 0])
        shares = np.array(weights, dtype=np.float64) / total
        self._source = rng.choice(len(sizes), size=steps, p=shares)
        self._turn = np.zeros(steps, dtype=np.int64)  # how often the source was drawn before
        for source in range(len(sizes)):
            mine = self._source == source
            self._turn[mine] = np.arange(mine.sum())
        self._shuffled: dict[tuple[int, int], np.ndarray] = {}

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
        return float((self._source == source).sum() * min(self._batch_sizes[source], size) / size)

    def _order(self, source: int, epoch: int) -> np.ndarray:
        """Return the shuffled order of a source in an epoch, keeping the last two in memory."""
        key = (source, epoch)
        if key not in self._shuffled:
            rng = np.random.default_rng([self._seed, 1, source, epoch])
            self._shuffled.pop((source, epoch - 2), None)
            self._shuffled[key] = rng.permutation(self._sizes[source])
        return self._shuffled[key]
