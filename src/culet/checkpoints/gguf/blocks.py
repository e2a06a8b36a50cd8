"""The blocks of GGUF files as float32: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K to Q6_K.

A quantised row is cut into blocks of 32 or 256 weights. A block holds small whole numbers and what
they are multiplied by; a 256-wide "K" block has eight or sixteen sub-blocks whose own factors are
small whole numbers too. Layouts are those of ggml, version 2 of its quantisation formats; the
`gguf` package's code is the reference in the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_SUPER = 256
_CHUNK = 1 << 22  # bytes of blocks at a time, so that temporary arrays stay small


@dataclass(frozen=True)
class BlockType:
    """How one kind of tensor is stored.

    Attributes:
        name: ggml's name.
        weights: Weights in a block.
        size: Bytes of a block.
        decode: Blocks as bytes, uint8 [n, size], to float32 [n, weights].
    """

    name: str
    weights: int
    size: int
    decode: Callable[[np.ndarray], np.ndarray]


def dequantize(raw: np.ndarray, kind: BlockType, shape: tuple[int, ...]) -> np.ndarray:
    """Return the weights of a tensor as float32.

    Args:
        raw: Its bytes, uint8, as many as the shape needs.
        kind: How they are stored.
        shape: Its shape, rows first; whole blocks in a row.
    """
    blocks = raw.reshape(-1, kind.size)
    values = np.empty((len(blocks), kind.weights), np.float32)
    step = max(1, _CHUNK // kind.size)
    for start in range(0, len(blocks), step):
        values[start : start + step] = kind.decode(blocks[start : start + step])
    return values.reshape(shape)


def _half(blocks: np.ndarray, at: int) -> np.ndarray:
    """Return the float16 number at a byte of each block, as float32 [n, 1]."""
    return blocks[:, at : at + 2].copy().view("<f2").astype(np.float32)


def _nibbles(packed: np.ndarray) -> np.ndarray:
    """Return the low, then the high halves of the bytes, [n, 2 · bytes]."""
    return np.concatenate([packed & 0x0F, packed >> 4], axis=1)


def _fifth_bits(packed: np.ndarray) -> np.ndarray:
    """Return the bits of 4 bytes as 16 for each of 32 weights, to be added to its nibble."""
    return np.unpackbits(packed, axis=1, bitorder="little") << 4


def _f32(blocks: np.ndarray) -> np.ndarray:
    return blocks.view("<f4")


def _f16(blocks: np.ndarray) -> np.ndarray:
    return blocks.view("<f2").astype(np.float32)


def _bf16(blocks: np.ndarray) -> np.ndarray:
    return (blocks.view("<u2").astype(np.uint32) << 16).view(np.float32)


def _q8_0(blocks: np.ndarray) -> np.ndarray:
    values: np.ndarray = _half(blocks, 0) * blocks[:, 2:].view(np.int8)
    return values


def _q4_0(blocks: np.ndarray) -> np.ndarray:
    values: np.ndarray = _half(blocks, 0) * (_nibbles(blocks[:, 2:]).astype(np.int8) - 8)
    return values


def _q4_1(blocks: np.ndarray) -> np.ndarray:
    values: np.ndarray = _half(blocks, 0) * _nibbles(blocks[:, 4:]) + _half(blocks, 2)
    return values


def _q5_0(blocks: np.ndarray) -> np.ndarray:
    values = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6])
    scaled: np.ndarray = _half(blocks, 0) * (values.astype(np.int8) - 16)
    return scaled


def _q5_1(blocks: np.ndarray) -> np.ndarray:
    values = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8])
    scaled: np.ndarray = _half(blocks, 0) * values + _half(blocks, 2)
    return scaled


def _sub_blocks(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the factor and the offset of the eight sub-blocks of 32, each float32 [n, 8, 1].

    Twelve bytes hold sixteen numbers of six bits: bytes 0-3 the first four factors, 4-7 the first
    four offsets, 8-11 the low halves of the last four of both, whose upper two bits are the upper
    two of bytes 0-7.
    """
    factors, offsets, rest = (blocks[:, start : start + 4] for start in (4, 8, 12))
    factor = np.concatenate([factors & 63, (rest & 15) | (factors >> 6 << 4)], axis=1)
    offset = np.concatenate([offsets & 63, (rest >> 4) | (offsets >> 6 << 4)], axis=1)
    return (_half(blocks, 0) * factor)[:, :, None], (_half(blocks, 2) * offset)[:, :, None]


def _pairs_of_32(packed: np.ndarray) -> np.ndarray:
    """Return 128 bytes as [n, 8, 32]: 32 low halves, then the same bytes' high ones, four times."""
    four = packed.reshape(-1, 4, 1, 32)
    return np.concatenate([four & 0x0F, four >> 4], axis=2).reshape(-1, 8, 32)


def _q4_k(blocks: np.ndarray) -> np.ndarray:
    factor, offset = _sub_blocks(blocks)
    values: np.ndarray = factor * _pairs_of_32(blocks[:, 16:]) - offset
    return values.reshape(-1, _SUPER)


def _q5_k(blocks: np.ndarray) -> np.ndarray:
    factor, offset = _sub_blocks(blocks)
    bits = np.arange(8, dtype=np.uint8)[:, None]  # bit i of each of 32 bytes is of sub-block i
    fifth = (blocks[:, None, 16:48] >> bits & 1) << 4
    values: np.ndarray = factor * (_pairs_of_32(blocks[:, 48:]) | fifth) - offset
    return values.reshape(-1, _SUPER)


def _q6_k(blocks: np.ndarray) -> np.ndarray:
    """Two halves of 128: low halves of 64 bytes, then high; two upper bits from 32 bytes."""
    low = blocks[:, :128].reshape(-1, 2, 1, 64)
    low = np.concatenate([low & 0x0F, low >> 4], axis=2).reshape(-1, 2, 4, 32)
    places = np.array([0, 2, 4, 6], dtype=np.uint8)[:, None]
    high = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> places & 3) << 4
    values = (low | high).astype(np.int8) - 32
    factor = _half(blocks, 208) * blocks[:, 192:208].view(np.int8)
    scaled: np.ndarray = factor[:, :, None] * values.reshape(-1, 16, 16)
    return scaled.reshape(-1, _SUPER)


# ggml's number of each type that is read here.
BLOCK_TYPES = {
    0: BlockType("F32", 1, 4, _f32),
    1: BlockType("F16", 1, 2, _f16),
    2: BlockType("Q4_0", 32, 18, _q4_0),
    3: BlockType("Q4_1", 32, 20, _q4_1),
    6: BlockType("Q5_0", 32, 22, _q5_0),
    7: BlockType("Q5_1", 32, 24, _q5_1),
    8: BlockType("Q8_0", 32, 34, _q8_0),
    12: BlockType("Q4_K", _SUPER, 144, _q4_k),
    13: BlockType("Q5_K", _SUPER, 176, _q5_k),
    14: BlockType("Q6_K", _SUPER, 210, _q6_k),
    30: BlockType("BF16", 1, 2, _bf16),
}
