"""An encoder that was pretrained becomes an embedding model: a new head, and nothing else moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from culet.architecture.embedding_config import EmbeddingConfig
from culet.architecture.encoder_config import EncoderConfig
from culet.errors import InputError
from culet.model.embedding_model import random_head


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
        sublayers: How loud the encoder's sub-layers speak beside its tokens, as a share of how
            loud they were; 1 leaves it as it is. In a short pretraining they learn little but
            what all texts have in common, and a share like 0.02 lets the contrastive stages begin
            from the tokens, with trained attention at hand.
        whiten: 0 projects what the encoder says as it is. Above 0, up to 0.5, the head is fitted to
            texts: it does not read what their vectors have in common, and each principal
            direction of the rest is scaled by its variance to the power of minus `whiten`; see
            `whitening`. Nothing is published for this; 0.25 did best (LOG.md).
    """

    projection_dim: int = 0
    embedding_dim: int = 0
    widths: tuple[int, ...] = ()
    max_length: int = 2048
    seed: int = 0
    sublayers: float = field(default=1.0, metadata={"later": True})
    whiten: float = field(default=0.0, metadata={"later": True})  # LATER of `culet.files.settings`

    def __post_init__(self) -> None:
        if min(self.projection_dim, self.embedding_dim) < 0 or self.max_length < 2:
            raise InputError(
                "projection_dim and embedding_dim must be positive (or 0 for the default) and "
                f"max_length at least 2, got {self.projection_dim}, {self.embedding_dim}, "
                f"{self.max_length}"
            )
        if not 0 <= self.whiten <= 0.5:
            raise InputError(f"whiten must be from 0 to 0.5, got {self.whiten}")
        if not 0 < self.sublayers <= 1:
            raise InputError(f"sublayers must be above 0 and at most 1, got {self.sublayers}")


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
    config: EmbeddingConfig,
    encoder: Mapping[str, np.ndarray],
    head: HeadConfig,
    *,
    pooled: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Return the weights of an embedding model.

    Args:
        config: Its shape.
        encoder: The encoder's weights under their canonical names.
        head: Decides the rest.
        pooled: What the encoder makes of some texts [T, D], for a head that is fitted to them; a
            few times as many texts as the encoder is wide.
    """
    up, down = random_head(config, torch.Generator().manual_seed(head.seed))
    if head.whiten:
        assert pooled is not None, "a head that whitens is fitted to texts"
        # In the first map, so that the second never sees what is taken out: a little of that,
        # learnt again in each of its rows, would at once be most of every vector.
        up = up @ torch.from_numpy(whitening(pooled, head.whiten))
    arrays = {name: encoder[name] for name in config.encoder.weight_shapes()}
    return arrays | {"up": up.numpy(), "down": down.numpy()}


def quieted(encoder: Mapping[str, np.ndarray], share: float) -> dict[str, np.ndarray]:
    """Return an encoder's weights with what its sub-layers add multiplied by a share."""
    return {
        name: _scaled(value, share) if name.endswith("post_norm") else value
        for name, value in encoder.items()
    }


def _scaled(norm: np.ndarray, share: float) -> np.ndarray:
    """Return a norm's weight w whose 1 + w is a share of what it was; exactly w for 1."""
    return np.asarray(norm * np.float32(share) + np.float32(share - 1))


def whitening(pooled: np.ndarray, power: float) -> np.ndarray:
    """Return the map [D, D] that takes the mean out of vectors and evens out their variance.

    A language model's vectors have much in common that tells no text from another, and a few
    directions of large variance drown the rest. As in whitening for BERT (Su et al., arXiv
    2103.15316), but with a power of the variance of our choice (1/2 would make all directions
    equal), for vectors of unit length, and linear, as a head is: the mean is not subtracted, its
    direction is projected out.

    Args:
        pooled: Vectors [T, D].
        power: Each principal direction is scaled by its variance to the minus this; variances
            below 1e-4 of the largest count as that.
    """
    vectors = _unit(pooled.astype(np.float64))
    mean = _unit(vectors.mean(0))
    keep = np.eye(len(mean)) - np.outer(mean, mean)
    rest = _unit(vectors @ keep)
    variances, directions = np.linalg.eigh(rest.T @ rest / len(rest))
    scale = np.maximum(variances, 1e-4 * variances[-1]) ** -power
    scale /= scale[-1]  # the largest direction keeps its length
    return np.asarray(keep @ (directions * scale) @ directions.T @ keep, dtype=np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12))
