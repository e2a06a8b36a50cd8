"""From a decoder to an encoder-decoder and on to an encoder, as arrays: nothing is trained here.

T5Gemma (arXiv 2504.06225, section 3.2): the encoder is the decoder without its causal mask, and
the decoder is itself with attention to the encoder between self-attention and feed-forward. If
both sides have one size (balanced), cross-attention begins as the self-attention of its layer;
otherwise it is random, and the paper trains it alone for the first 1,000 steps. With merged
attention (T5Gemma 2, 2512.14856) nothing is new at all.

What the papers leave open is decided here by name: `CrossNorms`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from culet.architecture.encoder_config import EncoderConfig
from culet.architecture.generating_config import CrossAttention, DecoderConfig, EncoderDecoderConfig
from culet.errors import CheckpointError, InputError

Arrays = dict[str, np.ndarray]
Side = Literal["encoder", "decoder"]

EncoderWindow = Literal["half", "split", "whole"]
"""What a local layer of the encoder sees, where the decoder's saw w tokens, itself counted.

"half"    w / 2 each side: 512 becomes 256 and 256, as in EmbeddingGemma
"split"   T5Gemma 2's: the w tokens laid about the token, 255 before and 256 after
"whole"   T5Gemma's: w − 1 each side, twice what the decoder saw
"""

CrossNorms = Literal["copied", "plain", "quiet"]
"""How the two norms of a cross-attention sub-layer begin; the papers do not say.

"copied"  as the norms of the self-attention of the same layer
"plain"   0 in both, which multiplies by 1, as any new norm of this family
"quiet"   the norm before as "copied", if balanced; the norm after multiplies by 0.02, so that the
          decoder begins as the language model it was
