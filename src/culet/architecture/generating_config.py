"""The sizes of decoders and encoder-decoders, and the name and shape of each of their weights.

A decoder is a causal stack with a language head (Gemma 3, arXiv 2503.19786; Gemma 2,
2408.00118). An encoder-decoder is two stacks, the decoder's with attention to the encoder's
output (T5Gemma, 2504.06225, section 3.1) or with that merged into its self-attention (T5Gemma 2,
2512.14856, section 2, equations 1-5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from culet.architecture.encoder_config import EncoderConfig, every_sixth
from culet.errors import InputError

CrossAttention = Literal["separate", "merged"]
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class DecoderConfig:
    """A causal stack and the head that turns its states into logits.

    Attributes:
        stack: The layers; `causal`.
        logit_softcap: cap · tanh(logits / cap) (30 in Gemma 2; none in Gemma 3).
        tied_head: The head is the token embedding.
    """

    stack: EncoderConfig
    logit_softcap: float | None = None
    tied_head: bool = True

    def __post_init__(self) -> None:
        if not self.stack.causal:
            raise InputError("the stack of a decoder must be causal")

    def weight_shapes(self) -> Shapes:
        """Return the name and shape of every weight, in canonical order."""
        head = (self.stack.vocab_size, self.stack.model_dim)
        return self.stack.weight_shapes() | ({} if self.tied_head else {"head": head})

    def num_parameters(self) -> int:
        """Return the number of weights."""
        return sum(math.prod(shape) for shape in self.weight_shapes().values())


@dataclass(frozen=True)
class EncoderDecoderConfig:
    """An encoder and a decoder that reads its output.

    Attributes:
        encoder: The encoder's layers; causal only in the test that an adapted copy loses nothing.
        decoder: The decoder's layers and head; its head is tied to its own input embedding.
        cross: "separate" is a sub-layer between self-attention and feed-forward; "merged" is one
            attention over decoder and encoder states with shared weights.
        tied_embeddings: Encoder, decoder and head share one table.
    """

    encoder: EncoderConfig
    decoder: DecoderConfig
    cross: CrossAttention = "separate"
    tied_embeddings: bool = False

    def __post_init__(self) -> None:
        encoder, stack = self.encoder, self.decoder.stack
        if self.cross == "merged" and encoder.model_dim != stack.model_dim:
            raise InputError(
                "merged attention needs an encoder as wide as the decoder, got "
                f"{encoder.model_dim} and {stack.model_dim}; use cross = 'separate'"
            )
        tables = [(s.vocab_size, s.model_dim) for s in (encoder, stack)]
        if self.tied_embeddings and (tables[0] != tables[1] or not self.decoder.tied_head):
            raise InputError(
                "tied embeddings need tables of one shape and a tied head, got encoder "
                f"{tables[0]}, decoder {tables[1]}, tied_head={self.decoder.tied_head}"
            )

    def weight_shapes(self) -> Shapes:
        """Return the name and shape of every weight, in canonical order.

        Encoder weights are `encoder.<name>`, decoder weights `decoder.<name>`; a tied table
        appears once, as `encoder.embed`.
        """
        shapes = {f"encoder.{name}": shape for name, shape in self.encoder.weight_shapes().items()}
        for name, shape in self.decoder.weight_shapes().items():
            if name == "embed" and self.tied_embeddings:
                continue
            shapes[f"decoder.{name}"] = shape
            block, _, last = name.rpartition(".")
            if last == "attention_post_norm" and self.cross == "separate":
                shapes |= self._cross_shapes(int(block.rpartition(".")[2]))
        return shapes

    def _cross_shapes(self, layer: int) -> Shapes:
        """Return the weights of one cross-attention sub-layer."""
        block, stack = f"decoder.blocks.{layer}", self.decoder.stack
        dim, width = stack.model_dim, self.encoder.model_dim
        rows, shared = (count * stack.head_dim for count in stack.heads(layer))
        return {
            f"{block}.cross_norm": (dim,),
            f"{block}.cross.query": (rows, dim),
            f"{block}.cross.key": (shared, width),
            f"{block}.cross.value": (shared, width),
            **stack.head_norm_shapes(f"{block}.cross"),
            f"{block}.cross.out": (dim, rows),
            f"{block}.cross_post_norm": (dim,),
        }

    def num_parameters(self) -> int:
        """Return the number of weights; a tied table counts once."""
        return sum(math.prod(shape) for shape in self.weight_shapes().values())


def gemma3_270m() -> DecoderConfig:
    """Return the shape of Gemma 3 270M: 268,098,176 parameters."""
    return DecoderConfig(
        EncoderConfig(
            vocab_size=262_144,
            num_layers=18,
            model_dim=640,
            ffn_dim=2048,
            num_heads=4,
            num_kv_heads=1,
            head_dim=256,
            window=511,
            global_layers=every_sixth(18),
            max_length=32_768,
            causal=True,
        )
    )


def gemma3_1b() -> DecoderConfig:
    """Return the shape of Gemma 3 1B: 999,885,952 parameters."""
    stack = replace(
        gemma3_270m().stack,
        num_layers=26,
        model_dim=1152,
        ffn_dim=6912,
        global_layers=every_sixth(26),
    )
    return DecoderConfig(stack)


def t5gemma(num_layers: int, model_dim: int, ffn_dim: int, num_heads: int) -> EncoderDecoderConfig:
    """Return a balanced T5Gemma of the S, B, L or XL kind: Gemma 2 layers, local ones first.

    S is (8, 512, 1024, 8) with 312,517,632 parameters, B (12, 768, 2048, 12) with 591,490,560.
    """
    encoder = EncoderConfig(
        vocab_size=256_000,
        num_layers=num_layers,
        model_dim=model_dim,
        ffn_dim=ffn_dim,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=64,
        window=4095,
        global_layers=tuple(range(1, num_layers, 2)),
        max_length=8192,
        global_rope_base=10_000.0,
        query_key_norm=False,
        attention_softcap=50.0,
    )
    decoder = DecoderConfig(replace(encoder, causal=True), logit_softcap=30.0)
    return EncoderDecoderConfig(encoder, decoder)
