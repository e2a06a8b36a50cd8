"""What other libraries call things, as it is read: configs and tensor names on disk.

Two generations of files are read (transformers 4.57 and 5, sentence-transformers 5 and 6). What
a folder says in a setting this family does not have, and what would change the vectors, is
refused. The other direction is `foreigntexts.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from culet.architecture.embedding_config import EMBEDDINGGEMMA_WINDOW, POOLINGS, Pooling
from culet.architecture.encoder_config import EncoderConfig, every_sixth
from culet.errors import CheckpointError, InputError
from culet.files.tensors import StoredTensor

# transformers before August 2026 halved `sliding_window` at every save (512 -> 257 -> 129 ...)
DAMAGED_WINDOWS = (257, 129, 65, 33, 17, 9, 5, 3, 2)
_MAX_LAYERS = 1000  # a config that claims more is damaged, and would cost memory before weights do
_PUBLISHED_WIDTHS = (768, 512, 256, 128)

_BLOCK_NAMES = {
    "attention_norm": "input_layernorm.weight",
    "attention.query": "self_attn.q_proj.weight",
    "attention.key": "self_attn.k_proj.weight",
    "attention.value": "self_attn.v_proj.weight",
    "attention.query_norm": "self_attn.q_norm.weight",
    "attention.key_norm": "self_attn.k_norm.weight",
    "attention.out": "self_attn.o_proj.weight",
    "attention_post_norm": "post_attention_layernorm.weight",
    "ffn_norm": "pre_feedforward_layernorm.weight",
    "ffn.gate": "mlp.gate_proj.weight",
    "ffn.up": "mlp.up_proj.weight",
    "ffn.down": "mlp.down_proj.weight",
    "ffn_post_norm": "post_feedforward_layernorm.weight",
}
_TOP_NAMES = {"embed": "embed_tokens.weight", "norm": "norm.weight"}


def disk_name(name: str) -> str:
    """Return the name on disk of an encoder weight."""
    if name in _TOP_NAMES:
        return _TOP_NAMES[name]
    _, layer, rest = name.split(".", 2)
    return f"layers.{layer}.{_BLOCK_NAMES[rest]}"


def encoder_tensors(on_disk: Mapping[str, StoredTensor], folder: Path) -> dict[str, StoredTensor]:
    """Return encoder tensors under culet's names; unknown ones keep theirs, for the refusal."""
    own = {theirs: ours for ours, theirs in _TOP_NAMES.items()}
    blocks = {theirs: ours for ours, theirs in _BLOCK_NAMES.items()}
    tensors = {}
    for full, tensor in on_disk.items():
        name = full.removeprefix("model.")
        parts = name.split(".", 2)
        if name in own:
            name = own[name]
        elif parts[0] == "layers" and len(parts) == 3 and parts[2] in blocks:
            name = f"blocks.{parts[1]}.{blocks[parts[2]]}"
        if name in tensors:
            raise CheckpointError(f"{folder}: two tensors are both {name}: damaged checkpoint")
        tensors[name] = tensor
    return tensors


def encoder_config(raw: Mapping[str, Any], *, where: Path) -> tuple[EncoderConfig, list[str]]:
    """Return the encoder a config.json describes, and notes on what was repaired.

    Raises:
        CheckpointError: If the model is of another kind, attends causally, or uses a feature
            this encoder does not have.
    """
    kind = raw.get("model_type")
    if kind != "gemma3_text":
        raise CheckpointError(f"{where}: model_type must be 'gemma3_text', got {kind!r}")
    if raw.get("use_bidirectional_attention") is not True:
        raise CheckpointError(
            f"{where}: use_bidirectional_attention is "
            f"{raw.get('use_bidirectional_attention')!r}, expected true; this is a causal decoder "
            "(or was saved by a library that does not know the flag) and would give wrong vectors"
        )
    for key, allowed in {
        "hidden_activation": ("gelu_pytorch_tanh",),
        "attention_bias": (False, None),
        "attn_logit_softcapping": (None,),
        "final_logit_softcapping": (None,),
    }.items():
        if key in raw and raw[key] not in allowed:
            raise CheckpointError(f"{where}: {key} must be {allowed[0]!r}, got {raw[key]!r}")
    layers = integer(raw, "num_hidden_layers", where)
    if not 1 <= layers <= _MAX_LAYERS:
        raise CheckpointError(
            f"{where}: num_hidden_layers must be 1 to {_MAX_LAYERS}, got {layers}"
        )
    local_base, global_base = _rope_bases(raw, where)
    window, notes = _window(raw, where)
    try:
        config = EncoderConfig(
            vocab_size=integer(raw, "vocab_size", where),
            num_layers=layers,
            model_dim=integer(raw, "hidden_size", where),
            ffn_dim=integer(raw, "intermediate_size", where),
            num_heads=integer(raw, "num_attention_heads", where),
            num_kv_heads=integer(raw, "num_key_value_heads", where),
            head_dim=integer(raw, "head_dim", where),
            window=window,
            global_layers=_global_layers(raw, layers, where),
            max_length=integer(raw, "max_position_embeddings", where),
            local_rope_base=local_base,
            global_rope_base=global_base,
            # 256 is what transformers assumes where the file is silent, whatever the head's width
            attention_scale=number(raw, "query_pre_attn_scalar", 256.0, where) ** -0.5,
            norm_eps=number(raw, "rms_norm_eps", 1e-6, where),
        )
    except InputError as error:
        raise CheckpointError(f"{where}: {error}") from error
    if config.attention_scale == config.head_dim**-0.5:
        config = replace(config, attention_scale=None)
    return config, notes


