"""Variable-length attention: what is asked of the kernel, and when it is not trusted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from culet.architecture.embedding_config import tiny
from culet.architecture.encoder_config import EncoderConfig
from culet.model import varlen
from culet.model.attention import attend_packed
from culet.model.batch import pack
from culet.model.encoder import Encoder

LENGTHS = (1, 7, 7, 40, 130)


def kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> Tensor:
    """Compute what the documentation of `varlen_attn` says, text by text."""
    assert cu_seq_q.dtype == torch.int32
    assert max_q == max_k == int(cu_seq_q.diff().max())
    assert enable_gqa == (query.shape[1] != key.shape[1])
    left, right = (length if length >= 0 else 1 << 30 for length in window_size)
    parts = []
    for start, stop in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        q, k, v = (x[start:stop].transpose(0, 1) for x in (query, key, value))
        k, v = (x.repeat_interleave(len(q) // len(x), dim=0) for x in (k, v))
        place = torch.arange(stop - start)
        back = place[:, None] - place[None, :]  # how far behind the query a key stands
        scores = scale * (q @ k.transpose(1, 2))
        scores = scores.masked_fill((back > left) | (-back > right), -torch.inf)
        parts.append((scores.softmax(-1) @ v).transpose(0, 1))
    return torch.cat(parts)


@pytest.fixture(autouse=True)
def on_this_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a processor pass for a device that has the kernel."""
    varlen._agrees.cache_clear()
    monkeypatch.setattr(varlen, "_supports", lambda query: True)
    monkeypatch.setattr(varlen, "_kernel", lambda: kernel)
    yield
    varlen._agrees.cache_clear()


def narrow(**sizes: Any) -> EncoderConfig:
    return replace(tiny().encoder, window=16, **sizes)


@pytest.mark.parametrize(
    "config",
    [narrow(), narrow(num_kv_heads=2), narrow(causal=True), tiny().encoder],
    ids=["grouped heads", "equal heads", "causal", "wide window"],
)
def test_an_encoder_computes_the_same_through_the_kernel(
    config: EncoderConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    encoder = Encoder(config)
    for parameter in encoder.parameters():  # loud attention
        parameter.data = torch.randn_like(parameter) * 0.3
    rng = np.random.default_rng(0)
    batch = pack([rng.integers(16, 272, size=length) for length in LENGTHS])
    used = []
    monkeypatch.setattr(varlen, "_kernel", lambda: used.append(1) or kernel)
    found = encoder(batch, compute_dtype=torch.float32).hidden
    assert len(used) >= config.num_layers
    monkeypatch.setattr(varlen, "_supports", lambda query: False)
    expected = encoder(batch, compute_dtype=torch.float32).hidden
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def heads(count: int) -> Tensor:
    return torch.randn(sum(LENGTHS), count, 8)


def test_a_kernel_that_computes_something_else_is_not_used() -> None:
    def wrong(*args: Any, window_size: tuple[int, int], **options: Any) -> Tensor:
        return kernel(*args, window_size=(-1, -1), **options)  # forgets the window

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(varlen, "_kernel", lambda: wrong)
        with pytest.warns(UserWarning, match="is not used on this device: its results differ by"):
            assert not varlen.has_varlen(heads(2), heads(1), None, attend_packed)
        assert not varlen.has_varlen(heads(2), heads(1), None, attend_packed)  # said once


def test_a_kernel_that_fails_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: Any, **options: Any) -> Tensor:
        raise RuntimeError("no kernel image is available\nmore")

    monkeypatch.setattr(varlen, "_kernel", lambda: failing)
    with pytest.warns(UserWarning, match="not used on this device: no kernel image is available$"):
        assert not varlen.has_varlen(heads(2), heads(1), None, attend_packed)


def test_a_soft_cap_goes_another_way() -> None:
    assert varlen.has_varlen(heads(2), heads(1), None, attend_packed)
    assert not varlen.has_varlen(heads(2), heads(1), 50.0, attend_packed)


def test_the_installed_kernel_takes_what_we_give_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert varlen._kernel() is not None  # this PyTorch has it
    assert not varlen._supports(heads(2))  # and no processor can run it


@pytest.mark.gpu
@pytest.mark.parametrize("head_dim", [64, 256])
def test_the_kernel_of_this_gpu_agrees(head_dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    query = torch.randn(9, 4, head_dim, device="cuda", dtype=torch.bfloat16)
    assert varlen.has_varlen(query, query[:, :1], None, attend_packed)
