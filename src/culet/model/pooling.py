"""Pooling of token states to one vector per text: mean, first k, last k, attention.

Every token counts, including the prompt, BOS and EOS (EmbeddingGemma, `include_prompt`).
All of them take packed states and return vectors in packed order, in float32.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from culet.model.batch import TokenBatch
from culet.model.layers import Linear


def mean_pool(hidden: Float[Tensor, "N D"], batch: TokenBatch) -> Float[Tensor, "B D"]:
    """Return the mean of all token states of each text."""
    means = [
        run.view(-1, length, hidden.shape[-1]).mean(dim=1)
        for run, length in _runs(hidden.float(), batch)
    ]
    return torch.cat(means)


def first_pool(hidden: Float[Tensor, "N D"], batch: TokenBatch, k: int) -> Float[Tensor, "B D"]:
    """Return the mean of the first k states of each text; fewer where the text is shorter."""
    means = [
        run.view(-1, length, hidden.shape[-1])[:, :k].mean(dim=1)
        for run, length in _runs(hidden.float(), batch)
    ]
    return torch.cat(means)


def last_pool(hidden: Float[Tensor, "N D"], batch: TokenBatch, k: int) -> Float[Tensor, "B D"]:
    """Return the mean of the last k states of each text; fewer where the text is shorter."""
    means = [
        run.view(-1, length, hidden.shape[-1])[:, -k:].mean(dim=1)
        for run, length in _runs(hidden.float(), batch)
    ]
    return torch.cat(means)


class AttentionPool(nn.Module):
    """softmax(q Kᵀ / √(D/heads)) V with one learned query (arXiv 2509.20354, section 2.1)."""

    def __init__(self, model_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = model_dim // num_heads
        self.probe = nn.Parameter(torch.empty(model_dim))
        self.key = Linear(model_dim, model_dim)
        self.value = Linear(model_dim, model_dim)

    def forward(self, hidden: Float[Tensor, "N D"], batch: TokenBatch) -> Float[Tensor, "B D"]:
        """Return the states of each text, weighted by the attention of the probe."""
        shape = (-1, self.num_heads, self.head_dim)
        probe = self.probe.float().view(1, 1, *shape[1:])
        pooled = []
        for run, length in _runs(hidden, batch):
            key = self.key(run).float().view(-1, length, *shape[1:])  # b l H A
            value = self.value(run).float().view(-1, length, *shape[1:])
            scores = (probe * key).sum(-1) * self.head_dim**-0.5  # b l H
            pooled.append((scores.softmax(dim=1)[..., None] * value).sum(1).flatten(1))
        return torch.cat(pooled)


def _runs(hidden: Tensor, batch: TokenBatch) -> list[tuple[Tensor, int]]:
    """Return the states of each run of equal lengths, with that length."""
    pieces = torch.split(hidden, [length * count for length, count in batch.runs])
    return [(piece, length) for piece, (length, _) in zip(pieces, batch.runs, strict=True)]
