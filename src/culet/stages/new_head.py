"""Settings of the new head that stages put on a pretrained encoder."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from culet.architecture.embedding_config import EmbeddingConfig
from culet.architecture.encoder_config import EncoderConfig
from culet.errors import InputError
from culet.files.settings import LATER


@dataclass(frozen=True)
class HeadConfig:
    """The new head of an encoder that has none. It begins as a random projection.

    Attributes:
        projection_dim: Width between the two maps; 0 takes four times the encoder's width.
        embedding_dim: Width of the embedding; 0 takes the encoder's.
        widths: Widths the embedding may be truncated to; the full one and three halvings of it
            by default.
        max_length: Longest text of the embedding model, at most the encoder's.
        seed: Decides the weights.
        sublayers: Factor on the output of the encoder's sub-layers; 1 leaves it as it is. In a
            short pretraining they learn little but what all texts have in common, and a factor
            like 0.02 lets the contrastive stages begin from the tokens, with trained attention at
            hand.
        whiten: 0 projects the encoder's vectors as they are. Above 0, up to 0.5, the head is
            fitted to texts: it does not read what their vectors have in common, and each principal
            direction of the rest is scaled by its variance to the power of minus `whiten`; see
            `culet.model.heads.whitening`. Nothing is published for this; 0.25 did best (LOG.md).
    """

    projection_dim: int = 0
    embedding_dim: int = 0
    widths: tuple[int, ...] = ()
    max_length: int = 2048
    seed: int = 0
    sublayers: float = field(default=1.0, metadata=LATER)
    whiten: float = field(default=0.0, metadata=LATER)

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
