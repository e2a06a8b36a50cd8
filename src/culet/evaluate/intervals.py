"""Bootstrap intervals: how much a score moves with the items a task happens to have.

The items of a task (pairs, queries, test rows, draws of a clustering) are drawn again with
replacement, `REPLICATES` times, and the main score is computed for each draw (Efron 1979). The
draws follow from the name of the task and subset alone, so that every model meets the same ones
and the difference of two models has an interval of its own: the paired bootstrap.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

REPLICATES = 200
LEVEL = 0.95

Floats = NDArray[np.float64]


def draws(name: str, count: int) -> NDArray[np.intp]:
    """Return the drawn items of every replicate [REPLICATES, count], the same for each model.

    Args:
        name: Of the task and its subset.
        count: How many items there are.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return rng.integers(0, count, size=(REPLICATES, count))


def of_means(name: str, values: Sequence[float] | Floats) -> Floats:
    """Return the replicates of a score that is the mean of its items' own scores."""
    items = np.asarray(values, dtype=np.float64)
    return np.asarray(items[draws(name, len(items))].mean(axis=1))


def of_function(name: str, count: int, score: Callable[[NDArray[np.intp]], float]) -> Floats:
    """Return the replicates of a score that is some other function of the drawn items."""
    scores = np.array([score(rows) for rows in draws(name, count)])
    defined = np.isfinite(scores)  # a draw of equal gold scores has no correlation
    return np.where(defined, scores, scores[defined].mean() if defined.any() else 0.0)


def interval(replicates: Floats) -> tuple[float, float]:
    """Return the bounds between which LEVEL of the replicates lie."""
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(replicates, [tail, 100 - tail])
    return float(low), float(high)
