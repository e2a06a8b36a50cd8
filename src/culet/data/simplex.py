"""Mixtures as points of a cube: K shares that sum to 1 and K − 1 free numbers from 0 to 1.

A search that moves the shares themselves wastes points outside the simplex or pulls them back to
its edge. Here the square roots of the shares, which lie on a sphere, are given by angles: share i
takes sin² of its angle of what is left. Equal steps then mean equally different mixtures near a
corner and in the middle (the Fisher metric), and scores that rise steeply from a share of 0, as
those of training do, are smooth: measured against breaking off even parts, in `LOG.md`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def to_shares(point: Sequence[float]) -> np.ndarray:
    """Return the K shares of a point of K − 1 numbers from 0 to 1 (angles up to π/2)."""
    shares, left = [], 1.0
    for number in point:
        taken = float(np.sin(np.pi / 2 * min(max(number, 0.0), 1.0)) ** 2)
        shares.append(left * taken)
        left *= 1.0 - taken
    return np.array([*shares, left])


def to_point(shares: Sequence[float]) -> list[float]:
    """Return the point of some shares; any positive scale will do."""
    rest = np.array(shares, dtype=np.float64) / float(sum(shares))
    point = []
    for i in range(len(rest) - 1):
        left = float(rest[i:].sum())
        taken = min(1.0, float(rest[i]) / left) if left > 0 else 0.0
        point.append(float(2 / np.pi * np.arcsin(np.sqrt(taken))))
    return point
