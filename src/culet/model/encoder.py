"""Gemma 3's text stack, read as an encoder.

What differs from the decoder it came from:
- every token sees both sides; there is no causal mask, no cache and no language head
- local layers see `window` tokens each way, global layers the whole text
- texts are packed, so no linear layer ever touches a padding token
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from culet.errors import InputError
from culet.model.attention import Attention
from culet.model.batch import TokenBatch
from culet.model.config import EncoderConfig
from culet.model.layers import GatedFeedForward, RMSNorm, rotary_table


class Block(nn.Module):
    """Attention and feed-forward, each between a norm before and a norm after."""

    def __init__(self, config: EncoderConfig, *, layer: int) -> None:
        super().__init__()
        dim, eps = config.model_dim, config.norm_eps
        self.dropout = config.dropout
        self.attention_norm = RMSNorm(dim, eps)
        self.attention = Attention(config, layer=layer)
        self.attention_post_norm = RMSNorm(dim, eps)
        self.ffn_norm = RMSNorm(dim, eps)
        self.ffn = GatedFeedForward(dim, config.ffn_dim)
        self.ffn_post_norm = RMSNorm(dim, eps)

    def forward(
        self,
        x: Float[Tensor, "N D"],
        batch: TokenBatch,
        cos: Float[Tensor, "N A"],
        sin: Float[Tensor, "N A"],
    ) -> Float[Tensor, "N D"]:
        """Return the states after this layer."""
        attended = self.attention_post_norm(self.attention(self.attention_norm(x), batch, cos, sin))
        x = x + F.dropout(attended, self.dropout, self.training)
        fed = self.ffn_post_norm(self.ffn(self.ffn_norm(x)))
        return x + F.dropout(fed, self.dropout, self.training)


@dataclass(frozen=True)
class Encoded:
    """Final states of every token, and the intermediates that were asked for."""

    hidden: Float[Tensor, "N D"]
    kept: dict[str, Tensor] = field(default_factory=dict)


class Encoder(nn.Module):
    """Token ids to normed token states."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Parameter(torch.empty(config.vocab_size, config.model_dim))
        self.blocks = nn.ModuleList(Block(config, layer=i) for i in range(config.num_layers))
        self.norm = RMSNorm(config.model_dim, config.norm_eps)

    def forward(
        self, batch: TokenBatch, *, compute_dtype: torch.dtype, keep: Set[str] = frozenset()
    ) -> Encoded:
        """Return the states of every token.

        Args:
            batch: Packed texts.
            compute_dtype: Dtype of activations and matrix products.
            keep: Intermediates to return: "embedded", or "hidden.i" after layer i (from 0).

        Raises:
            InputError: If `keep` names something that does not exist.
        """
        known = {"embedded", *(f"hidden.{i}" for i in range(len(self.blocks)))}
        if not keep <= known:
            raise InputError(f"keep must be among {sorted(known)}, got {sorted(keep - known)}")
        config, kept = self.config, {}

        # Gemma multiplies by sqrt(D) rounded to the dtype of the weights: 27.75 in bfloat16.
        scale = torch.tensor(config.model_dim**0.5, dtype=compute_dtype)
        x = F.embedding(batch.ids, self.embed).to(compute_dtype) * scale  # N D
        x = F.dropout(x, config.dropout, self.training)
        if "embedded" in keep:
            kept["embedded"] = x

        local = rotary_table(batch.positions, config.head_dim, config.local_rope_base, x.dtype)
        whole = rotary_table(batch.positions, config.head_dim, config.global_rope_base, x.dtype)
        for i, block in enumerate(self.blocks):
            x = block(x, batch, *(whole if config.is_global(i) else local))
            if f"hidden.{i}" in keep:
                kept[f"hidden.{i}"] = x
        return Encoded(F.dropout(self.norm(x), config.dropout, self.training), kept)
