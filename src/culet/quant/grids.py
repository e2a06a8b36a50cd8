"""Weights on integer grids: int8 with scales per row, int4 with scales and zeros per block."""

from __future__ import annotations

import numpy as np

_CLIPS = np.linspace(1.0, 0.6, 9, dtype=np.float32)  # fractions of the span, tried for int4


def int8_rows(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return codes [O, I] int8 in −127 … 127 and scales [O, 1] float32.

    Args:
        matrix: Weights [O, I], float32.
    """
    largest = np.abs(matrix).max(axis=1, keepdims=True)
    scales = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(matrix / scales).astype(np.int8), scales


def int4_blocks(matrix: np.ndarray, *, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return codes, zero points and scales: value ≈ (code − zero point) · scale.

    Codes are uint8 [O, I/block, block] in 0 … 15, zero points uint8 and scales float32, both
    [O, I/block, 1].

    The grid spans the block's values and zero, or part of that span: the one of a few clips
    with the least squared error.

    Args:
        matrix: Weights [O, I], float32.
        block: Weights that share a scale; divides I.
    """
    blocks = matrix.reshape(matrix.shape[0], -1, block)
    low = np.minimum(blocks.min(axis=-1, keepdims=True), 0)
    span = np.maximum(blocks.max(axis=-1, keepdims=True), 0) - low
    best = np.full(span.shape, np.inf, dtype=np.float32)
    zeros, scales = np.zeros_like(span), np.ones_like(span)
    for clip in _CLIPS:
        scale = np.where(span > 0, clip * span / 15, 1).astype(np.float32)
        zero = np.clip(np.rint(-low * clip / scale), 0, 15)
        error = np.square((_codes4(blocks, zero, scale) - zero) * scale - blocks)
        error = error.sum(axis=-1, keepdims=True)
        better = error < best
        best = np.where(better, error, best)
        zeros, scales = np.where(better, zero, zeros), np.where(better, scale, scales)
    return _codes4(blocks, zeros, scales).astype(np.uint8), zeros.astype(np.uint8), scales


def _codes4(blocks: np.ndarray, zeros: np.ndarray, scales: np.ndarray) -> np.ndarray:
    codes: np.ndarray = np.clip(np.rint(blocks / scales) + zeros, 0, 15)
    return codes
