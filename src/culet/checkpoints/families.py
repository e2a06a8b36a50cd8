"""What other libraries call one stack of layers: its sizes and its tensors, in and out.

Gemma 3 and Gemma 2 write the same model down in two ways, and T5Gemma and T5Gemma 2 reuse them
for each of their two stacks; a `Family` says which. What a config has in a setting these stacks do
not have is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from culet.architecture.encoder_config import EncoderConfig
from culet.checkpoints.sentence_transformers import integer, number, optional_number, table
from culet.errors import CheckpointError, InputError

_MAX_LAYERS = 1000  # a config that claims more is damaged, and would cost memory before weights do
_LOCAL, _GLOBAL = "sliding_attention", "full_attention"


@dataclass(frozen=True)
class Family:
    """How a kind of stack is written down.

    Attributes:
        model_type: Its name in config.json.
        pattern: Every how manieth layer is global where the config does not say.
        query_key_norm: Queries and keys are normed.
        two_ropes: Local and global layers have rotary bases of their own, and scores no cap;
            else one base serves all.
        defaults: What transformers assumes where the config is silent.
    """

    model_type: str
    pattern: int
    query_key_norm: bool
    two_ropes: bool
    defaults: Mapping[str, Any]


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
GEMMA3 = Family("gemma3_text", 6, True, True, _GEMMA3)
GEMMA2 = Family("gemma2", 2, False, False, _GEMMA2)
T5GEMMA = Family("t5_gemma_module", 2, False, False, _GEMMA2)
T5GEMMA2_ENCODER = Family("t5gemma2_text", 6, True, True, _GEMMA3)
T5GEMMA2_DECODER = Family("t5gemma2_decoder", 6, True, True, _GEMMA3)

BLOCK_NAMES = {
    "attention.query": "self_attn.q_proj.weight",
    "attention.key": "self_attn.k_proj.weight",
    "attention.value": "self_attn.v_proj.weight",
    "attention.query_norm": "self_attn.q_norm.weight",
    "attention.key_norm": "self_attn.k_norm.weight",
    "attention.out": "self_attn.o_proj.weight",
    "ffn_norm": "pre_feedforward_layernorm.weight",
    "ffn.gate": "mlp.gate_proj.weight",
    "ffn.up": "mlp.up_proj.weight",
    "ffn.down": "mlp.down_proj.weight",
    "ffn_post_norm": "post_feedforward_layernorm.weight",
}
DECODER_NAMES = BLOCK_NAMES | {
    "attention_norm": "input_layernorm.weight",
    "attention_post_norm": "post_attention_layernorm.weight",
}
CROSS_NAMES = BLOCK_NAMES | {
    "attention_norm": "pre_self_attn_layernorm.weight",
    "attention_post_norm": "post_self_attn_layernorm.weight",
    "cross_norm": "pre_cross_attn_layernorm.weight",
    "cross.query": "cross_attn.q_proj.weight",
    "cross.key": "cross_attn.k_proj.weight",
    "cross.value": "cross_attn.v_proj.weight",
    "cross.query_norm": "cross_attn.q_norm.weight",
    "cross.key_norm": "cross_attn.k_norm.weight",
    "cross.out": "cross_attn.o_proj.weight",
    "cross_post_norm": "post_cross_attn_layernorm.weight",
}
_TOP_NAMES = {"embed": "embed_tokens.weight", "norm": "norm.weight"}


def disk_name(name: str, blocks: Mapping[str, str]) -> str:
    """Return the name on disk of one weight of a stack."""
    if name in _TOP_NAMES:
        return _TOP_NAMES[name]
    _, layer, rest = name.split(".", 2)
    return f"layers.{layer}.{blocks[rest]}"


def read_stack(
    raw: Mapping[str, Any], family: Family, *, causal: bool, where: Path
) -> EncoderConfig:
    """Return the stack that a config, or a part of one, describes.

    Args:
        raw: The part of config.json that speaks of this stack.
        family: How it is written down.
        causal: Whether it is a decoder's.
        where: The file, for messages.

    Raises:
        CheckpointError: If a value is missing or impossible, or asks for what this stack lacks.
    """
    kind = raw.get("model_type", family.model_type)
    if kind != family.model_type:
        raise CheckpointError(f"{where}: model_type must be {family.model_type!r}, got {kind!r}")
    values = {**family.defaults, **raw}
    _refuse_features(values, family, causal=causal, where=where)
    layers = integer(values, "num_hidden_layers", where)
    if not 1 <= layers <= _MAX_LAYERS:
        raise CheckpointError(
            f"{where}: num_hidden_layers must be 1 to {_MAX_LAYERS}, got {layers}"
        )
    local_base, global_base, scaling = _ropes(values, family, where)
    head_dim = integer(values, "head_dim", where)
    scale = number(values, "query_pre_attn_scalar", 256.0, where) ** -0.5
    window, after = _windows(integer(values, "sliding_window", where), family, causal=causal)
    try:
        return EncoderConfig(
            vocab_size=integer(values, "vocab_size", where),
            num_layers=layers,
            model_dim=integer(values, "hidden_size", where),
            ffn_dim=integer(values, "intermediate_size", where),
            num_heads=integer(values, "num_attention_heads", where),
            num_kv_heads=integer(values, "num_key_value_heads", where),
            head_dim=head_dim,
            window=window,
            global_layers=_global_layers(values, layers, family, where),
            max_length=integer(values, "max_position_embeddings", where),
            local_rope_base=local_base,
            global_rope_base=global_base,
            attention_scale=None if scale == head_dim**-0.5 else scale,
            norm_eps=number(values, "rms_norm_eps", 1e-6, where),
            causal=causal,
            window_after=after,
            query_key_norm=family.query_key_norm,
            attention_softcap=optional_number(values, "attn_logit_softcapping", where),
            global_rope_scaling=scaling,
        )
    except InputError as error:
        raise CheckpointError(f"{where}: {error}") from error


def writable(stack: EncoderConfig, family: Family) -> bool:
    """Return whether a kind of stack can say everything about this one."""
    plain_rope = stack.local_rope_base == stack.global_rope_base and stack.global_rope_scaling == 1
    width = _stored_window(stack, family)
    return (
        stack.query_key_norm == family.query_key_norm
        and (family.two_ropes or plain_rope)
        and (stack.attention_softcap is None or not family.two_ropes)
        and _windows(width, family, causal=stack.causal) == (stack.window, stack.window_after)
        and isinstance(_whole(stack.scale**-2), int)
        and stack.model_dim % stack.num_heads == 0  # transformers insists on it
    )


def write_stack(stack: EncoderConfig, family: Family) -> dict[str, Any]:
    """Return the part of config.json that describes a stack, for every generation of readers."""
    local: dict[str, Any] = {"rope_type": "default", "rope_theta": stack.local_rope_base}
    whole: dict[str, Any] = {"rope_type": "default", "rope_theta": stack.global_rope_base}
    if stack.global_rope_scaling != 1:
        whole |= {"rope_type": "linear", "factor": stack.global_rope_scaling}
    written = {
        "model_type": family.model_type,
        "vocab_size": stack.vocab_size,
        "num_hidden_layers": stack.num_layers,
        "hidden_size": stack.model_dim,
        "intermediate_size": stack.ffn_dim,
        "num_attention_heads": stack.num_heads,
        "num_key_value_heads": stack.num_kv_heads,
        "head_dim": stack.head_dim,
        "query_pre_attn_scalar": _whole(stack.scale**-2),
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": stack.norm_eps,
        "max_position_embeddings": stack.max_length,
        "sliding_window": _stored_window(stack, family),
        "layer_types": [_GLOBAL if stack.is_global(i) else _LOCAL for i in range(stack.num_layers)],
        "rope_parameters": {_GLOBAL: whole, _LOCAL: local} if family.two_ropes else whole,
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
    return written


def own_table(stack: EncoderConfig) -> dict[str, Any]:
    """Return a stack in culet's own words, for what no other library has a name for."""
    return {**asdict(stack), "dropout": 0.0}


