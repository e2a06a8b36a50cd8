from __future__ import annotations

import numpy as np
import pytest

from culet.errors import InputError
from culet.vectors import codes as vectors


def _unit(rows: int, width: int, seed: int = 0) -> vectors.Vectors:
    drawn = np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def test_int8_codes_of_a_known_range() -> None:
    ranges = vectors.calibrate_int8(np.array([[0.0, -1.0], [255.0, 1.0]], dtype=np.float32))
    assert ranges.step.tolist() == pytest.approx([1.0, 2 / 255])
    codes = vectors.encode_int8(np.array([[3.0, 1.0], [3.4, -1.0]], dtype=np.float32), ranges)
    assert codes.dtype == np.int8
    assert codes.tolist() == [[-125, 127], [-125, -128]]
    assert vectors.decode_int8(codes, ranges)[0].tolist() == pytest.approx([3.0, 1.0])


def test_int8_is_off_by_at_most_half_a_step() -> None:
    unit = _unit(200, 32)
    ranges = vectors.calibrate_int8(unit)
    back = vectors.decode_int8(vectors.encode_int8(unit, ranges), ranges)
    assert np.all(np.abs(back - unit) <= ranges.step * 0.5001)
    assert not np.array_equal(back, unit)


def test_int8_clips_what_lies_outside_the_range() -> None:
    ranges = vectors.calibrate_int8(np.array([[0.0], [1.0]], dtype=np.float32))
    codes = vectors.encode_int8(np.array([[-9.0], [9.0]], dtype=np.float32), ranges)
    assert codes.ravel().tolist() == [-128, 127]


def test_int8_of_a_constant_dimension_gives_the_constant_back() -> None:
    constant = np.full((3, 1), 0.25, dtype=np.float32)
    assert vectors.round_to(constant, "int8").ravel().tolist() == [0.25, 0.25, 0.25]


def test_int8_similarity_is_the_product_with_the_decoded_documents() -> None:
    query, document = _unit(5, 64, seed=1), _unit(40, 64, seed=2)
    ranges = vectors.calibrate_int8(document)
    codes = vectors.encode_int8(document, ranges)
    expected = query @ vectors.decode_int8(codes, ranges).T
    np.testing.assert_allclose(vectors.int8_similarity(query, codes, ranges), expected, atol=1e-6)


def test_bits_are_signs_packed_from_the_left() -> None:
    values = np.array([[0.5, -0.5, 0.0, 0.1, -1, -1, -1, 1, 1]], dtype=np.float32)
    codes = vectors.encode_binary(values)
    assert codes.tolist() == [[0b10010001, 0b10000000]]
    signs = vectors.decode_binary(codes, width=9) * 3
    assert signs.ravel().tolist() == pytest.approx([1, -1, -1, 1, -1, -1, -1, 1, 1])


def test_bfloat16_rounds_to_the_nearest_even() -> None:
    step = 2.0**-7  # between 1 and 2
    values = np.array([1 + step * 0.5, 1 + step * 1.5, 1 + step * 0.6, -1.0], dtype=np.float32)
    expected = [1.0, 1 + 2 * step, 1 + step, -1.0]
    assert vectors.round_bfloat16(values).tolist() == expected


def test_bfloat16_equals_torch() -> None:
    torch = pytest.importorskip("torch")
    unit = _unit(50, 33)
    expected = torch.from_numpy(unit).bfloat16().float().numpy()
    np.testing.assert_array_equal(vectors.round_bfloat16(unit), expected)


def test_float32_changes_nothing() -> None:
    unit = _unit(3, 8)
    np.testing.assert_array_equal(vectors.round_to(unit, "float32"), unit)


def test_unknown_precision_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="float32, bfloat16, int8, binary, got 'fp4'"):
        vectors.round_to(_unit(1, 4), "fp4")


def test_a_width_the_ranges_do_not_know_is_refused() -> None:
    ranges = vectors.calibrate_int8(_unit(5, 8))
    with pytest.raises(InputError, match=r"expected embeddings of width 8.*got 4"):
        vectors.encode_int8(_unit(5, 4), ranges)


@pytest.mark.parametrize("bad", [np.zeros((0, 4)), np.zeros(4), np.full((2, 2), np.nan)])
def test_what_is_no_matrix_of_embeddings_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(InputError, match="non-empty matrix of finite numbers"):
        vectors.encode_binary(bad)
