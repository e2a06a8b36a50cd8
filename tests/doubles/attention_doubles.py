"""Random queries, keys and values."""

from __future__ import annotations

import torch


def heads(length: int, *, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Return random queries, keys and values of two texts with three heads."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(3, 2, 3, length, 8, generator=generator))
