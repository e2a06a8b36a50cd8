"""What every plan of batches has: orders that follow from the seed, and the part of a process."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from culet.errors import InputError, RecipeError


class Orders:
    """The shuffled orders in which sources hand out what they have, one an epoch.

    Args:
        sizes: Records or examples in each source.
        seed: Decides the orders.
    """

    def __init__(self, sizes: Sequence[int], seed: int) -> None:
        self._sizes = list(sizes)
        self._seed = seed
        self._kept: dict[tuple[int, int], np.ndarray] = {}

    def __call__(self, source: int, epoch: int) -> np.ndarray:
        """Return the order of a source in an epoch; the last two stay in memory."""
        key = (source, epoch)
        if key not in self._kept:
            rng = np.random.default_rng([self._seed, 1, source, epoch])
            self._kept.pop((source, epoch - 2), None)
            self._kept[key] = rng.permutation(self._sizes[source])
        return self._kept[key]


def check_seed(seed: int) -> None:
    """Raise RecipeError unless every generator of random numbers takes this seed."""
    if not 0 <= seed < 1 << 63:
        raise RecipeError(f"seed must be from 0 to 2^63 - 1, got {seed}")


def part_of(number: int, rank: int, world_size: int) -> slice:
    """Return one process's part of a batch: equal parts in order, the first larger by one."""
    check_rank(rank, world_size)
    size, more = divmod(number, world_size)
    first = rank * size + min(rank, more)
    return slice(first, first + size + (rank < more))


def check_rank(rank: int, world_size: int) -> None:
    """Raise InputError unless `rank` is one of `world_size` processes, counted from 0."""
    if not 0 <= rank < world_size:
        raise InputError(
            f"rank must be from 0 to world_size - 1, got rank {rank} of {world_size} processes"
        )
