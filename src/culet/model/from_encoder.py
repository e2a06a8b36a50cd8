"""An encoder that was pretrained becomes an embedding model: a new head, and nothing else moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from culet.errors import InputError
from culet.model.config import EmbeddingConfig, EncoderConfig
from culet.model.embedding import random_head


@dataclass(frozen=True)
class HeadConfig:
    """What is put on an encoder that has no head yet. It begins as a random projection.

    Attributes:
        projection_dim: Width between the two maps; 0 takes four times the encoder's width.
        embedding_dim: Width of the embedding; 0 takes the encoder's.
        widths: Widths the embedding is meant to be cut to; the full one and three halvings of it,
            if left out.
        max_length: Longest text of the embedding model, at most the encoder's.
        seed: Decides the weights.
    """

    projection_dim: int = 0
    embedding_dim: int = 0
    widths: tuple[int, ...] = ()
    max_length: int = 2048
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.projection_dim, self.embedding_dim) < 0 or self.max_length < 2:
            raise InputError(
                "projection_dim and embedding_dim must be positive (or 0 for the default) and "
                f"max_length at least 2, got {self.projection_dim}, {self.embedding_dim}, "
                f"{self.max_length}"
            )


def embedding_config(encoder: EncoderConfig, head: HeadConfig) -> EmbeddingConfig:
    """Return the shape of an encoder with a head.

    Raises:
        InputError: If other libraries could not read such an encoder; see `EmbeddingConfig`.
    """
    width = head.embedding_dim or encoder.model_dim
    halves = tuple(width >> n for n in range(4) if width >> n)
    return EmbeddingConfig(
        encoder=replace(encoder, max_length=min(encoder.max_length, head.max_length), dropout=0.0),
        projection_dim=head.projection_dim or 4 * encoder.model_dim,
        embedding_dim=width,
        widths=head.widths or halves,
    )


def with_head(
    config: EmbeddingConfig, encoder: Mapping[str, np.ndarray], head: HeadConfig
) -> dict[str, np.ndarray]:
    """Return the weights of an embedding model.

    Args:
        config: Its shape.
        encoder: The encoder's weights under their canonical names.
        head: Decides the rest.
    """
    up, down = random_head(config, torch.Generator().manual_seed(head.seed))
    arrays = {name: encoder[name] for name in config.encoder.weight_shapes()}
    return arrays | {"up": up.numpy(), "down": down.numpy()}
