"""Small codes for unit vectors: 8-bit integers and single bits, and bfloat16 rounding.

A float32 embedding of width E takes 4 E bytes; int8 codes take E, bits E / 8. The ranges of
int8 are per dimension and come from vectors of the same model: queries and documents must be
coded with the same `Int8Ranges`, so keep them beside the codes.

    ranges = calibrate_int8(documents)
    codes = encode_int8(documents, ranges)          # int8 [P, E]
    scores = int8_similarity(queries, codes, ranges)  # float32 [Q, P]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from culet.errors import InputError
from culet.vectors.similarity import Vectors

Precision = Literal["float32", "bfloat16", "int8", "binary"]
PRECISIONS: tuple[str, ...] = get_args(Precision)


@dataclass(frozen=True)
class Int8Ranges:
    """The grid of each dimension: code c stands for low + (c + 128) * step; both are [E]."""

    low: Vectors
    step: Vectors


def calibrate_int8(vectors: Vectors) -> Int8Ranges:
    """Return per-dimension ranges from the smallest to the largest value seen in vectors [B, E].

    Values outside, met later, are clipped to the range. A dimension that never varies gets the
    step 0 and decodes to its one value.

    Raises:
        InputError: when vectors is not a non-empty matrix of finite numbers.
    """
    vectors = _matrix(vectors)
    low = vectors.min(axis=0)
    step = (vectors.max(axis=0) - low) / np.float32(255)
    return Int8Ranges(low, step.astype(np.float32))


def encode_int8(vectors: Vectors, ranges: Int8Ranges) -> NDArray[np.int8]:
    """Return the nearest int8 code of each value of vectors [B, E]."""
    vectors = _matrix(vectors, width=len(ranges.low))
    step = np.where(ranges.step > 0, ranges.step, np.float32(1))
    levels = np.clip(np.rint((vectors - ranges.low) / step), 0, 255)
    return (levels - 128).astype(np.int8)


def decode_int8(codes: NDArray[np.int8], ranges: Int8Ranges) -> Vectors:
    """Return the float32 values [B, E] that int8 codes stand for."""
    levels = codes.astype(np.float32) + np.float32(128)
    return np.asarray(ranges.low + levels * ranges.step, dtype=np.float32)


def int8_similarity(query: Vectors, codes: NDArray[np.int8], ranges: Int8Ranges) -> Vectors:
    """Return the dot products [Q, P] of float queries [Q, E] with coded documents [P, E].

    Equal to the product with the decoded documents, without decoding them:
    q . (low + (c + 128) step) = (q step) . c + q . (low + 128 step).
    """
    query = _matrix(query, width=len(ranges.low))
    offset = query @ (ranges.low + np.float32(128) * ranges.step)
    return np.asarray(
        (query * ranges.step) @ codes.T.astype(np.float32) + offset[:, None], dtype=np.float32
    )


def encode_binary(vectors: Vectors) -> NDArray[np.uint8]:
    """Return one bit a dimension, 1 where the value is above 0, packed: [B, ceil(E / 8)]."""
    return np.packbits(_matrix(vectors) > 0, axis=1)


def decode_binary(codes: NDArray[np.uint8], *, width: int) -> Vectors:
    """Return the unit vectors [B, width] of +-1 / sqrt(width) that packed bits stand for."""
    signs = np.unpackbits(codes, axis=1, count=width).astype(np.float32) * 2 - 1
    return np.asarray(signs / np.sqrt(np.float32(width)), dtype=np.float32)


def round_bfloat16(vectors: Vectors) -> Vectors:
    """Return finite float32 values rounded to the nearest bfloat16, ties to the even one."""
    bits = np.ascontiguousarray(vectors, dtype=np.float32).view(np.uint32)
    nearest = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (nearest & np.uint32(0xFFFF0000)).view(np.float32)


def round_to(vectors: Vectors, precision: str, *, ranges: Int8Ranges | None = None) -> Vectors:
    """Return vectors [B, E] as they come back from storage at the given precision.

    Args:
        vectors: unit rows.
        precision: float32, bfloat16, int8 or binary.
        ranges: the int8 ranges; None calibrates them on these very vectors.

    Raises:
        InputError: when the precision is unknown.
    """
    if precision == "float32":
        return np.asarray(vectors, dtype=np.float32)
    if precision == "bfloat16":
        return round_bfloat16(vectors)
    if precision == "int8":
        ranges = ranges if ranges is not None else calibrate_int8(vectors)
        return decode_int8(encode_int8(vectors, ranges), ranges)
    if precision == "binary":
        return decode_binary(encode_binary(vectors), width=vectors.shape[1])
    raise InputError(
        f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}; choose one of them"
    )


def _matrix(vectors: Vectors, *, width: int | None = None) -> Vectors:
    vectors = np.asarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or 0 in vectors.shape or not np.isfinite(vectors).all():
        raise InputError(
            "expected a non-empty matrix of finite numbers, one embedding a row, "
            f"got shape {vectors.shape}; embed the texts first and check them for NaN"
        )
    if width is not None and vectors.shape[1] != width:
        raise InputError(
            f"expected embeddings of width {width}, the width the ranges were calibrated for, "
            f"got {vectors.shape[1]}; truncate them alike or calibrate anew"
        )
    return vectors
