"""Grouping of texts of different lengths into rectangles of tokens with little padding.

The sides of a rectangle come from short lists of sizes, because the plugin prepares and keeps code
for every new shape: with few shapes its memory stays flat and nothing is prepared twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Up to the first length, round up to a multiple of the second.
_LENGTH_STEPS = ((64, 4), (128, 8), (512, 16), (768, 64), (1 << 30, 128))


def rectangles(lengths: Sequence[int], budget: int, *, start_cost: float) -> list[np.ndarray]:
    """Return the cheapest partition of texts into rectangles, longest texts first.

    A rectangle costs its tokens, padding included, and `start_cost`. Longest first, so that memory
    peaks at once and not after an hour. A text longer than the budget forms its own rectangle;
    others hold 1, 2, 3, 4, 6, 8, 12, 16, … texts.

    Args:
        lengths: Tokens of each text.
        budget: Maximum tokens of a rectangle, padding included.
        start_cost: What starting a rectangle costs, in tokens.

    Returns:
        Indices of texts, an array per rectangle.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    rounded = [round_length(lengths[i], 1 << 30) for i in order]
    counts = _row_counts(budget)
    cost = [0.0] * (len(order) + 1)  # of the texts from this index on
    taken = [1] * len(order)
    for place in range(len(order) - 1, -1, -1):
        length = rounded[place]
        best = start_cost + length + cost[place + 1]
        for rows in counts:
            if rows * length > budget or place + rows > len(order):
                break
            this = start_cost + rows * length + cost[place + rows]
            if this <= best:
                best, taken[place] = this, rows
        cost[place] = best
    found = []
    place = 0
    while place < len(order):
        found.append(order[place : place + taken[place]])
        place += taken[place]
    return found


def round_length(length: int, longest: int) -> int:
    """Return the next length the engine computes with, at most `longest`."""
    for limit, step in _LENGTH_STEPS:
        if length <= limit:
            return min(-(-length // step) * step, max(longest, length))
    return length


def _row_counts(limit: int) -> list[int]:
    """Return 1, 2, 3, 4, 6, 8, 12, 16, … up to `limit`."""
    powers = [1 << bit for bit in range(limit.bit_length())]
    return sorted({n for power in powers for n in (power, power * 3 // 2) if 1 <= n <= limit})
