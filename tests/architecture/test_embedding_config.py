"""Heads of an embedding model that cannot be are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from culet.architecture.embedding_config import check_width, tiny
from culet.architecture.encoder_config import EncoderConfig
from culet.errors import InputError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": (16, 8)}, r"begin with the full width 32, got \(16, 8\)"),
        ({"widths": (32, 8, 16)}, "widths must fall strictly"),
        ({"widths": (32, 0)}, "widths must be positive"),
        ({"pooling": "max"}, "pooling must be one of .*'mean'.*, got 'max'"),
        ({"pooling": "attention", "pooling_heads": 5}, "pooling_heads must divide model_dim"),
        ({"pooling_tokens": 0}, "pooling_tokens must be at least 1"),
    ],
)
def test_impossible_heads_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(tiny(), **changes)


def test_the_config_is_data_that_compares_and_hashes() -> None:
    assert tiny() == tiny()
    assert hash(tiny()) == hash(tiny())
    assert isinstance(tiny().encoder, EncoderConfig)


@pytest.mark.parametrize("width", [64.0, np.float32(64), "64", None])
def test_a_width_that_is_no_whole_number_is_refused(width: object) -> None:
    with pytest.raises(InputError, match="truncate_to must be a whole number, got"):
        check_width(width, (128, 64))
    check_width(np.int64(64), (128, 64))
