"""Attention over packed texts: every token sees both sides of its own text only.

A local layer sees `window` tokens each way. Long texts in local layers are cut into bands of
queries, each with just the keys it can reach, so the cost grows with length · window and not
with length².
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from culet.model.batch import TokenBatch
from culet.model.config import EncoderConfig
from culet.model.layers import Linear, RMSNorm, rotate


def window_mask(
    num_queries: int, num_keys: int, *, window: int, offset: int = 0
) -> Bool[Tensor, "q k"]:
    """Return which keys a query may see: |query + offset − key| ≤ window, True means keep."""
    query = torch.arange(num_queries)[:, None] + offset
    key = torch.arange(num_keys)[None, :]
    return (query - key).abs() <= window


@functools.lru_cache(maxsize=256)
def _cached_mask(
    num_queries: int, num_keys: int, window: int, offset: int, device: torch.device
) -> Tensor:
    # Made while embedding, used again in training: autograd may refuse to keep inference tensors.
    with torch.inference_mode(False):
        return window_mask(num_queries, num_keys, window=window, offset=offset).to(device)


def attend(
    query: Float[Tensor, "b H l A"],
    key: Float[Tensor, "b H l A"],
    value: Float[Tensor, "b H l A"],
    *,
    scale: float,
    window: int | None,
) -> Float[Tensor, "b H l A"]:
    """Return softmax(scale · q kᵀ + mask) v for texts of one common length.

    Args:
        query: Queries of b texts.
        key: Keys, heads already repeated to match the queries.
        value: Values, likewise.
        scale: Factor on the scores.
        window: Tokens visible each way; None sees the whole text.
    """
    length = query.shape[2]
    if window is None or length <= window + 1:
        return F.scaled_dot_product_attention(query, key, value, scale=scale)
    bands = []
    for start in range(0, length, window):
        stop = min(start + window, length)
        low, high = max(0, start - window), min(length, stop + window)
        mask = _cached_mask(stop - start, high - low, window, start - low, query.device)
        bands.append(
            F.scaled_dot_product_attention(
                query[:, :, start:stop],
                key[:, :, low:high],
                value[:, :, low:high],
                attn_mask=mask,
                scale=scale,
            )
        )
    return torch.cat(bands, dim=2)


class Attention(nn.Module):
    """Grouped-query self-attention with normed queries and keys (Gemma 3), no bias."""

    def __init__(self, config: EncoderConfig, *, layer: int) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.num_kv_heads = config.num_kv_heads
        self.head_dim = config.head_dim
        self.scale = config.scale
        self.window = None if config.is_global(layer) else config.window
        rows = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
        self.qkv = Linear(config.model_dim, rows)
        self.out = Linear(config.num_heads * config.head_dim, config.model_dim)
        self.query_norm = RMSNorm(config.head_dim, config.norm_eps)
        self.key_norm = RMSNorm(config.head_dim, config.norm_eps)

    def forward(
        self,
        x: Float[Tensor, "N D"],
        batch: TokenBatch,
        cos: Float[Tensor, "N A"],
        sin: Float[Tensor, "N A"],
    ) -> Float[Tensor, "N D"]:
        """Return what each token gathers from its own text."""
        heads, groups = self.num_heads, self.num_kv_heads
        qkv = self.qkv(x).view(-1, heads + 2 * groups, self.head_dim)
        query, key, value = qkv.split([heads, groups, groups], dim=1)  # N H A, N G A, N G A
        query = rotate(self.query_norm(query), cos, sin)
        key = rotate(self.key_norm(key), cos, sin)

        tokens = [length * count for length, count in batch.runs]
        runs = (torch.split(x, tokens) for x in (query, key, value))
        attended = [
            self._attend_run(q, k, v, length)
            for q, k, v, (length, _) in zip(*runs, batch.runs, strict=True)
        ]
        out: Tensor = self.out(torch.cat(attended).view(-1, heads * self.head_dim))
        return out

    def _attend_run(
        self,
        query: Float[Tensor, "n H A"],
        key: Float[Tensor, "n G A"],
        value: Float[Tensor, "n G A"],
        length: int,
    ) -> Float[Tensor, "n H A"]:
        """Attend inside a run of texts of equal length, seen as a rectangle."""
        repeat = self.num_heads // self.num_kv_heads

        def rectangle(x: Tensor, copies: int) -> Tensor:
            x = x.reshape(-1, length, x.shape[1], self.head_dim).transpose(1, 2)  # b heads l A
            return x if copies == 1 else x.repeat_interleave(copies, dim=1)

        out = attend(
            rectangle(query, 1),
            rectangle(key, repeat),
            rectangle(value, repeat),
            scale=self.scale,
            window=self.window,
        )
        return out.transpose(1, 2).reshape(-1, self.num_heads, self.head_dim)
