"""What other libraries call one stack of layers: its sizes and its tensors, in and out.

Gemma 3 and Gemma 2 are written in two ways, EmbeddingGemma is a Gemma 3 whose tokens see both
sides, T5Gemma and T5Gemma 2 reuse these stacks for encoder and decoder, and GGUF files have names
of their own (`culet.checkpoints.gguf.reader`). A `Family` holds the differences; what a config
sets beyond them is refused by name. `culet.checkpoints.own_config` writes what no family can.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from culet.architecture.embedding_config import EMBEDDINGGEMMA_WINDOW
from culet.architecture.encoder_config import EncoderConfig
from culet.architecture.generating_config import DecoderConfig
from culet.checkpoints.json_fields import integer, integers, number, optional_number, table
from culet.errors import CheckpointError, InputError

# transformers before August 2026 halved `sliding_window` at every save (512 -> 257 -> 129 ...)
DAMAGED_WINDOWS = (257, 129, 65, 33, 17, 9, 5, 3, 2)
_MAX_LAYERS = 1000  # a config that claims more is damaged, and would cost memory before weights do
LOCAL, GLOBAL = "sliding_attention", "full_attention"
_BIDIRECTIONAL = "use_bidirectional_attention"


@dataclass(frozen=True)
class Family:
    """How one kind of stack is written.

    Attributes:
        model_type: Its name in config.json.
        pattern: The period of global layers where the config does not list them.
        query_key_norm: Queries and keys are normed.
        two_ropes: Local and global layers have rotary bases of their own, and scores no cap;
            else one base serves all.
        window: What `sliding_window` counts: the distance at which a token is no longer seen, the
            width of the whole window, or twice the tokens seen on each side.
        defaults: What the libraries assume where the config is silent.
        keys: Size of the stack to its key in the config.
        names: Weight to its name on disk, `{}` standing for the layer.
        embedding: The encoder of an embedding model: bidirectional, every size stated, nothing
            scaled or capped.
    """

    model_type: str
    pattern: int
    query_key_norm: bool
    two_ropes: bool
    defaults: Mapping[str, Any]
    keys: Mapping[str, str]
    names: Mapping[str, str]
    window: Literal["distance", "width", "both sides"] = "distance"
    embedding: bool = False

    def disk_name(self, name: str) -> str:
        """Return the name on disk of one weight of a stack."""
        if not name.startswith("blocks."):
            return self.names[name]
        _, layer, rest = name.split(".", 2)
        return self.names[rest].format(layer)


_SIZES = {
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "sliding_window": 4096,
}
_GEMMA3 = _SIZES | {"vocab_size": 262_208, "max_position_embeddings": 131_072}
_GEMMA2 = _SIZES | {
    "vocab_size": 256_000,
    "max_position_embeddings": 8192,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}
_KEYS = {
    "vocab_size": "vocab_size",
    "num_layers": "num_hidden_layers",
    "model_dim": "hidden_size",
    "ffn_dim": "intermediate_size",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "max_length": "max_position_embeddings",
    "window": "sliding_window",
    "norm_eps": "rms_norm_eps",
    "local_rope_base": "rope_local_base_freq",
    "global_rope_base": "rope_theta",
}
_HEADS = ("num_heads", "num_kv_heads")
_COUNTS = ("vocab_size", "num_layers", "model_dim", "ffn_dim", *_HEADS, "head_dim")

_SHARED_NAMES = {
    "embed": "embed_tokens.weight",
    "norm": "norm.weight",
    "attention.query": "layers.{}.self_attn.q_proj.weight",
    "attention.key": "layers.{}.self_attn.k_proj.weight",
    "attention.value": "layers.{}.self_attn.v_proj.weight",
    "attention.query_norm": "layers.{}.self_attn.q_norm.weight",
    "attention.key_norm": "layers.{}.self_attn.k_norm.weight",
    "attention.out": "layers.{}.self_attn.o_proj.weight",
    "ffn_norm": "layers.{}.pre_feedforward_layernorm.weight",
    "ffn.gate": "layers.{}.mlp.gate_proj.weight",
    "ffn.up": "layers.{}.mlp.up_proj.weight",
    "ffn.down": "layers.{}.mlp.down_proj.weight",
    "ffn_post_norm": "layers.{}.post_feedforward_layernorm.weight",
}
_NAMES = _SHARED_NAMES | {
    "attention_norm": "layers.{}.input_layernorm.weight",
    "attention_post_norm": "layers.{}.post_attention_layernorm.weight",
}
_CROSS_NAMES = _SHARED_NAMES | {
    "attention_norm": "layers.{}.pre_self_attn_layernorm.weight",
    "attention_post_norm": "layers.{}.post_self_attn_layernorm.weight",
    "cross_norm": "layers.{}.pre_cross_attn_layernorm.weight",
    "cross.query": "layers.{}.cross_attn.q_proj.weight",
    "cross.key": "layers.{}.cross_attn.k_proj.weight",
    "cross.value": "layers.{}.cross_attn.v_proj.weight",
    "cross.query_norm": "layers.{}.cross_attn.q_norm.weight",
    "cross.key_norm": "layers.{}.cross_attn.k_norm.weight",
    "cross.out": "layers.{}.cross_attn.o_proj.weight",
    "cross_post_norm": "layers.{}.post_cross_attn_layernorm.weight",
}
GEMMA3 = Family("gemma3_text", 6, True, True, _GEMMA3, _KEYS, _NAMES)
GEMMA2 = Family("gemma2", 2, False, False, _GEMMA2, _KEYS, _NAMES)
EMBEDDINGGEMMA = replace(GEMMA3, defaults={}, window="both sides", embedding=True)
T5GEMMA = replace(GEMMA2, model_type="t5_gemma_module", names=_CROSS_NAMES)
T5GEMMA2_DECODER = replace(GEMMA3, model_type="t5gemma2_decoder", names=_CROSS_NAMES)
T5GEMMA2_ENCODER = replace(T5GEMMA2_DECODER, model_type="t5gemma2_text", window="width")


def read_stack(
    raw: Mapping[str, Any], family: Family, *, causal: bool, where: Path
) -> EncoderConfig:
    """Return the stack that a config, or a part of one, describes.

    Args:
        raw: The part of config.json that describes this stack.
        family: How it is written.
        causal: Whether it is a decoder's.
        where: The file, for messages.

    Raises:
        CheckpointError: If a value is missing or impossible, or asks for what this stack lacks.
    """
    values = {**family.defaults, **raw}
    _refuse_features(values, family, causal=causal, where=where)
    sizes: dict[str, Any] = {size: integer(values, family.keys[size], where) for size in _COUNTS}
    check_num_layers(sizes["num_layers"], family.keys["num_layers"], where)
    if family.embedding:
        own = table(values, "culet", where)
        sizes |= {size: integers(own, size, where) for size in _HEADS if size in own}
    local_base, global_base, scaling = _ropes(values, family, where)
    scale = number(values, "query_pre_attn_scalar", 256.0, where) ** -0.5
    window, after = _windows(_stored_window(values, family, where), family)
    try:
        stack = EncoderConfig(
            **sizes,
            window=window,
            global_layers=_global_layers(values, sizes["num_layers"], family, where),
            max_length=integer(values, family.keys["max_length"], where),
            local_rope_base=local_base,
            global_rope_base=global_base,
            attention_scale=scale,
            norm_eps=number(values, family.keys["norm_eps"], 1e-6, where),
            causal=causal,
            window_after=after,
            query_key_norm=family.query_key_norm,
            attention_softcap=optional_number(values, "attn_logit_softcapping", where),
            global_rope_scaling=scaling,
        )
    except InputError as error:
        raise CheckpointError(f"{where}: {error}") from error
    return replace(stack, attention_scale=None) if scale == stack.head_dim**-0.5 else stack


def read_decoder(
    raw: Mapping[str, Any], family: Family, *, tied_head: bool = True, where: Path
) -> DecoderConfig:
    """Return the decoder that a config, or a part of one, describes; see `read_stack`."""
    return DecoderConfig(
        read_stack(raw, family, causal=True, where=where),
        optional_number({**family.defaults, **raw}, "final_logit_softcapping", where),
        tied_head,
    )


def check_num_layers(num_layers: int, key: str, where: Path) -> None:
    """Raise CheckpointError for a number of layers that no model has."""
    if not 1 <= num_layers <= _MAX_LAYERS:
        raise CheckpointError(f"{where}: {key} must be 1 to {_MAX_LAYERS}, got {num_layers}")


def repairs(raw: Mapping[str, Any], encoder: EncoderConfig) -> list[str]:
    """Return a sentence for what was repaired in the config of an embedding model."""
    stored, true = raw["sliding_window"], 2 * encoder.window
    if stored == true:
        return []
    return [
        f"config.json states sliding_window={stored}, which a faulty save has halved; "
        f"repaired to {true} (±{encoder.window} tokens). Save the checkpoint again with culet "
        "to mend it on disk"
    ]


def writable(stack: EncoderConfig, family: Family) -> bool:
    """Return whether a family can express everything about a stack."""
    plain_rope = stack.local_rope_base == stack.global_rope_base and stack.global_rope_scaling == 1
    width = _written_window(stack, family)
    return (
        stack.query_key_norm == family.query_key_norm
        and (family.two_ropes or plain_rope)
        and (stack.attention_softcap is None or not family.two_ropes)
        and _windows(width, family) == (stack.window, stack.window_after)
        and isinstance(_whole(stack.scale**-2), int)
        and stack.max_heads == (stack.num_heads, stack.num_kv_heads)  # the same in all layers
        and stack.model_dim % stack.max_heads[0] == 0  # transformers insists on it
    )


def write_stack(stack: EncoderConfig, family: Family) -> dict[str, Any]:
    """Return the part of config.json that describes a stack, for every generation of readers."""
    local: dict[str, Any] = {"rope_type": "default", "rope_theta": stack.local_rope_base}
    whole: dict[str, Any] = {"rope_type": "default", "rope_theta": stack.global_rope_base}
    if stack.global_rope_scaling != 1:
        whole |= {"rope_type": "linear", "factor": stack.global_rope_scaling}
    written = {
        "model_type": family.model_type,
        **{family.keys[size]: getattr(stack, size) for size in _COUNTS},
        **{family.keys[size]: most for size, most in zip(_HEADS, stack.max_heads, strict=True)},
        "query_pre_attn_scalar": _whole(stack.scale**-2),
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": stack.norm_eps,
        "max_position_embeddings": stack.max_length,
        "sliding_window": _written_window(stack, family),
        "layer_types": [GLOBAL if stack.is_global(i) else LOCAL for i in range(stack.num_layers)],
        "rope_parameters": {GLOBAL: whole, LOCAL: local} if family.two_ropes else whole,
        "rope_theta": stack.global_rope_base,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": stack.attention_softcap,
        "final_logit_softcapping": None,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }
    if family.two_ropes:
        written["rope_local_base_freq"] = stack.local_rope_base
    if family.embedding:  # the true window stands beside the foreign one, so that any size survives
        own = {size: list(n) for size in _HEADS if isinstance(n := getattr(stack, size), tuple)}
        written |= {_BIDIRECTIONAL: True, "culet": {"window": stack.window, **own}}
    return written


def write_decoder(config: DecoderConfig, family: Family) -> dict[str, Any]:
    """Return the part of config.json that describes a decoder."""
    return write_stack(config.stack, family) | {"final_logit_softcapping": config.logit_softcap}


def _refuse_features(
    values: Mapping[str, Any], family: Family, *, causal: bool, where: Path
) -> None:
    kind = values.get("model_type", None if family.embedding else family.model_type)
    if kind != family.model_type:
        raise CheckpointError(f"{where}: model_type must be {family.model_type!r}, got {kind!r}")
    bidirectional = values.get(_BIDIRECTIONAL)
    if family.embedding and bidirectional is not True:
        raise CheckpointError(
            f"{where}: {_BIDIRECTIONAL} is {bidirectional!r}, expected true; this is a causal "
            "decoder (or was saved by a library that does not know the flag) and would give wrong "
            "vectors"
        )
    if causal and bidirectional:
        raise CheckpointError(
            f"{where}: {_BIDIRECTIONAL} is set, so this is an encoder; expected a causal decoder"
        )
    allowed: dict[str, tuple[Any, ...]] = {
        "hidden_activation": ("gelu_pytorch_tanh",),
        "attention_bias": (False, None),
    }
    if family.two_ropes:
        allowed["attn_logit_softcapping"] = (None,)
    if family.embedding:
        allowed["final_logit_softcapping"] = (None,)
    for key, good in allowed.items():
        if key in values and values[key] not in good:
            raise CheckpointError(f"{where}: {key} must be {good[0]!r}, got {values[key]!r}")


def _stored_window(values: Mapping[str, Any], family: Family, where: Path) -> int:
    """Return the window on disk, in an embedding model with the halving of a bad save undone."""
    stored = integer(values, family.keys["window"], where)
    if not family.embedding:
        return stored
    if stored < 2:
        raise CheckpointError(f"{where}: sliding_window must be at least 2, got {stored}")
    own = values.get("culet")
    if isinstance(own, dict) and "window" in own:
        return 2 * integer(own, "window", where)
    if stored in DAMAGED_WINDOWS:
        return 2 * EMBEDDINGGEMMA_WINDOW
    if stored % 2:
        raise CheckpointError(
            f"{where}: sliding_window={stored} is odd, which is what a faulty save leaves of the "
            "true one, and how often it was halved cannot be known; write the true value there "
            "(twice the tokens a local layer sees each way)"
        )
    return stored


def _windows(stored: int, family: Family) -> tuple[int, int | None]:
    """Return the tokens seen before a token and after it (None: the same), from the one on disk."""
    if family.window == "distance":
        return stored - 1, None
    if family.window == "both sides":
        return stored // 2, None
    before, after = (stored + 1) // 2 - 1, stored // 2  # of an even width one more lies after
    return before, None if before == after else after


def _written_window(stack: EncoderConfig, family: Family) -> int:
    if family.window == "distance":
        return stack.window + 1
    if family.window == "both sides":
        return 2 * stack.window
    after = stack.window if stack.window_after is None else stack.window_after
    return stack.window + after + 1


def _global_layers(
    values: Mapping[str, Any], num_layers: int, family: Family, where: Path
) -> tuple[int, ...]:
    types = values.get("layer_types")
    if types is None:
        spellings = ("sliding_window_pattern", "_sliding_window_pattern")
        name = next((key for key in spellings if key in values), "")
        every = integer(values, name, where) if name else family.pattern
        if every < 1:
            raise CheckpointError(f"{where}: {name} must be at least 1, got {every}")
        if family.embedding and every != family.pattern:
            raise CheckpointError(
                f"{where}: {name} must be {family.pattern} where layer_types is not given, "
                f"got {every}"
            )
        return tuple(layer for layer in range(num_layers) if (layer + 1) % every == 0)
    if not isinstance(types, list):
        raise CheckpointError(f"{where}: layer_types must be a list, got {types!r}")
    unknown = sorted({str(kind) for kind in types} - {GLOBAL, LOCAL})
    if unknown or len(types) != num_layers:
        raise CheckpointError(
            f"{where}: layer_types must name {num_layers} layers as {GLOBAL} or {LOCAL}, "
            f"got {len(types)} with {unknown or 'no'} unknown kinds"
        )
    return tuple(i for i, kind in enumerate(types) if kind == GLOBAL)


def _ropes(values: Mapping[str, Any], family: Family, where: Path) -> tuple[float, float, float]:
    """Return the local base, the global base and the scaling of global positions."""
    parameters, scaled = (table(values, key, where) for key in ("rope_parameters", "rope_scaling"))
    local_key, global_key = family.keys["local_rope_base"], family.keys["global_rope_base"]
    if not family.two_ropes:
        base = number(parameters, "rope_theta", number(values, global_key, 1e4, where), where)
        _scaling({**scaled, **parameters}, where, allowed=False)
        return base, base, 1.0
    local, whole = (table(parameters, kind, where) for kind in (LOCAL, GLOBAL))
    _scaling(local, where, allowed=False)
    scaling = _scaling({**scaled, **whole}, where, allowed=not family.embedding)
    return (
        number(local, "rope_theta", number(values, local_key, 1e4, where), where),
        number(whole, "rope_theta", number(values, global_key, 1e6, where), where),
        scaling,
    )


def _scaling(entry: Mapping[str, Any], where: Path, *, allowed: bool) -> float:
    kind = entry.get("rope_type", entry.get("type", "default"))
    unknown = set(entry) - {"rope_type", "type", "rope_theta", "factor"}
    if kind == "default" and not unknown and "factor" not in entry:
        return 1.0
    if kind != "linear" or unknown or not allowed:
        linear = ", or 'linear' with a factor for the global layers of Gemma 3" if allowed else ""
        raise CheckpointError(
            f"{where}: rotary scaling {dict(entry)} is not part of this family; expected rope_type "
            f"'default'{linear}"
        )
    return number(entry, "factor", 1.0, where)


def _whole(value: float) -> float | int:
    return round(value) if abs(value - round(value)) < 1e-6 else value
