"""Attention over a whole packed batch in one kernel: FlashAttention's variable-length form.

PyTorch 2.10 and later provide it as `torch.nn.attention.varlen` for CUDA and bfloat16. Where it is
missing, or disagrees with plain attention, `culet.model.attention` attends run by run.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from culet.model.batch import TokenBatch, pack

Plain = Callable[..., Tensor]
_MAX_HEAD_DIM = 256  # of FlashAttention 2
_TEST_LENGTHS = (1, 5, 5, 64, 200)  # shorter and longer than the window of the test
_TEST_WINDOW = 31
_TOLERANCE = 0.05  # results in bfloat16 differ by a few hundredths


def varlen_attend(
    query: Float[Tensor, "N H A"],
    key: Float[Tensor, "N G A"],
    value: Float[Tensor, "N G A"],
    batch: TokenBatch,
    *,
    scale: float,
    window: int | None,
    after: int | None,
) -> Float[Tensor, "N H A"]:
    """Return softmax(scale · q kᵀ + mask) v inside each text of a packed batch.

    Args:
        query: Queries.
        key: Keys; each serves H / G neighbouring query heads.
        value: Values, likewise.
        batch: Which tokens belong to which text.
        scale: Factor on the scores.
        window: Tokens visible before a query; None means all.
        after: Tokens visible after a query; None means `window`.
    """
    after = window if after is None else after
    longest = max(length for length, _ in batch.runs)
    out: Tensor = _kernel()(
        query,
        key,
        value,
        batch.boundaries,
        batch.boundaries,
        longest,
        longest,
        scale=scale,
        window_size=(-1 if window is None else window, -1 if after is None else after),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out


def has_varlen(
    query: Float[Tensor, "N H A"], key: Float[Tensor, "N G A"], softcap: float | None, plain: Plain
) -> bool:
    """Return whether `varlen_attend` can be trusted with such queries and keys.

    On first use, the kernel is compared with plain attention, forward and backward.

    Args:
        query: Queries.
        key: Keys.
        softcap: Soft cap of the scores, which the kernel does not support.
        plain: Plain attention inside the texts of a packed batch, called like `varlen_attend`.
    """
    if softcap is not None or not _supports(query):
        return False
    return _agrees(query.device, query.dtype, query.shape[1], key.shape[1], query.shape[2], plain)


def _supports(query: Tensor) -> bool:
    head_dim = query.shape[2]
    return (
        query.is_cuda
        and query.dtype == torch.bfloat16
        and head_dim <= _MAX_HEAD_DIM
        and head_dim % 8 == 0
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
        and _kernel() is not None
    )


@functools.cache
def _kernel() -> Any:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = inspect.signature(varlen_attn).parameters
    return varlen_attn if {"window_size", "enable_gqa", "scale"} <= set(known) else None


@functools.lru_cache(maxsize=64)
def _agrees(
    device: torch.device, dtype: torch.dtype, heads: int, groups: int, head_dim: int, plain: Plain
) -> bool:
    """Return whether the kernel agrees with plain attention; warn if not."""
    generator = torch.Generator().manual_seed(0)
    batch = pack([np.zeros(length, dtype=np.int64) for length in _TEST_LENGTHS]).to(device)
    shapes = [(batch.num_tokens, count, head_dim) for count in (heads, groups, groups)]
    start = [torch.randn(shape, generator=generator) for shape in shapes]
    scale = head_dim**-0.5
    for window in (None, _TEST_WINDOW):
        found = []
        for attend in (plain, varlen_attend):  # type: Plain
            with torch.inference_mode(False), torch.enable_grad():
                q, k, v = leaves = [x.to(device, dtype).requires_grad_() for x in start]
                try:
                    out = attend(q, k, v, batch, scale=scale, window=window, after=window)
                    grads = torch.autograd.grad(out.float().square().sum(), leaves)
                except RuntimeError as error:
                    return _unusable(str(error).splitlines()[0])
            found.append([out.detach(), *grads])
        for one, other in zip(*found, strict=True):
            worst = float((one - other).float().abs().max() / one.float().abs().max())
            if not worst <= _TOLERANCE:
                return _unusable(f"its results differ by {worst:.3f} of the largest value")
    return True


def _unusable(why: str) -> bool:
    warnings.warn(
        f"PyTorch's variable-length attention is not used on this device: {why}",
        UserWarning,
        stacklevel=2,
    )
    return False
