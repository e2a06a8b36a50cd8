"""Attention over packed texts: every token sees its own text only.

A local layer sees `window` tokens on each side, or before a token if causal. Long texts in local
layers are cut into bands of queries, each with just the keys it can reach, so the cost grows with
length · window and not with length².
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from culet.architecture.encoder_config import EncoderConfig
from culet.model.batch import TokenBatch
from culet.model.layers import Linear, RMSNorm, rotate
from culet.model.varlen import has_varlen, varlen_attend

_CAUSAL_BAND = 256  # queries of a band under a causal mask that no kernel supports


def window_mask(
    num_queries: int, num_keys: int, *, window: int, offset: int = 0, after: int | None = None
) -> Bool[Tensor, "q k"]:
    """Return which keys a query may see; True means keep.

    With query and key counted from the start of the text, −after ≤ query − key ≤ window.

    Args:
        num_queries: Rows.
        num_keys: Columns.
        window: Tokens visible before a query.
        offset: Position of the first query, counted from the first key.
        after: Tokens visible after a query; None means `window`.
    """
    query = torch.arange(num_queries)[:, None] + offset
    key = torch.arange(num_keys)[None, :]
    if after is None:
        return (query - key).abs() <= window
    return (query - key <= window) & (key - query <= after)


def _mask(
    num_queries: int,
    num_keys: int,
    window: int,
    offset: int,
    device: torch.device,
    after: int | None = None,
) -> Tensor:
    # Masks made in inference are reused in training, where autograd cannot save inference tensors.
    with torch.inference_mode(False):
        mask = window_mask(num_queries, num_keys, window=window, offset=offset, after=after)
        return mask.to(device)


# Only masks of windows: those of whole texts are large and rarely recur.
_cached_mask = functools.lru_cache(maxsize=256)(_mask)


def attend(
    query: Float[Tensor, "b H l A"],
    key: Float[Tensor, "b G m A"],
    value: Float[Tensor, "b G m A"],
    *,
    scale: float,
    window: int | None,
    after: int | None = None,
    prefix: int = 0,
    softcap: float | None = None,
) -> Float[Tensor, "b H l A"]:
    """Return softmax(scale · q kᵀ + mask) v for texts of one common length.

    Args:
        query: Queries of b texts.
        key: Keys; each serves H / G neighbouring query heads. The first `prefix` are visible to
            every query, the others are at the positions of the queries.
        value: Values, likewise.
        scale: Factor on the scores.
        window: Tokens visible before a query; None means all.
        after: Tokens visible after a query; None means `window`.
        prefix: Number of leading keys that are never masked.
        softcap: cap · tanh(scores / cap) before the mask.
    """
    length = query.shape[2]
    after = window if after is None else after
    if softcap is None:
        repeat = query.shape[1] // max(1, key.shape[1])
        if repeat > 1:
            key, value = (x.repeat_interleave(repeat, dim=1) for x in (key, value))
    cut_before = window is not None and length > window + 1
    if not cut_before and (after is None or length <= after + 1):
        return attend_masked(query, key, value, None, scale=scale, softcap=softcap)
    if not cut_before and after == 0 and not prefix and softcap is None:
        return F.scaled_dot_product_attention(query, key, value, scale=scale, is_causal=True)
    before = length if window is None else window
    after = length if after is None else after
    step = before if cut_before and after else min(before, _CAUSAL_BAND)
    bands = []
    for start in range(0, length, step):
        stop = min(start + step, length)
        low, high = max(0, start - before), min(length, stop + after)
        mask = _cached_mask if cut_before else _mask
        seen = mask(stop - start, high - low, before, start - low, query.device, after)
        keys, values = (_band(x, low, high, prefix) for x in (key, value))
        if prefix:
            seen = F.pad(seen, (prefix, 0), value=True)
        part = query[:, :, start:stop]
        bands.append(attend_masked(part, keys, values, seen, scale=scale, softcap=softcap))
    return torch.cat(bands, dim=2)


def _band(x: Tensor, low: int, high: int, prefix: int) -> Tensor:
    """Return the keys or values of a band, and before them those that every query sees."""
    band = x[:, :, prefix + low : prefix + high]
    return torch.cat([x[:, :, :prefix], band], dim=2) if prefix else band


def attend_masked(
    query: Float[Tensor, "b H l A"],
    key: Float[Tensor, "b G m A"],
    value: Float[Tensor, "b G m A"],
    mask: Bool[Tensor, "*#b #l m"] | None,
    *,
    scale: float,
    softcap: float | None,
) -> Float[Tensor, "b H l A"]:
    """Return softmax(cap(scale · q kᵀ) + mask) v; the mask marks the keys to keep."""
    if softcap is None:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    out: Tensor = _Capped.apply(query, key, value, mask, scale, softcap)  # type: ignore[no-untyped-call]
    return out


class _Capped(torch.autograd.Function):
    """Attention with a soft cap, for which PyTorch has no kernel on a CPU.

    Written out because autograd would make twice as many passes over arrays of the size of the
    scores.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scale: float,
        softcap: float,
    ) -> Tensor:
        batch, heads, length, width = query.shape
        groups, num_keys = key.shape[1], key.shape[2]
        grouped = query.reshape(batch, groups, -1, width)  # heads of a group one after another
        bent = (grouped @ (key * (scale / softcap)).transpose(-1, -2)).tanh_()  # b G r·l m
        scores = bent * softcap
        if mask is not None:
            scores.view(batch, heads, length, num_keys).masked_fill_(~mask, -torch.inf)
        shares = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
        out = shares @ value
        ctx.save_for_backward(grouped, key, value, bent, shares, out)
        ctx.scale = scale
        return out.view(query.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, bent, shares, out = ctx.saved_tensors
        shape = grads[0].shape
        grad = grads[0].reshape(out.shape)
        grad_value = shares.transpose(-1, -2) @ grad
        grad_shares = grad @ value.transpose(-1, -2)
        grad_shares.sub_((grad * out).sum(-1, keepdim=True)).mul_(shares)
        grad_scores = torch.ops.aten.tanh_backward(grad_shares, bent)
        grad_query = grad_scores @ (key * ctx.scale)
        grad_key = grad_scores.transpose(-1, -2) @ (query * ctx.scale)
        return grad_query.view(shape), grad_key, grad_value, None, None, None


class Attention(nn.Module):
    """Grouped-query self-attention, no bias; queries and keys normalised per head if configured."""

    def __init__(self, config: EncoderConfig, *, layer: int) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = config.heads(layer)
        self.head_dim = config.head_dim
        self.scale = config.scale
        self.softcap = config.attention_softcap
        local = not config.is_global(layer)
        self.window = config.window if local else None
        self.after = 0 if config.causal else config.window_after if local else None
        rows = (self.num_heads + 2 * self.num_kv_heads) * config.head_dim
        self.qkv = Linear(config.model_dim, rows)
        self.out = Linear(self.num_heads * config.head_dim, config.model_dim)
        self.query_norm = head_norm(config)
        self.key_norm = head_norm(config)

    def forward(
        self,
        x: Float[Tensor, "N D"],
        batch: TokenBatch,
        cos: Float[Tensor, "N A"],
        sin: Float[Tensor, "N A"],
    ) -> Float[Tensor, "N D"]:
        """Return the attention output of each token over its own text."""
        return self.attend_within_texts(*self.project(x, cos, sin), batch)

    def attend_within_texts(
        self,
        query: Float[Tensor, "N H A"],
        key: Float[Tensor, "N G A"],
        value: Float[Tensor, "N G A"],
        batch: TokenBatch,
    ) -> Float[Tensor, "N D"]:
        """Return the attention output of each token, given queries, keys and values."""
        reach: dict[str, Any] = {"scale": self.scale, "window": self.window, "after": self.after}
        if has_varlen(query, key, self.softcap, attend_packed):
            return self.project_out(varlen_attend(query, key, value, batch, **reach))
        attended = attend_packed(query, key, value, batch, **reach, softcap=self.softcap)
        return self.project_out(attended)

    def probabilities(
        self,
        x: Float[Tensor, "N D"],
        batch: TokenBatch,
        cos: Float[Tensor, "N A"],
        sin: Float[Tensor, "N A"],
    ) -> list[Float[Tensor, "H _ _"]]:
        """Return the attention probabilities inside each text, in float32."""
        lengths = batch.lengths.tolist()
        query, key, _ = self.project(x, cos, sin)
        found = []
        for q, k in zip(*(torch.split(x, lengths) for x in (query, key)), strict=True):
            k = k.repeat_interleave(self.num_heads // max(1, self.num_kv_heads), dim=1)
            scores = torch.einsum("qha,kha->hqk", q.float(), k.float()) * self.scale
            if self.softcap is not None:
                scores = (scores / self.softcap).tanh() * self.softcap
            window = len(q) if self.window is None else self.window
            seen = window_mask(len(q), len(q), window=window, after=self.after).to(x.device)
            found.append(scores.masked_fill(~seen, -torch.inf).softmax(dim=-1))
        return found

    def project(
        self, x: Float[Tensor, "N D"], cos: Float[Tensor, "N A"], sin: Float[Tensor, "N A"]
    ) -> tuple[Float[Tensor, "N H A"], Float[Tensor, "N G A"], Float[Tensor, "N G A"]]:
        """Return queries, keys and values, the first two normalised and rotated by position."""
        heads, groups = self.num_heads, self.num_kv_heads
        qkv = self.qkv(x).view(len(x), heads + 2 * groups, self.head_dim)
        query, key, value = qkv.split([heads, groups, groups], dim=1)  # N H A, N G A, N G A
        query = rotate(self.query_norm(query), cos, sin)
        key = rotate(self.key_norm(key), cos, sin)
        return query, key, value

    def project_out(self, attended: Float[Tensor, "N H A"]) -> Float[Tensor, "N D"]:
        """Return the output of all heads, projected to the width of the model."""
        out: Tensor = self.out(attended.reshape(len(attended), self.num_heads * self.head_dim))
        return out


def attend_packed(
    query: Float[Tensor, "N H A"],
    key: Float[Tensor, "N G A"],
    value: Float[Tensor, "N G A"],
    batch: TokenBatch,
    *,
    scale: float,
    window: int | None,
    after: int | None,
    softcap: float | None = None,
) -> Float[Tensor, "N H A"]:
    """Return the attention output of each token over its own text, one run of lengths at a time.

    Arguments are those of `attend`, packed.
    """
    tokens = [length * count for length, count in batch.runs]
    runs = (torch.split(x, tokens) for x in (query, key, value))
    return torch.cat(
        [
            packed(
                attend(
                    *(rectangle(x, count) for x in run),
                    scale=scale,
                    window=window,
                    after=after,
                    softcap=softcap,
                )
            )
            for *run, (_, count) in zip(*runs, batch.runs, strict=True)
        ]
    )


def head_norm(config: EncoderConfig) -> nn.Module:
    """Return the norm of queries or keys, one for all heads."""
    if not config.query_key_norm:
        return nn.Identity()
    return RMSNorm(config.head_dim, config.norm_eps)


def rectangle(x: Float[Tensor, "n G A"], count: int) -> Float[Tensor, "b G l A"]:
    """Return the heads of `count` texts of equal length as a rectangle."""
    return x.reshape(count, len(x) // count, *x.shape[1:]).transpose(1, 2)


def packed(x: Float[Tensor, "b H l A"]) -> Float[Tensor, "n H A"]:
    """Return a rectangle of texts as packed tokens again; undoes `rectangle`."""
    return x.transpose(1, 2).flatten(0, 1)
