"""Ridge regression of vectors on bags of tokens, by preconditioned conjugate gradients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

_TINY = 1e-20


def counts(ids: Sequence[np.ndarray], vocab: int) -> sparse.csr_matrix:
    """Return [N, V]: how often each token occurs in each text."""
    starts = np.concatenate([[0], np.cumsum([len(own) for own in ids])]).astype(np.int64)
    flat = np.concatenate([np.asarray(own, np.int32) for own in ids])
    found = sparse.csr_matrix((np.ones(len(flat), np.float32), flat, starts), (len(ids), vocab))
    found.sum_duplicates()
    return found


def bags(ids: Sequence[np.ndarray], vocab: int) -> sparse.csr_matrix:
    """Return [N, V]: counts of each text's tokens over the root of its length."""
    lengths = np.maximum([len(own) for own in ids], 1)
    scaled = sparse.diags((1 / np.sqrt(lengths)).astype(np.float32)).dot(counts(ids, vocab))
    return scaled.tocsr()


def solve(
    x: sparse.csr_matrix,
    y: np.ndarray,
    start: np.ndarray,
    *,
    ridge: float,
    weights: np.ndarray | None = None,
    steps: int = 15,
) -> np.ndarray:
    """Return W [V, D] that minimises Σ wᵢ |xᵢ W - yᵢ|² + ridge |W - start|².

    Each column is a system of its own; they share the matrix and take their steps together. The
    preconditioner is the diagonal of XᵀX (how often a token is seen) plus the ridge. Fewer steps
    than the system needs stop nearer to `start`.

    Args:
        x: Bags [N, V].
        y: Targets [N, D].
        start: Where the ridge pulls to, and where the search begins [V, D].
        ridge: Strength of the pull.
        weights: Of the texts [N]; all 1 if None.
        steps: Of conjugate gradients.
    """
    root = np.sqrt(np.ones(x.shape[0]) if weights is None else weights).astype(np.float32)
    x = sparse.diags(root).dot(x).tocsr().astype(start.dtype)
    back = x.T.tocsr()
    seen = np.asarray(x.multiply(x).sum(0), start.dtype).ravel()[:, None]
    inverse = 1 / (seen + ridge)
    moved = np.zeros_like(start)
    residual = back @ (root[:, None] * y - x @ start)
    scaled = inverse * residual
    direction, size = scaled.copy(), (residual * scaled).sum(0)
    for _ in range(steps):
        applied = back @ (x @ direction) + ridge * direction
        length = size / np.maximum((direction * applied).sum(0), _TINY)
        moved += length * direction
        residual -= length * applied
        scaled = inverse * residual
        before, size = size, (residual * scaled).sum(0)
        direction = scaled + (size / np.maximum(before, _TINY)) * direction
    solution: np.ndarray = start + moved
    return solution


def principal_axes(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return axes [D, D] as columns and the mean square along each, largest first, uncentred."""
    values, axes = np.linalg.eigh(vectors.T @ vectors / len(vectors))
    return axes[:, ::-1].astype(np.float32), values[::-1]


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return the rows at length 1; rows of zeros stay."""
    scaled: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return scaled
