"""The embedding model: encoder, pooling, two linear maps, unit length.

q = normalize(down(up(pool(encoder(tokens))))) — EmbeddingGemma, arXiv 2509.20354, equation 1.
The two maps have no bias and nothing between them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from culet.architecture.embedding_config import EmbeddingConfig, check_width
from culet.errors import InputError
from culet.model.batch import TokenBatch, TokenVectors
from culet.model.encoder import Encoder
from culet.model.layers import Linear
from culet.model.pooling import AttentionPool, first_pool, last_pool, mean_pool


class EmbeddingModel(nn.Module):
    """Packed token ids to unit vectors."""

    def __init__(self, config: EmbeddingConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.encoder.model_dim
        self.encoder = Encoder(config.encoder)
        self.pool = (
            AttentionPool(dim, config.pooling_heads) if config.pooling == "attention" else None
        )
        self.up = Linear(dim, config.projection_dim)
        self.down = Linear(config.projection_dim, config.embedding_dim)

    def forward(
        self,
        batch: TokenBatch,
        *,
        compute_dtype: torch.dtype = torch.float32,
        soft: TokenVectors | None = None,
    ) -> Float[Tensor, "B E"]:
        """Return the unit vector of each text, in the caller's order, in float32.

        Args:
            batch: Packed texts.
            compute_dtype: float32 or bfloat16; see `check_dtype`.
            soft: What stands in for the embedding of some tokens.
        """
        hidden = self.encoder(batch, compute_dtype=compute_dtype, soft=soft).hidden  # N D
        pooled = self._pooled(hidden, batch)  # B D
        projected = self.down(self.up(pooled.to(compute_dtype)))  # B E
        return normalize(projected.float())[batch.order]

    def _pooled(self, hidden: Float[Tensor, "N D"], batch: TokenBatch) -> Float[Tensor, "B D"]:
        """Pool as the config says."""
        if self.pool is not None:
            pooled: Tensor = self.pool(hidden, batch)
            return pooled
        if self.config.pooling == "first":
            return first_pool(hidden, batch, self.config.pooling_tokens)
        if self.config.pooling == "last":
            return last_pool(hidden, batch, self.config.pooling_tokens)
        return mean_pool(hidden, batch)


def normalize(embedding: Float[Tensor, "*B E"]) -> Float[Tensor, "*B E"]:
    """Return each vector at unit length."""
    return F.normalize(embedding, dim=-1)


def truncate(
    embedding: Float[Tensor, "*B E"], truncate_to: int, *, widths: Sequence[int]
) -> Float[Tensor, "*B M"]:
    """Return the first `truncate_to` dimensions at unit length.

    Raises:
        InputError: If that width was not trained.
    """
    check_width(truncate_to, widths)
    return normalize(embedding[..., :truncate_to])


def check_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype if this family can compute in it.

    Raises:
        InputError: For float16, whose range Gemma activations leave (up to about 8e5 against
            65,504), and for anything that is not a float.
    """
    if dtype == torch.float16:
        raise InputError(
            "compute dtype must be float32 or bfloat16, got float16: activations of this family "
            "exceed float16's range and give silently wrong vectors; use bfloat16"
        )
    if dtype not in (torch.float32, torch.bfloat16, torch.float64):
        raise InputError(f"compute dtype must be float32 or bfloat16, got {dtype}")
    return dtype


@torch.no_grad()
def initialize(
    model: EmbeddingModel, *, seed: int, table: Float[Tensor, "V D"] | None = None
) -> EmbeddingModel:
    """Give a model random weights to train from nothing, and return it.

    token embedding   normal, unit size after Gemma's sqrt(D)
    linear maps       normal, std in_dim^-0.5, except the two of the head, which together begin
                      as a projection that keeps lengths: two random maps would blur what the
                      tokens say
    norms             0, which multiplies by 1, except the norms after each sub-layer, which
                      multiply by 0.02: a post-norm would otherwise let every random sub-layer
                      speak as loudly as the token itself
    attention probe   normal, std D^-0.5

    Args:
        model: The model.
        seed: Decides the weights.
        table: The token embedding, as of `culet.text.token_table.token_table`: the untrained model
            is then already a search engine, a random projection of TF-IDF. The first map of the
            head does not read dimension 0, where what a token lacks in information lies.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith("post_norm.weight"):
            parameter.fill_(-0.98)
        elif parameter.ndim == 1 and "probe" not in name:
            parameter.zero_()
        else:
            parameter.normal_(std=1 / math.sqrt(max(1, parameter.shape[-1])), generator=generator)
    up, down = random_head(model.config, generator)
    model.up.weight.copy_(up)
    model.down.weight.copy_(down)
    if table is not None:
        model.encoder.embed.copy_(table)
        model.up.weight[:, 0] = 0
    return model


def random_head(
    config: EmbeddingConfig, generator: torch.Generator
) -> tuple[Float[Tensor, "P D"], Float[Tensor, "E P"]]:
    """Return the two maps of a head that together begin as a projection that keeps lengths."""
    dim = config.encoder.model_dim
    up = _orthogonal((config.projection_dim, dim), generator)
    return up, _orthogonal((config.embedding_dim, dim), generator) @ up.T


def _orthogonal(shape: Sequence[int], generator: torch.Generator) -> Float[Tensor, "O I"]:
    """Return a random matrix with orthonormal rows or columns, whichever are fewer."""
    return nn.init.orthogonal_(torch.empty(*shape), generator=generator)
