"""Conversion of decoders to an encoder-decoder, and of that to an encoder, without training.

T5Gemma (arXiv 2504.06225, section 3.2): the encoder is the decoder without its causal mask, and
the decoder gains attention to the encoder between self-attention and feed-forward. If both sides
have the same size (balanced), cross-attention starts as a copy of the self-attention of its layer;
otherwise it is random, and the paper trains it alone for the first 1,000 steps. With merged
attention (T5Gemma 2, 2512.14856) no weight is new.

`CrossNorms` names the choices that the papers leave open.
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
"""What a local layer of the encoder sees if the decoder's saw w tokens, the token itself included.

"half"    w / 2 on each side: 512 becomes 256 and 256, as in EmbeddingGemma
"split"   as in T5Gemma 2: w tokens around the token, 255 before and 256 after
"whole"   as in T5Gemma: w − 1 on each side, twice what the decoder saw
"""

CrossNorms = Literal["copied", "plain", "quiet"]
"""How the two norms of a cross-attention sub-layer are initialised; the papers leave it open.

"copied"  as the norms of the self-attention of the same layer
"plain"   0 in both, a factor of 1, as in any new norm of this family
"quiet"   the norm before as "copied" if balanced; the norm after scales by 0.02, so that the
          decoder starts close to the language model it was
"""

_QUIET = np.float32(-0.98)  # 1 + w = 0.02, as in `culet.model.embedding_model.initialize`
_NORMS = {"cross_norm": "attention_norm", "cross_post_norm": "attention_post_norm"}


@dataclass(frozen=True)
class Origin:
    """Where a weight of the encoder-decoder comes from.

    Attributes:
        source: Which of the two decoders; both are the same if only one is given.
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
        encoder: Becomes the encoder; `decoder` if left out.
        cross: See `EncoderDecoderConfig`.
        tied_embeddings: See `EncoderDecoderConfig`.
        encoder_window: See `EncoderWindow`.

    Raises:
        InputError: If the two are incompatible.
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
    """Return the encoder's window and window_after for a decoder that saw `seen` tokens."""
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
    """Return the weights of the encoder-decoder; arrays are shared, not copied.

    Args:
        config: Its shape, from `adapted_config`.
        decoder: Weights of the decoder that becomes the decoder.
        encoder: Weights of the decoder that becomes the encoder; `decoder` if left out.
        cross_norms: See `CrossNorms`.
        seed: Seed of what is random: the cross-attention of an unbalanced pair, normal with a
            standard deviation of in_dim^-0.5.

    Raises:
        CheckpointError: If a source lacks a weight, or has an extra one or one of the wrong shape.
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
    """Return the initial value of a weight that no source has."""
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
    """Raise unless each side uses every tensor of its source exactly once.

    Copied cross-attention uses its tensors a second time. An encoder has no head, and a tied table
    is used once for both sides.
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

    `culet.model.heads` adds a head, which makes it an embedding model.
    """
    names = config.encoder.weight_shapes()
    return config.encoder, {name: arrays[f"encoder.{name}"] for name in names}
