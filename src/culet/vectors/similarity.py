"""Similarities of embeddings as MTEB's evaluators take them, and exact search in blocks.

The order of close scores decides ranking measures, so each formula here is the one MTEB uses,
in float32: equal texts get exactly equal scores, whatever the rounding of a dot product.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

MAX_SCORES_PER_BLOCK = 2**25
"""How many float32 scores a search holds at once (128 MiB)."""


def unit_rows(vectors: Vectors) -> Vectors:
    """Return each row [B, E] divided by its length; a row of zeros stays zeros."""
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


def search(
    query: Vectors, document: Vectors, *, k: int, preference: Sequence[int] | None = None
) -> Iterator[NDArray[np.intp]]:
    """Yield, query by query, the rows of the k documents nearest by cosine, the best first.

    Args:
        query: [Q, E].
        document: [P, E].
        k: how many to return; all P when there are fewer.
        preference: one number a document; of documents with the same score, the one with the
            lower number comes first. None prefers the earlier row.
    """
    query, document = unit_rows(query), unit_rows(document)
    order = np.arange(len(document)) if preference is None else np.asarray(preference)
    # A matrix product rounds by the place of a row, so equal documents would not tie in it.
    once, rows = _distinct(document)
    document = document[once] if len(once) < len(document) else document
    block = max(1, MAX_SCORES_PER_BLOCK // max(1, len(order)))
    for start in range(0, len(query), block):
        for scores in query[start : start + block] @ document.T:
            scores = scores[rows] if len(once) < len(order) else scores
            yield best(scores, k=k, preference=order)


def _distinct(vectors: Vectors) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the places of the distinct rows, and for each row which of those it equals."""
    known: dict[int, list[int]] = {}
    once: list[int] = []
    rows = np.empty(len(vectors), dtype=np.intp)
    for row, vector in enumerate(vectors):
        alike = known.setdefault(hash(vector.tobytes()), [])
        same = [number for number in alike if np.array_equal(vectors[once[number]], vector)]
        if not same:
            alike.append(len(once))
            once.append(row)
        rows[row] = same[0] if same else len(once) - 1
    return np.array(once, dtype=np.intp), rows


def best(scores: Vectors, *, k: int, preference: NDArray[np.integer]) -> NDArray[np.intp]:
    """Return the places of the k highest scores, ties in order of preference."""
    places = np.arange(len(scores))
    if k < len(scores):
        # Everything tied with the k-th score stays in, so that preference decides among the tied.
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        places = np.flatnonzero(scores >= least)
    ranked = np.lexsort((preference[places], -scores[places]))
    return np.asarray(places[ranked[:k]], dtype=np.intp)