"""

_QUIET = np.float32(-0.98)  # 1 + w = 0.02, as in `culet.model.embedding_model.initialize`
_NORMS = {"cross_norm": "attention_norm", "cross_post_norm": "attention_post_norm"}


@dataclass(frozen=True)
class Origin:
    """Where a weight of the encoder-decoder comes from.

    Attributes:
        source: Which of the two decoders; they are one if there is no second.
        name: The weight's name there.
    """

    source: Side
    name: str


def adapted_config(
    decoder: DecoderConfig,
    encoder: DecoderConfig | None = None,
    *,
    cross: CrossAttention = "separate",
    tied_embeddings: bool = False,
    encoder_window: EncoderWindow = "half",
) -> EncoderDecoderConfig:
    """Return the shape of the encoder-decoder that decoders become.

    Args:
        decoder: Becomes the decoder.
        encoder: Becomes the encoder; the same one, if left out.
        cross: See `EncoderDecoderConfig`.
        tied_embeddings: See `EncoderDecoderConfig`.
        encoder_window: See there.

    Raises:
        InputError: If the two cannot go together.
    """
    if encoder is not None and encoder.stack.vocab_size != decoder.stack.vocab_size:
        raise InputError(
            "encoder and decoder must share a tokenizer, got vocabularies of "
            f"{encoder.stack.vocab_size} and {decoder.stack.vocab_size} tokens"
        )
    if encoder is not None and tied_embeddings:
        raise InputError(
            "tied embeddings need encoder and decoder from one decoder, got two; leave the "
            "encoder out, or tied_embeddings = false"
        )
    stack = (decoder if encoder is None else encoder).stack
    before, after = _window(stack.window + 1, encoder_window)
    own = replace(stack, causal=False, window=before, window_after=after)
    return EncoderDecoderConfig(own, decoder, cross=cross, tied_embeddings=tied_embeddings)


def _window(seen: int, rule: EncoderWindow) -> tuple[int, int | None]:
    """Return the encoder's window and window_after, where the decoder saw `seen` tokens."""
    if rule == "half":
        return max(1, seen // 2), None
    if rule == "split":
        return max(1, (seen + 1) // 2 - 1), seen // 2
    if rule == "whole":
        return max(1, seen - 1), None
    raise InputError(f"encoder_window must be 'half', 'split' or 'whole', got {rule!r}")


def is_balanced(config: EncoderDecoderConfig) -> bool:
    """Return whether both sides have the same sizes, whatever their masks."""
    stack = config.decoder.stack
    back = replace(config.encoder, causal=True, window=stack.window, window_after=None)
    return replace(back, dropout=stack.dropout, max_length=stack.max_length) == stack


def origins(config: EncoderDecoderConfig) -> dict[str, Origin | None]:
    """Return where each weight of an encoder-decoder comes from; None is new.

    Only cross-attention and its norms are ever new, and of a balanced pair only the norms.
    """
    balanced = is_balanced(config)
    found: dict[str, Origin | None] = {}
    for name in config.weight_shapes():
        side, _, rest = name.partition(".")
        last = rest.rpartition(".")[2]
        if last in _NORMS or (".cross." in rest and not balanced):
            found[name] = None
        else:
            found[name] = Origin(_side(side), rest.replace(".cross.", ".attention."))
    return found


def _side(name: str) -> Side:
    return "encoder" if name == "encoder" else "decoder"


def adapt(
    config: EncoderDecoderConfig,
    decoder: Mapping[str, np.ndarray],
    encoder: Mapping[str, np.ndarray] | None = None,
    *,
    cross_norms: CrossNorms = "quiet",
    seed: int = 0,
) -> Arrays:
    """Return the weights of the encoder-decoder. Copies are not made: arrays are shared.

    Args:
        config: Its shape, from `adapted_config`.
        decoder: Weights of the decoder that becomes the decoder.
        encoder: Weights of the decoder that becomes the encoder; the same, if left out.
        cross_norms: See there.
        seed: Decides what is random: the cross-attention of an unbalanced pair, normal with a
            standard deviation of in_dim^-0.5.

    Raises:
        CheckpointError: If a source lacks a weight, has one too many, or one of another shape.
    """
    sources: dict[Side, Mapping[str, np.ndarray]] = {
        "decoder": decoder,
        "encoder": decoder if encoder is None else encoder,
    }
    generator = np.random.default_rng(seed)
    found, shapes = origins(config), config.weight_shapes()
    _check_consumption(config, found, sources)
    arrays: Arrays = {}
    for name, shape in shapes.items():
        origin = found[name]
        if origin is None:
            arrays[name] = _new(name, shape, decoder, cross_norms, config, generator)
            continue
        value = sources[origin.source][origin.name]
        if value.shape != shape:
            raise CheckpointError(
                f"weight {name} comes from {origin.name} of the {origin.source}'s source and must "
                f"have shape {shape}, got {value.shape}"
            )
        arrays[name] = value
    return arrays


def _new(
    name: str,
    shape: tuple[int, ...],
    decoder: Mapping[str, np.ndarray],
    norms: CrossNorms,
    config: EncoderDecoderConfig,
    generator: np.random.Generator,
) -> np.ndarray:
    """Return the first value of a weight that no source has."""
    block, _, last = name.rpartition(".")
    if last not in _NORMS:
        if last.endswith("_norm"):
            return np.zeros(shape, dtype=np.float32)
        drawn = generator.standard_normal(shape, dtype=np.float32)
        return drawn * np.float32(shape[-1] ** -0.5)
    if norms == "quiet" and last == "cross_post_norm":
        return np.full(shape, _QUIET, dtype=np.float32)
    if norms == "plain" or (norms == "quiet" and not is_balanced(config)):
        return np.zeros(shape, dtype=np.float32)
    return decoder[f"{block.removeprefix('decoder.')}.{_NORMS[last]}"]


def _check_consumption(
    config: EncoderDecoderConfig,
    found: Mapping[str, Origin | None],
    sources: Mapping[Side, Mapping[str, np.ndarray]],
) -> None:
    """Raise unless each side takes every tensor of its source exactly once.

    Cross-attention that is copied takes its tensors a second time. An encoder has no head, and a
    tied table is taken once for both sides.
    """
    for side in sources:
        own = {n: o for n, o in found.items() if o is not None and n.startswith(f"{side}.")}
        taken = Counter(origin.name for name, origin in own.items() if ".cross." not in name)
        again = Counter(origin.name for name, origin in own.items() if ".cross." in name)
        needless = {"head"} if side == "encoder" else set()
        if side == "decoder" and config.tied_embeddings:
            needless = {"embed"}
        left = sorted(set(sources[side]) - set(taken) - needless)
        lacking = sorted(set(taken) - set(sources[side]))
        if left or lacking:
            raise CheckpointError(
                f"the {side}'s source does not fit its config: missing {lacking}, unexpected {left}"
            )
        assert {*taken.values(), *again.values()} <= {1}, "a tensor is taken twice"


def encoder_of(
    config: EncoderDecoderConfig, arrays: Mapping[str, np.ndarray]
) -> tuple[EncoderConfig, Arrays]:
    """Return the encoder of an encoder-decoder: its shape and its weights.

    `culet.model.heads` puts a head on it and so makes an embedding model.
    """
    names = config.encoder.weight_shapes()
    return config.encoder, {name: arrays[f"encoder.{name}"] for name in names}
