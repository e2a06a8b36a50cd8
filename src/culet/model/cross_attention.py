"""Attention of a decoder to an encoder's states, over packed pairs.

Two forms: a sub-layer of its own (T5Gemma, arXiv 2504.06225, section 3.1), and one softmax over
the decoder's and the encoder's keys with the weights of self-attention (T5Gemma 2, 2512.14856,
section 2, equations 1-5). In both, the encoder's keys are not rotated by position, and no
window cuts them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from culet.architecture.encoder_config import EncoderConfig
from culet.model.attention import Attention, attend, head_norm, packed, rectangle
from culet.model.batch import Seq2SeqBatch
from culet.model.layers import Linear


class CrossAttention(nn.Module):
    """Grouped-query attention from decoder states to encoder states, no bias.

    Args:
        config: The decoder's layers.
        layer: The one whose heads these are.
        memory_dim: Width of the encoder.
    """

    def __init__(self, config: EncoderConfig, *, layer: int, memory_dim: int) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = config.heads(layer)
        self.head_dim = config.head_dim
        self.scale = config.scale
        self.softcap = config.attention_softcap
        rows = self.num_heads * config.head_dim
        self.query = Linear(config.model_dim, rows)
        self.key_value = Linear(memory_dim, 2 * self.num_kv_heads * config.head_dim)
        self.out = Linear(rows, config.model_dim)
        self.query_norm = head_norm(config)
        self.key_norm = head_norm(config)

    def forward(
        self, x: Float[Tensor, "N D"], memory: Float[Tensor, "S E"], batch: Seq2SeqBatch
    ) -> Float[Tensor, "N D"]:
        """Return what each target token gathers from its own source."""
        pieces = (batch.split_target(self.queries(x)), *map(batch.split_source, self.keys(memory)))
        attended = []
        for query, key, value, run in zip(*pieces, batch.runs, strict=True):
            out = attend(
                rectangle(query, run.count),
                rectangle(key, run.count),
                rectangle(value, run.count),
                scale=self.scale,
                window=None,
                softcap=self.softcap,
            )
            attended.append(packed(out))
        return self.project_out(torch.cat(attended))

    def queries(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N H A"]:
        """Return the queries of decoder states."""
        query: Tensor = self.query_norm(self.query(x).view(-1, self.num_heads, self.head_dim))
        return query

    def keys(
        self, memory: Float[Tensor, "S E"]
    ) -> tuple[Float[Tensor, "S G A"], Float[Tensor, "S G A"]]:
        """Return the keys and values of encoder states."""
        both = self.key_value(memory).view(-1, 2 * self.num_kv_heads, self.head_dim)
        key, value = both.chunk(2, dim=1)
        return self.key_norm(key), value

    def project_out(self, attended: Float[Tensor, "N H A"]) -> Float[Tensor, "N D"]:
        """Return the output of all heads in the width of the decoder."""
        out: Tensor = self.out(attended.reshape(-1, self.num_heads * self.head_dim))
        return out


class MergedAttention(Attention):
    """Self-attention whose keys and values are also made of the encoder's states."""

    def read(
        self,
        x: Float[Tensor, "N D"],
        memory: Float[Tensor, "S D"],
        batch: Seq2SeqBatch,
        cos: Float[Tensor, "N A"],
        sin: Float[Tensor, "N A"],
    ) -> Float[Tensor, "N D"]:
        """Return what each target token gathers from what is before it and from its source."""
        own = map(batch.split_target, self.project(x, cos, sin))
        pieces = (*own, *map(batch.split_source, self.keys(memory)))
        attended = []
        for query, key, value, far_key, far_value, run in zip(*pieces, batch.runs, strict=True):
            far = [rectangle(each, run.count) for each in (far_key, far_value)]
            near = [rectangle(each, run.count) for each in (key, value)]
            keys, values = (torch.cat(pair, dim=2) for pair in zip(far, near, strict=True))
            out = attend(
                rectangle(query, run.count),
                keys,
                values,
                scale=self.scale,
                window=self.window,
                after=self.after,
                prefix=run.source_length,
                softcap=self.softcap,
            )
            attended.append(packed(out))
        return self.project_out(torch.cat(attended))

    def keys(
        self, memory: Float[Tensor, "S D"]
    ) -> tuple[Float[Tensor, "S G A"], Float[Tensor, "S G A"]]:
        """Return the keys and values of encoder states, by the weights of self-attention."""
        weight = self.qkv.weight[self.num_heads * self.head_dim :]
        both = F.linear(memory, weight.to(memory.dtype))
        key, value = both.view(-1, 2 * self.num_kv_heads, self.head_dim).chunk(2, dim=1)
        return self.key_norm(key), value
