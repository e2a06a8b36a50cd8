"""The sizes of one Gemma text stack, and the name and shape of each of its weights.

Other libraries' names for these sizes (`hidden_size`, `sliding_window`) are in
`culet.checkpoints.families` and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

from culet.errors import InputError

# Outside of these, attention sees nothing or everything alike, and vectors of unit length come out.
_BOUNDS = {
    "max_length": (3, 1e7),  # a beginning, an end and a token between them
    "window": (1, 1e7),
    "local_rope_base": (2, 1e10),
    "global_rope_base": (2, 1e10),
    "attention_scale": (1e-3, 1),  # query_pre_attn_scalar from a million down to 1
    "norm_eps": (1e-12, 0.1),
    "attention_softcap": (0.1, 1e6),
    "global_rope_scaling": (1e-3, 1e3),
}


@dataclass(frozen=True)
class EncoderConfig:
    """The architecture of a Gemma text stack: an encoder, or a decoder's layers if `causal`.

    What an embedding model may be is narrower: see `EmbeddingConfig`.

    Attributes:
        vocab_size: Rows of the token embedding.
        num_layers: Transformer layers.
        model_dim: Width of the residual stream.
        ffn_dim: Width of the gated feed-forward layer.
        num_heads: Query heads; a number for each layer where heads were pruned, 0 for a layer
            of an encoder that has no attention.
        num_kv_heads: Key and value heads, likewise; divides `num_heads` in each layer.
        head_dim: Width of one head; even, because rotary embedding rotates pairs.
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
    num_heads: int | tuple[int, ...]
    num_kv_heads: int | tuple[int, ...]
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
            value = getattr(self, name)
            if (max(value, default=0) if isinstance(value, tuple) else value) < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        self._check_heads()
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
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise InputError(f"{name} must be {least:g} to {most:g}, got {value}")

    def _check_heads(self) -> None:
        for name in ("num_heads", "num_kv_heads"):
            counts = getattr(self, name)
            if isinstance(counts, tuple) and len(counts) != self.num_layers:
                raise InputError(
                    f"{name} must be one number or one for each of {self.num_layers} layers, got "
                    f"{counts}"
                )
            if isinstance(counts, tuple) and len(set(counts)) == 1:  # one form, one fingerprint
                object.__setattr__(self, name, counts[0])
        for heads, kv_heads in map(self.heads, range(self.num_layers)):
            fits = kv_heads == 0 if heads == 0 else kv_heads > 0 and heads % kv_heads == 0
            if heads < 0 or not fits or (self.causal and heads == 0):
                raise InputError(
                    f"num_kv_heads must divide num_heads, got {self.num_kv_heads} and "
                    f"{self.num_heads}" + (" in a causal stack" if heads == 0 else "")
                )

    def heads(self, layer: int) -> tuple[int, int]:
        """Return the query heads of a layer (from 0) and its key and value heads."""
        both = self.num_heads, self.num_kv_heads
        query, key = (n if isinstance(n, int) else n[layer] for n in both)
        return query, key

    @property
    def max_heads(self) -> tuple[int, int]:
        """Return the heads of the layer that has the most."""
        return max(map(self.heads, range(self.num_layers)))

    @property
    def scale(self) -> float:
        """Return the factor on query·key: the stated one or head_dim^-0.5."""
        return self.head_dim**-0.5 if self.attention_scale is None else self.attention_scale

    def is_global(self, layer: int) -> bool:
        """Return whether a layer (from 0) sees the whole text."""
        return layer in self.global_layers

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every weight, in canonical order."""
        dim = self.model_dim
        shapes: dict[str, tuple[int, ...]] = {"embed": (self.vocab_size, dim)}
        for i in range(self.num_layers):
            rows, kv_rows = (count * self.head_dim for count in self.heads(i))
            shapes |= {
                f"blocks.{i}.attention_norm": (dim,),
                f"blocks.{i}.attention.query": (rows, dim),
                f"blocks.{i}.attention.key": (kv_rows, dim),
                f"blocks.{i}.attention.value": (kv_rows, dim),
                **self.head_norm_shapes(f"blocks.{i}.attention"),
                f"blocks.{i}.attention.out": (dim, rows),
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


def every_sixth(num_layers: int) -> tuple[int, ...]:
    """Return Gemma 3's global layers: five local ones, then a global one."""
    return tuple(layer for layer in range(num_layers) if (layer + 1) % 6 == 0)
