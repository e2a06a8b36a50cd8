"""Sizes of a stack that cannot be are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from culet.architecture.embedding_config import tiny
from culet.errors import InputError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"num_kv_heads": 2, "num_heads": 3}, "num_kv_heads must divide num_heads, got 2 and 3"),
        ({"head_dim": 15}, "head_dim must be even for rotary embedding, got 15"),
        ({"global_layers": (7,)}, r"global_layers \[7\] are not among 7 layers"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(tiny().encoder, **changes)
