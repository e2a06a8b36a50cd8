"""The sizes of a Gemma 3 text encoder and of the embedding model on top of it.

One frozen dataclass each; `embeddinggemma_300m()` is the published shape (EmbeddingGemma,
arXiv 2509.20354, section 2.1) and counts exactly 307,581,696 parameters. Names of other
libraries (`hidden_size`, `sliding_window`) appear only in `culet.checkpoints.embedding`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

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
class EncoderConfig:
    """The architecture of a Gemma text stack: an encoder, or a decoder's layers if `causal`.

    What an embedding model may be is narrower: see `EmbeddingConfig`.

    Attributes:
        vocab_size: Rows of the token embedding.
        num_layers: Transformer layers.
        model_dim: Width of the residual stream.
        ffn_dim: Width of the gated feed-forward layer.
        num_heads: Query heads.
        num_kv_heads: Key and value heads; divides `num_heads`.
        head_dim: Width of one head; even, because rotary embedding turns pairs.
        window: Tokens a local layer sees on each side of a token, itself not counted; only
            those before it if `causal`.
        global_layers: Indices (from 0) of the layers that see the whole text.
        max_length: Longest text in tokens, BOS and EOS counted.
        local_rope_base: Rotary base of local layers.
        global_rope_base: Rotary base of global layers.
        attention_scale: Factor on query·key before the softmax.
        norm_eps: Epsilon of every RMSNorm.
        dropout: Rate after the embedding, after each sub-layer and after the last norm;
            active in training only. Released checkpoints use 0.
        causal: Every token sees itself and what is before it: the mask of a decoder.
        window_after: Tokens a local layer sees after a token, if not `window`; T5Gemma 2's
            encoder sees one more after than before.
        query_key_norm: Queries and keys are normed by head (Gemma 3), or not (Gemma 2).
        attention_softcap: cap · tanh(scores / cap) before the softmax (50 in Gemma 2).
        global_rope_scaling: Positions of global layers are divided by this (8 in Gemma 3 from
            4B on).
    """

    vocab_size: int
    num_layers: int
    model_dim: int
    ffn_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    window: int
    global_layers: tuple[int, ...]
    max_length: int
    local_rope_base: float = 10_000.0
    global_rope_base: float = 1_000_000.0
    attention_scale: float | None = None
    norm_eps: float = 1e-6
    dropout: float = 0.0
    causal: bool = False
    window_after: int | None = None
    query_key_norm: bool = True
    attention_softcap: float | None = None
    global_rope_scaling: float = 1.0

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "num_layers",
            "model_dim",
            "ffn_dim",
            "num_heads",
            "num_kv_heads",
            "head_dim",
            "window",
            "max_length",
        ):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_heads % self.num_kv_heads:
            raise InputError(
                f"num_kv_heads must divide num_heads, got {self.num_kv_heads} and {self.num_heads}"
            )
        if self.head_dim % 2:
            raise InputError(f"head_dim must be even for rotary embedding, got {self.head_dim}")
        wrong = [layer for layer in self.global_layers if not 0 <= layer < self.num_layers]
        if wrong:
            raise InputError(f"global_layers {wrong} are not among {self.num_layers} layers")
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"dropout must be at least 0 and below 1, got {self.dropout}")
        if self.window_after is not None and (self.causal or self.window_after < 0):
            raise InputError(
                "window_after must be 0 or more and has no meaning in a causal stack, got "
                f"{self.window_after}"
            )
        for name in ("attention_softcap", "global_rope_scaling"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name} must be above 0 and finite, got {value}")

    @property
    def scale(self) -> float:
        """Return the factor on query·key: the stated one or head_dim^-0.5."""
        return self.head_dim**-0.5 if self.attention_scale is None else self.attention_scale

    def is_global(self, layer: int) -> bool:
        """Return whether a layer (from 0) sees the whole text."""
        return layer in self.global_layers

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every weight, in canonical order."""
        dim, head = self.model_dim, self.head_dim
        shapes: dict[str, tuple[int, ...]] = {"embed": (self.vocab_size, dim)}
        for i in range(self.num_layers):
            shapes |= {
                f"blocks.{i}.attention_norm": (dim,),
                f"blocks.{i}.attention.query": (self.num_heads * head, dim),
                f"blocks.{i}.attention.key": (self.num_kv_heads * head, dim),
                f"blocks.{i}.attention.value": (self.num_kv_heads * head, dim),
                **self.head_norm_shapes(f"blocks.{i}.attention"),
                f"blocks.{i}.attention.out": (dim, self.num_heads * head),
                f"blocks.{i}.attention_post_norm": (dim,),
                f"blocks.{i}.ffn_norm": (dim,),
                f"blocks.{i}.ffn.gate": (self.ffn_dim, dim),
                f"blocks.{i}.ffn.up": (self.ffn_dim, dim),
                f"blocks.{i}.ffn.down": (dim, self.ffn_dim),
                f"blocks.{i}.ffn_post_norm": (dim,),
            }
        return shapes | {"norm": (dim,)}

    def head_norm_shapes(self, attention: str) -> dict[str, tuple[int, ...]]:
        """Return the norms of queries and keys in one attention, if this stack has them."""
        if not self.query_key_norm:
            return {}
        return {f"{attention}.{name}": (self.head_dim,) for name in ("query_norm", "key_norm")}


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
        """Return the name and shape of every weight of the whole model, in canonical order."""
        dim = self.encoder.model_dim
        shapes = self.encoder.weight_shapes()
        if self.pooling == "attention":
            shapes |= {"pool.probe": (dim,), "pool.key": (dim, dim), "pool.value": (dim, dim)}
        shapes["up"] = (self.projection_dim, dim)
        shapes["down"] = (self.embedding_dim, self.projection_dim)
        return shapes

    def num_parameters(self) -> int:
        """Return the number of weights of the whole model."""
        return sum(math.prod(shape) for shape in self.weight_shapes().values())


def check_width(truncate_to: int, widths: Sequence[int]) -> None:
    """Raise InputError unless `truncate_to` is one of the trained widths."""
    if truncate_to not in widths:
        raise InputError(
            f"truncate_to must be one of the trained widths {tuple(widths)}, got {truncate_to!r}; "
            "a prefix of another width was never trained and would be a poor embedding"
        )


def every_sixth(num_layers: int) -> tuple[int, ...]:
    """Return Gemma 3's global layers: five local ones, then a global one."""
    return tuple(layer for layer in range(num_layers) if (layer + 1) % 6 == 0)


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
