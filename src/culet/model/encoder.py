"""Gemma's text stack, as an encoder or, if its config is causal, as the layers of a decoder.

As an encoder it differs from the decoder it came from in that every token sees both sides: local
layers see `window` tokens each way, global layers the whole text. Texts are packed, so no linear
layer ever touches a padding token.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from culet.architecture.encoder_config import EncoderConfig
from culet.errors import InputError
from culet.model.attention import Attention
from culet.model.batch import TokenBatch, TokenVectors
from culet.model.layers import GatedFeedForward, RMSNorm, rotary_table


class Layer(nn.Module):
    """What every kind of layer has: self-attention and a feed-forward, each between two norms.

    Args:
        config: The architecture.
        attention: The self-attention.
    """

    def __init__(self, config: EncoderConfig, attention: Attention) -> None:
        super().__init__()
        dim, eps = config.model_dim, config.norm_eps
        self.dropout = config.dropout
        self.attention_norm = RMSNorm(dim, eps)
        self.attention = attention
        self.attention_post_norm = RMSNorm(dim, eps)
        self.ffn_norm = RMSNorm(dim, eps)
        self.ffn = GatedFeedForward(dim, config.ffn_dim)
        self.ffn_post_norm = RMSNorm(dim, eps)

    def attend(
        self, x: Float[Tensor, "N D"], attention: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "N D"]:
        """Return the states after self-attention, however `attention` computes it."""
        attended = self.attention_post_norm(attention(self.attention_norm(x)))
        return x + F.dropout(attended, self.dropout, self.training)

    def feed(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """Return the states after the feed-forward sub-layer."""
        fed = self.ffn_post_norm(self.ffn(self.ffn_norm(x)))
        return x + F.dropout(fed, self.dropout, self.training)


class Block(Layer):
    """Attention and feed-forward."""

    def __init__(self, config: EncoderConfig, *, layer: int) -> None:
        super().__init__(config, Attention(config, layer=layer))

    def forward(
        self,
        x: Float[Tensor, "N D"],
        batch: TokenBatch,
        cos: Float[Tensor, "N A"],
        sin: Float[Tensor, "N A"],
    ) -> Float[Tensor, "N D"]:
        """Return the states after this layer."""
        return self.feed(self.attend(x, lambda normed: self.attention(normed, batch, cos, sin)))


@dataclass(frozen=True)
class Encoded:
    """Final states of every token, and the intermediates that were asked for.

    Attributes:
        hidden: After the last norm.
        kept: States by name.
        attention: Probabilities [H, l, l] by layer, a tensor for each text, in packed order.
    """

    hidden: Float[Tensor, "N D"]
    kept: dict[str, Tensor] = field(default_factory=dict)
    attention: dict[int, list[Float[Tensor, "H _ _"]]] = field(default_factory=dict)


class Encoder(nn.Module):
    """Token ids to normed token states.

    Args:
        config: The architecture.
        block: Makes the block of a layer, where it is not the plain one.
    """

    def __init__(self, config: EncoderConfig, block: Callable[[int], Layer] | None = None) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Parameter(torch.empty(config.vocab_size, config.model_dim))
        self.blocks = nn.ModuleList(
            Block(config, layer=i) if block is None else block(i) for i in range(config.num_layers)
        )
        self.norm = RMSNorm(config.model_dim, config.norm_eps)

    def forward(
        self,
        batch: TokenBatch,
        *,
        compute_dtype: torch.dtype,
        keep: Set[str] = frozenset(),
        soft: TokenVectors | None = None,
    ) -> Encoded:
        """Return the states of every token.

        Args:
            batch: Packed texts.
            compute_dtype: Dtype of activations and matrix products.
            keep: Intermediates to return: "embedded"; "hidden.i" after layer i (from 0);
                "attention.i", what each query of layer i gives to each key of its text, computed
                beside the layer without a fused kernel.
            soft: What stands in for the embedding of some tokens.

        Raises:
            InputError: If `keep` names something that does not exist.
        """
        layers = range(len(self.blocks))
        known = {"embedded"} | {f"{kind}.{i}" for kind in ("hidden", "attention") for i in layers}
        if not keep <= known:
            raise InputError(f"keep must be among {sorted(known)}, got {sorted(keep - known)}")
        kept, attention = {}, {}
        x = self.embedded(batch.ids, compute_dtype, soft)
        if "embedded" in keep:
            kept["embedded"] = x
        rotations = self.rotations(batch.positions, x.dtype)
        for i, (block, rotation) in enumerate(zip(self.blocks, rotations, strict=True)):
            if f"attention.{i}" in keep:
                normed = cast(Block, block).attention_norm(x)
                attention[i] = cast(Block, block).attention.probabilities(normed, batch, *rotation)
            x = block(x, batch, *rotation)
            if f"hidden.{i}" in keep:
                kept[f"hidden.{i}"] = x
        return Encoded(self.final_norm(x), kept, attention)

    def embedded(
        self,
        ids: Int[Tensor, " N"],
        compute_dtype: torch.dtype,
        soft: TokenVectors | None = None,
    ) -> Float[Tensor, "N D"]:
        """Return the states of tokens before the first layer."""
        rows = F.embedding(ids, self.embed)  # N D
        if soft is not None:
            rows = rows.index_put((soft.places,), soft.vectors.to(rows.dtype))
        # Gemma multiplies by sqrt(D) rounded to the dtype of the weights: 27.75 in bfloat16.
        scale = torch.tensor(self.config.model_dim**0.5, dtype=compute_dtype)
        return F.dropout(rows.to(compute_dtype) * scale, self.config.dropout, self.training)

    def rotations(
        self, positions: Int[Tensor, " N"], dtype: torch.dtype
    ) -> list[tuple[Float[Tensor, "N A"], Float[Tensor, "N A"]]]:
        """Return cosine and sine of each token's rotation, for each layer."""
        config = self.config
        local = rotary_table(positions, config.head_dim, config.local_rope_base, dtype)
        whole = rotary_table(
            positions,
            config.head_dim,
            config.global_rope_base,
            dtype,
            scaling=config.global_rope_scaling,
        )
        return [whole if config.is_global(i) else local for i in range(config.num_layers)]

    def final_norm(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """Return the states after the last layer, normed."""
        return F.dropout(self.norm(x), self.config.dropout, self.training)
