"""Unit length, and similarities of paired embeddings as MTEB's evaluators take them.

The order of close scores decides ranking measures, so each formula here is the one MTEB uses,
in float32: equal texts get exactly equal scores, whatever the rounding of a dot product.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from culet.errors import CheckpointError

Vectors = NDArray[np.float32]
_LENGTH_TOLERANCE = 1e-3


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors [..., E] of unit length, in their own precision; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12))


def check_unit(vectors: Vectors, model: str) -> None:
    """Raise CheckpointError unless each vector a model gave [B, E] is of unit length."""
    lengths = np.sqrt(np.einsum("be,be->b", vectors, vectors))
    wrong = lengths[~(np.abs(lengths - 1) <= _LENGTH_TOLERANCE)]  # NaN among them
    if len(wrong):
        raise CheckpointError(
            f"{model} gives vectors of length {wrong[0]:g} where unit vectors are expected; its "
            "weights or its config.json are damaged: take the model again"
        )


def unit_rows(vectors: Vectors) -> Vectors:
    """Return the unit vector of each row [B, E] with the rounding of MTEB; zeros stay zeros."""
    vectors = np.asarray(vectors, dtype=np.float32)
    length = np.sqrt(np.einsum("be,be->b", vectors, vectors))
    length[length == 0.0] = 1.0
    return np.asarray(vectors / length[:, None], dtype=np.float32)


def paired_cosine(a: Vectors, b: Vectors) -> Vectors:
    """Return the cosine of each row of a [B, E] with the same row of b, exactly 1 if equal.

    Computed as 1 - |a - b|^2 / 2 of the unit rows, which rounds far better near 1 than a dot
    product does.
    """
    difference = unit_rows(a) - unit_rows(b)
    squared = np.einsum("be,be->b", difference, difference)
    return np.asarray(1 - np.float32(0.5) * squared, dtype=np.float32)


def paired_manhattan(a: Vectors, b: Vectors) -> Vectors:
    """Return the sum of absolute differences of each row of a [B, E] and b."""
    return np.asarray(np.abs(a - b).sum(axis=1), dtype=np.float32)


def paired_euclidean(a: Vectors, b: Vectors) -> Vectors:
    """Return the Euclidean distance of each row of a [B, E] and b."""
    difference = a - b
    return np.asarray(np.sqrt(np.einsum("be,be->b", difference, difference)), dtype=np.float32)


def paired_dot(a: Vectors, b: Vectors) -> Vectors:
    """Return the dot product of each row of a [B, E] with the same row of b."""
    # One np.dot a row, not einsum: the two round differently, and near ties would change places.
    return np.array([np.dot(x, y) for x, y in zip(a, b, strict=True)], dtype=np.float32)
