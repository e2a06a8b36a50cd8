"""Which example of which source stands in each place of each batch.

Batches mix their sources example by example, as language-model training does (a contrastive batch
comes from one source; see `culet.data.batches.mixture`). The shares hold exactly, to one example,
in every batch and over any number of them, and a source hands out its examples in one shuffled
order after another. All follows from the seed and the step, so a run can begin at any step and see
what an uninterrupted run would have seen, without saving a position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from culet.data.batches.shuffle import Orders
from culet.errors import InputError


@dataclass(frozen=True)
class Slot:
    """One place of a batch.

    Attributes:
        source: Number of the source.
        epoch: How often the source was gone through before.
        index: Which of its examples.
    """

    source: int
    epoch: int
    index: int


class Slots:
    """The plan of a run.

    Args:
        sizes: Examples in each source.
        weights: Share of the examples each source gets; any positive scale.
        batch_size: Examples in a batch.
        seed: Decides the orders.

    Raises:
        InputError: If there is nothing to draw from.
    """

    def __init__(
        self, sizes: Sequence[int], weights: Sequence[float], *, batch_size: int, seed: int
    ) -> None:
        total = float(sum(weights))
        if not sizes or min(sizes) < 1 or min(weights) < 0 or not 0 < total < np.inf:
            raise InputError(
                "examples need sources that are not empty, with weights that are not negative and "
                f"sum above 0; got {list(sizes)} examples and weights {list(weights)}"
            )
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        self._sizes = list(sizes)
        self._bounds = np.concatenate([[0.0], np.cumsum(np.array(weights) / total)])
        self._bounds[-1] = 1.0
        self._batch_size = batch_size
        self._order = Orders(sizes, seed)

    def draw(self, step: int) -> list[Slot]:
        """Return the places of the batch of a step (from 0), sources in order."""
        before, after = self._given(step), self._given(step + 1)
        slots = []
        for source, size in enumerate(self._sizes):
            for position in range(before[source], after[source]):
                epoch, place = divmod(position, size)
                index = int(self._order(source, epoch)[place])
                slots.append(Slot(source, epoch, index))
        return slots

    def epochs(self, source: int, steps: int) -> float:
        """Return how many times a run of `steps` goes through a source."""
        return self._given(steps)[source] / self._sizes[source]

    def _given(self, steps: int) -> list[int]:
        """Return how many examples each source has given in the first steps; they sum exactly."""
        reached = np.floor(self._bounds * (self._batch_size * steps) + 0.5).astype(np.int64)
        return [int(n) for n in np.diff(reached)]