def with_max_length(
    encoder: EncoderConfig, settings: Sequence[tuple[Mapping[str, Any], str]]
) -> EncoderConfig:
    """Return the encoder with the smallest length that any of the settings states."""
    stated = [config.get(key) for config, key in settings]
    # tokenizers without a limit state an absurdly large one
    lengths = [int(n) for n in stated if isinstance(n, int | float) and 1 <= n < 1e9]
    return replace(encoder, max_length=min([encoder.max_length, *lengths]))


@dataclass(frozen=True)
class PoolingSettings:
    """How token states become one vector."""

    kind: Pooling
    tokens: int = 1
    heads: int = 4


def pooling_config(
    raw: Mapping[str, Any], encoder: EncoderConfig, *, where: Path
) -> PoolingSettings:
    """Return the pooling a Pooling module's config describes, in its old or new spelling."""
    if "culet_pooling" in raw:
        return _own_pooling(raw["culet_pooling"], where)
    old = {
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_cls_token": "cls",
        "pooling_mode_lasttoken": "lasttoken",
        "pooling_mode_max_tokens": "max",
        "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
        "pooling_mode_weightedmean_tokens": "weightedmean",
    }
    mode = raw.get("pooling_mode") or [name for key, name in old.items() if raw.get(key)]
    modes = mode if isinstance(mode, list) else [mode]
    known: dict[str, Pooling] = {"mean": "mean", "cls": "first", "lasttoken": "last"}
    if len(modes) != 1 or not isinstance(modes[0], str) or modes[0] not in known:
        raise CheckpointError(f"{where}: pooling must be one of {sorted(known)}, got {modes}")
    if raw.get("include_prompt", True) is not True:
        raise CheckpointError(
            f"{where}: include_prompt must be true; this family pools the prompt's tokens too"
        )
    width = raw.get("embedding_dimension", raw.get("word_embedding_dimension"))
    if width not in (None, encoder.model_dim):
        raise CheckpointError(
            f"{where}: pools vectors of width {width}, the encoder's are {encoder.model_dim} wide"
        )
    return PoolingSettings(known[modes[0]])


def _own_pooling(stated: Any, where: Path) -> PoolingSettings:
    """Return the pooling culet itself has written down."""
    expected = {"kind", "tokens", "heads"}
    if not isinstance(stated, dict) or set(stated) != expected or stated["kind"] not in POOLINGS:
        raise CheckpointError(
            f"{where}: culet_pooling must give a kind among {POOLINGS}, tokens and heads, "
            f"got {stated!r}"
        )
    return PoolingSettings(
        stated["kind"], integer(stated, "tokens", where), integer(stated, "heads", where)
    )


def check_transformer(raw: Mapping[str, Any], *, where: Path) -> None:
    """Raise CheckpointError if a Transformer module does something to the text first."""
    if raw.get("do_lower_case"):
        raise CheckpointError(
            f"{where}: do_lower_case is set, which this family was not trained with; set it to "
            "false, or put a Lowercase normalizer into tokenizer.json"
        )


def check_dense(raw: Mapping[str, Any], *, where: Path) -> tuple[Any, Any]:
    """Return (out, in) features of a Dense module after checking that it is only a linear map."""
    activation = str(raw.get("activation_function", "")).rpartition(".")[2]
    if raw.get("bias", True) or activation != "Identity" or raw.get("use_residual"):
        raise CheckpointError(
            f"{where}: expected a dense head without bias and residual and with activation "
            f"Identity, got bias={raw.get('bias', True)}, "
            f"residual={raw.get('use_residual', False)} and activation {activation!r}"
        )
    check_flow(raw, where=where)
    return raw.get("out_features"), raw.get("in_features")


def check_flow(raw: Mapping[str, Any], *, where: Path) -> None:
    """Raise CheckpointError if a module reads or writes anything but the text's one vector."""
    for key in ("module_input_name", "module_output_name"):
        if raw.get(key) not in (None, "sentence_embedding"):
            raise CheckpointError(
                f"{where}: {key} must be 'sentence_embedding', got {raw[key]!r}; this model "
                "is built another way than EmbeddingGemma"
            )


def check_head(up: tuple[int, ...], down: tuple[int, ...], model_dim: int, folder: Path) -> None:
    """Raise CheckpointError unless the two dense heads follow on from the encoder."""
    if up[1] != model_dim or down[1] != up[0]:
        raise CheckpointError(
            f"{folder}: the dense heads map {up[1]} -> {up[0]} and {down[1]} -> {down[0]}, which "
            f"does not continue from the encoder's width {model_dim}"
        )


