"""A pretrained encoder becomes an embedding model: it gets a new head and keeps its weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from culet.architecture.embedding_config import EmbeddingConfig
from culet.model.embedding_model import random_head


def with_head(
    config: EmbeddingConfig,
    encoder: Mapping[str, np.ndarray],
    *,
    seed: int,
    whiten: float = 0.0,
    pooled: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Return the weights of an embedding model whose head is a random projection.

    Args:
        config: Its shape.
        encoder: The encoder's weights under their canonical names.
        seed: Decides the projection.
        whiten: Above 0, the head also whitens, with this power of the variances (`whitening`).
        pooled: The encoder's vectors of some texts [T, D], to fit a head that whitens; a few
            times as many texts as the encoder is wide.
    """
    up, down = random_head(config, torch.Generator().manual_seed(seed))
    if whiten:
        assert pooled is not None, "a head that whitens is fitted to texts"
        # In the first map, so that the second never sees what is taken out: a little of that,
        # learnt again in each of its rows, would at once be most of every vector.
        up = up @ torch.from_numpy(whitening(pooled, whiten))
    arrays = {name: encoder[name] for name in config.encoder.weight_shapes()}
    return arrays | {"up": up.numpy(), "down": down.numpy()}


def quieted(encoder: Mapping[str, np.ndarray], share: float) -> dict[str, np.ndarray]:
    """Return an encoder's weights with the output of its sub-layers multiplied by a share."""
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
