"""The sizes of an embedding model: an encoder, a pooling, two linear maps and trained widths.

`embeddinggemma_300m()` is the published shape (EmbeddingGemma, arXiv 2509.20354, section 2.1) and
counts exactly 307,581,696 parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Integral
from typing import Any, Literal

from culet.architecture.encoder_config import EncoderConfig, every_sixth
from culet.errors import InputError

Pooling = Literal["mean", "first", "last", "attention"]
POOLINGS: tuple[Pooling, ...] = ("mean", "first", "last", "attention")

# What the folder of an embedding model (`culet.checkpoints.embedding`) cannot say otherwise.
_OF_EMBEDDING_MODELS = {
    "causal": False,
    "window_after": None,
    "query_key_norm": True,
    "attention_softcap": None,
    "global_rope_scaling": 1.0,
}

EMBEDDINGGEMMA_WINDOW = 256  # tokens each way; stored on disk as sliding_window = 512


@dataclass(frozen=True)
class EmbeddingConfig:
    """An encoder, a pooling, two linear maps without bias, and the widths that are trained.

    Attributes:
        encoder: The stack of layers.
        projection_dim: Width between the two maps (3072 in EmbeddingGemma).
        embedding_dim: Width of the embedding.
        widths: Prefixes of the embedding that training made usable (Matryoshka), largest first.
        pooling: How token states become one vector.
        pooling_tokens: How many states "first" and "last" average.
        pooling_heads: Heads of "attention" pooling (4 in arXiv 2509.20354, table 3).
    """

    encoder: EncoderConfig
    projection_dim: int
    embedding_dim: int
    widths: tuple[int, ...]
    pooling: Pooling = "mean"
    pooling_tokens: int = 1
    pooling_heads: int = 4

    def __post_init__(self) -> None:
        for name, value in _OF_EMBEDDING_MODELS.items():
            if getattr(self.encoder, name) != value:
                raise InputError(
                    f"the encoder of an embedding model must have {name} = {value}, got "
                    f"{getattr(self.encoder, name)}: other libraries could not read its checkpoint"
                )
        if self.pooling not in POOLINGS:
            raise InputError(f"pooling must be one of {POOLINGS}, got {self.pooling!r}")
        if self.pooling_tokens < 1:
            raise InputError(f"pooling_tokens must be at least 1, got {self.pooling_tokens}")
        if self.pooling == "attention" and self.encoder.model_dim % self.pooling_heads:
            raise InputError(
                f"pooling_heads must divide model_dim, got {self.pooling_heads} "
                f"and {self.encoder.model_dim}"
            )
        expected = tuple(sorted(set(self.widths), reverse=True))
        if not self.widths or self.widths != expected or self.widths[0] != self.embedding_dim:
            raise InputError(
                "widths must fall strictly and begin with the full width "
                f"{self.embedding_dim}, got {self.widths}"
            )
        if self.widths[-1] < 1:
            raise InputError(f"widths must be positive, got {self.widths}")

    def identity(self) -> dict[str, Any]:
        """Return the sizes that tell one embedding model from another, for fingerprints.

        What is the same in all of them is left out, so that old fingerprints stay.
        """
        encoder = asdict(self.encoder)
        for name in _OF_EMBEDDING_MODELS:
            encoder.pop(name)
        return asdict(self) | {"encoder": encoder}

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every weight, in canonical order."""
        dim = self.encoder.model_dim
        shapes = self.encoder.weight_shapes()
        if self.pooling == "attention":
            shapes |= {"pool.probe": (dim,), "pool.key": (dim, dim), "pool.value": (dim, dim)}
        shapes["up"] = (self.projection_dim, dim)
        shapes["down"] = (self.embedding_dim, self.projection_dim)
        return shapes

    def num_parameters(self) -> int:
        """Return the number of weights."""
        return sum(math.prod(shape) for shape in self.weight_shapes().values())


def check_width(truncate_to: Any, widths: Sequence[int]) -> None:
    """Raise InputError unless `truncate_to` is one of the trained widths, as a whole number."""
    if not isinstance(truncate_to, Integral):
        raise InputError(f"truncate_to must be a whole number, got {truncate_to!r}")
    if truncate_to not in widths:
        raise InputError(
            f"truncate_to must be one of the trained widths {tuple(widths)}, got {truncate_to!r}; "
            "a prefix of another width was never trained and would be a poor embedding"
        )


def embeddinggemma_300m() -> EmbeddingConfig:
    """Return the shape of EmbeddingGemma: 307,581,696 parameters, 2,048 tokens, 768 wide."""
    encoder = EncoderConfig(
        vocab_size=262_144,
        num_layers=24,
        model_dim=768,
        ffn_dim=1152,
        num_heads=3,
        num_kv_heads=1,
        head_dim=256,
        window=EMBEDDINGGEMMA_WINDOW,
        global_layers=every_sixth(24),
        max_length=2048,
    )
    return EmbeddingConfig(
        encoder=encoder, projection_dim=3072, embedding_dim=768, widths=(768, 512, 256, 128)
    )


def tiny() -> EmbeddingConfig:
    """Return the shape the tests use: seven layers, 32 wide, one of them global."""
    encoder = replace(
        embeddinggemma_300m().encoder,
        vocab_size=272,  # the byte tokenizer: special and spare tokens, then 256 bytes
        num_layers=7,
        model_dim=32,
        ffn_dim=48,
        num_heads=2,
        head_dim=16,
        global_layers=every_sixth(7),
    )
    return EmbeddingConfig(encoder=encoder, projection_dim=64, embedding_dim=32, widths=(32, 16, 8))