def read_own(raw: Any, where: Path) -> EncoderConfig:
    """Return the stack that `own_table` wrote.

    Raises:
        CheckpointError: If a value is missing, unknown or of another kind.
    """
    kinds = {field.name: str(field.type) for field in fields(EncoderConfig)}
    if not isinstance(raw, dict) or set(raw) != set(kinds):
        odd = sorted(set(raw) ^ set(kinds)) if isinstance(raw, dict) else raw
        raise CheckpointError(f"{where}: a stack must give exactly {sorted(kinds)}; wrong: {odd}")
    layers = raw["global_layers"]
    for name, kind in kinds.items():
        if not _is(raw[name], kind):
            raise CheckpointError(f"{where}: {name} must be {kind}, got {raw[name]!r}")
    if raw["num_layers"] > _MAX_LAYERS:
        raise CheckpointError(
            f"{where}: num_layers must be 1 to {_MAX_LAYERS}, got {raw['num_layers']}"
        )
    try:
        return EncoderConfig(**{**raw, "global_layers": tuple(layers)})
    except InputError as error:
        raise CheckpointError(f"{where}: {error}") from error


_KINDS: dict[str, set[type]] = {
    "int": {int},
    "float": {int, float},
    "bool": {bool},
    "None": {type(None)},
}