def trained_widths(
    raw: Mapping[str, Any], encoder: EncoderConfig, embedding_dim: int, *, where: Path
) -> tuple[int, ...]:
    """Return the trained widths, largest first: stated, EmbeddingGemma's own, or the full one."""
    stated = raw.get("matryoshka_dimensions")
    if not stated:
        shape = (encoder.num_layers, encoder.model_dim, embedding_dim)
        stated = list(_PUBLISHED_WIDTHS) if shape == (24, 768, 768) else []
    if not isinstance(stated, list) or not all(
        type(width) is int and 0 < width <= embedding_dim for width in stated
    ):
        raise CheckpointError(
            f"{where}: matryoshka_dimensions must list widths up to {embedding_dim}, got {stated!r}"
        )
    return tuple(sorted({*stated, embedding_dim}, reverse=True))


def _window(raw: Mapping[str, Any], where: Path) -> tuple[int, list[str]]:
    """Return the tokens visible each way, undoing the halving of a bad save."""
    stored = integer(raw, "sliding_window", where)
    if stored < 2:
        raise CheckpointError(f"{where}: sliding_window must be at least 2, got {stored}")
    # culet writes the true window beside the foreign one, so that even an unusual size survives
    own = raw.get("culet")
    true = integer(own, "window", where) if isinstance(own, dict) and "window" in own else None
    window = stored // 2
    if stored == 2 * window and (true == window or (true is None and stored > 2)):
        return window, []
    if true is None and stored not in DAMAGED_WINDOWS:
        raise CheckpointError(
            f"{where}: sliding_window={stored} is odd, which is what a faulty save leaves of the "
            "true one, and how often it was halved cannot be told; write the true value there "
            "(twice the tokens a local layer sees each way)"
        )
    repaired = EMBEDDINGGEMMA_WINDOW if true is None else true
    return repaired, [
        f"config.json states sliding_window={stored}, which a faulty save has halved; "
        f"repaired to {2 * repaired} (±{repaired} tokens). Save the checkpoint again with culet "
        "to mend it on disk"
    ]


def _global_layers(raw: Mapping[str, Any], num_layers: int, where: Path) -> tuple[int, ...]:
    types = raw.get("layer_types")
    if types is None:
        pattern = raw.get("sliding_window_pattern", raw.get("_sliding_window_pattern", 6))
        if pattern != 6:
            raise CheckpointError(
                f"{where}: sliding_window_pattern must be 6 where layer_types is not given, "
                f"got {pattern!r}"
            )
        return every_sixth(num_layers)
    if not isinstance(types, list):
        raise CheckpointError(f"{where}: layer_types must be a list, got {types!r}")
    unknown = sorted({str(kind) for kind in types} - {"full_attention", "sliding_attention"})
    if unknown or len(types) != num_layers:
        raise CheckpointError(
            f"{where}: layer_types must name {num_layers} layers as full_attention or "
            f"sliding_attention, got {len(types)} with {unknown or 'no'} unknown kinds"
        )
    return tuple(i for i, kind in enumerate(types) if kind == "full_attention")


def _rope_bases(raw: Mapping[str, Any], where: Path) -> tuple[float, float]:
    """Return the local and the global rotary base, from either generation of config."""
    parameters = table(raw, "rope_parameters", where)
    bases = []
    for kind, old, default in (
        ("sliding_attention", "rope_local_base_freq", 10_000.0),
        ("full_attention", "rope_theta", 1_000_000.0),
    ):
        entry = table(parameters, kind, where)
        scaling = raw.get("rope_scaling") or set(entry) - {"rope_type", "rope_theta"}
        if entry.get("rope_type", "default") != "default" or scaling:
            raise CheckpointError(
                f"{where}: rotary scaling {raw.get('rope_scaling') or entry} is not part of this "
                "family; expected rope_type 'default'"
            )
        stated = number(raw, old, default, where)
        bases.append(number(entry, "rope_theta", stated, where))
    return bases[0], bases[1]


def table(raw: Mapping[str, Any], key: str, where: Path) -> Mapping[str, Any]:
    """Return the object under a key of a config, or an empty one."""
    value = raw.get(key) or {}
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: {key} must be a JSON object, got {value!r}")
    return value


def number(raw: Mapping[str, Any], key: str, default: float, where: Path) -> float:
    """Return the positive number under a key of a config, or the default."""
    value = raw.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise CheckpointError(f"{where}: {key} must be a positive number, got {value!r}")
    return float(value)


def integer(raw: Mapping[str, Any], key: str, where: Path) -> int:
    """Return the whole number under a key of a config."""
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise CheckpointError(f"{where}: {key} must be a whole number, got {value!r}")
    return value


def optional_number(raw: Mapping[str, Any], key: str, where: Path) -> float | None:
    """Return the positive number under a key of a config, or None where there is none."""
    return None if raw.get(key) is None else number(raw, key, 0.0, where)
