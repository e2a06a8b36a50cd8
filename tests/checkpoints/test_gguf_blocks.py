"""Every block type against blocks worked out by hand and against the `gguf` package."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from culet.checkpoints.gguf.blocks import BLOCK_TYPES, dequantize

BY_NAME = {kind.name: kind for kind in BLOCK_TYPES.values()}


def half(value: float) -> list[int]:
    return list(np.array([value], "<f2").tobytes())


def decoded(name: str, block: list[int]) -> np.ndarray:
    kind = BY_NAME[name]
    assert len(block) == kind.size
    return dequantize(np.array(block, np.uint8), kind, (kind.weights,))


@pytest.mark.parametrize("number", BLOCK_TYPES)
def test_random_blocks_equal_those_of_the_gguf_package(number: int) -> None:
    kind, theirs = BLOCK_TYPES[number], gguf.GGMLQuantizationType(number)
    assert theirs.name == kind.name
    assert gguf.GGML_QUANT_SIZES[theirs] == (kind.weights, kind.size)
    raw = np.random.default_rng(number).integers(0, 256, 999 * kind.size, dtype=np.uint8)
    with np.errstate(all="ignore"):  # random bytes hold infinities
        ours = dequantize(raw, kind, (999, kind.weights))
        expected = gguf.quants.dequantize(raw.reshape(999, -1), theirs)
    assert ours.dtype == np.float32
    assert np.array_equal(ours, expected.reshape(ours.shape), equal_nan=True)


def test_plain_numbers() -> None:
    assert decoded("F32", [0, 0, 128, 63]) == 1.0
    assert decoded("F16", half(-2.5)) == -2.5
    assert decoded("BF16", [0x80, 0x3F]) == 1.0


def test_q8_0_is_a_factor_times_signed_bytes() -> None:
    values = decoded("Q8_0", half(0.5) + [1, 255, 128] + [0] * 29)
    assert values[:4].tolist() == [0.5, -0.5, -64.0, 0.0]


def test_q4_0_counts_from_minus_eight_low_halves_first() -> None:
    values = decoded("Q4_0", half(2.0) + [0xF0] + [0x88] * 15)
    assert values[0] == -16.0  # 2 · (0 - 8)
    assert values[16] == 14.0  # 2 · (15 - 8), the same byte's high half
    assert not values[1:16].any()


def test_q5_0_takes_its_fifth_bit_from_a_mask() -> None:
    values = decoded("Q5_0", half(1.0) + [0b10, 0, 0, 0x80] + [0] * 16)
    assert values[0] == -16.0
    assert values[1] == 0.0  # bit 1: 16 - 16
    assert values[31] == 0.0  # bit 31
    assert values[30] == -16.0


def test_q4_k_has_a_factor_and_an_offset_for_each_32() -> None:
    # factors 1, 0, 0, 0, then 5 with its upper two bits 01 in byte 0: 0b010101 = 21
    packed = [0b01_000001, 0, 0, 0, 3, 0, 0, 0, 0x05, 0, 0, 0]
    values = decoded("Q4_K", half(1.0) + half(2.0) + packed + [0x2A] * 128)
    assert values[:32].tolist() == [1 * 10 - 2 * 3] * 32
    assert values[32:64].tolist() == [0.0] * 32
    assert values[128:160].tolist() == [21 * 10.0] * 32


def test_q5_k_adds_bit_i_of_its_mask_to_sub_block_i() -> None:
    packed = [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    values = decoded("Q5_K", half(1.0) + half(0.0) + packed + [0b10] + [0] * 31 + [0x31] * 128)
    assert values[0] == 1.0
    assert values[32] == 3 + 16.0
    assert values[33] == 3.0


def test_q6_k_has_signed_factors_for_each_16() -> None:
    low, high = [0x0F] + [0] * 127, [0b11] + [0] * 63
    values = decoded("Q6_K", low + high + [255] + [1] * 15 + half(1.0))
    assert values[0] == -(15 + 48 - 32)
    assert values[1] == 32.0  # -1 · (0 - 32)
    assert values[16] == -32.0


def test_many_rows_are_decoded_piece_by_piece() -> None:
    kind = BY_NAME["Q8_0"]
    raw = np.zeros((300_000, kind.size), np.uint8)  # more than one piece
    raw[:, :2] = half(1.0)
    raw[:, 2] = np.arange(300_000) % 100
    values = dequantize(raw.reshape(-1), kind, (300_000, 32))
    assert np.array_equal(values[:, 0], np.arange(300_000) % 100)