def _is(value: Any, kind: str) -> bool:
    if kind == "tuple[int, ...]":
        return isinstance(value, list) and all(type(item) is int for item in value)
    allowed: set[type] = set()
    for part in kind.split(" | "):
        allowed |= _KINDS[part]
    return type(value) in allowed


def _refuse_features(
    values: Mapping[str, Any], family: Family, *, causal: bool, where: Path
) -> None:
    allowed: dict[str, tuple[Any, ...]] = {
        "hidden_activation": ("gelu_pytorch_tanh",),
        "attention_bias": (False, None),
    }
    if family.two_ropes:
        allowed["attn_logit_softcapping"] = (None,)
    for key, good in allowed.items():
        if key in values and values[key] not in good:
            raise CheckpointError(f"{where}: {key} must be {good[0]!r}, got {values[key]!r}")
    if causal and values.get("use_bidirectional_attention"):
        raise CheckpointError(
            f"{where}: use_bidirectional_attention is set, so this is an encoder; expected a "
            "causal decoder"
        )


def _windows(stored: int, family: Family, *, causal: bool) -> tuple[int, int | None]:
    """Return the tokens seen before one and after it (None: the same) from the number on disk.

    Stored is the first distance that is not seen, except in T5Gemma 2's encoder, where it is the
    width of the whole window, the token itself counted; of an even one, one more lies after it.
    """
    if causal or family is not T5GEMMA2_ENCODER:
        return stored - 1, None
    before, after = (stored + 1) // 2 - 1, stored // 2
    return before, None if before == after else after


def _stored_window(stack: EncoderConfig, family: Family) -> int:
    if family is not T5GEMMA2_ENCODER or stack.causal:
        return stack.window + 1
    after = stack.window if stack.window_after is None else stack.window_after
    return stack.window + after + 1


def _global_layers(
    values: Mapping[str, Any], num_layers: int, family: Family, where: Path
) -> tuple[int, ...]:
    types = values.get("layer_types")
    if types is None:
        name = next(
            (n for n in ("sliding_window_pattern", "_sliding_window_pattern") if n in values), ""
        )
        every = integer(values, name, where) if name else family.pattern
        if every < 1:
            raise CheckpointError(f"{where}: {name} must be at least 1, got {every}")
        return tuple(layer for layer in range(num_layers) if (layer + 1) % every == 0)
    if (
        not isinstance(types, list)
        or len(types) != num_layers
        or not all(kind in (_LOCAL, _GLOBAL) for kind in types)
    ):
        raise CheckpointError(
            f"{where}: layer_types must name {num_layers} layers as {_GLOBAL} or {_LOCAL}, "
            f"got {types!r:.200}"
        )
    return tuple(i for i, kind in enumerate(types) if kind == _GLOBAL)


def _ropes(values: Mapping[str, Any], family: Family, where: Path) -> tuple[float, float, float]:
    """Return the local base, the global base and the scaling of global positions."""
    parameters = table(values, "rope_parameters", where)
    if not family.two_ropes:
        base = number(parameters, "rope_theta", number(values, "rope_theta", 1e4, where), where)
        _scaling({**table(values, "rope_scaling", where), **parameters}, where, allowed=False)
        return base, base, 1.0
    local, whole = (table(parameters, kind, where) for kind in (_LOCAL, _GLOBAL))
    _scaling(local, where, allowed=False)
    scaling = _scaling({**table(values, "rope_scaling", where), **whole}, where, allowed=True)
    local_base = number(values, "rope_local_base_freq", 1e4, where)
    global_base = number(values, "rope_theta", 1e6, where)
    return (
        number(local, "rope_theta", local_base, where),
        number(whole, "rope_theta", global_base, where),
        scaling,
    )


def _scaling(entry: Mapping[str, Any], where: Path, *, allowed: bool) -> float:
    kind = entry.get("rope_type", entry.get("type", "default"))
    unknown = set(entry) - {"rope_type", "type", "rope_theta", "factor"}
    if kind == "default" and not unknown and "factor" not in entry:
        return 1.0
    if kind != "linear" or unknown or not allowed:
        raise CheckpointError(
            f"{where}: rotary scaling {dict(entry)} is not part of this family; expected rope_type "
            "'default', or 'linear' with a factor for the global layers of Gemma 3"
        )
    return number(entry, "factor", 1.0, where)


def _whole(value: float) -> float | int:
    return round(value) if abs(value - round(value)) < 1e-6 else value
