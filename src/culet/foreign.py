"""What other libraries call things: configs and tensor names of a checkpoint on disk.

Two generations of files are read (transformers 4.57 and 5, sentence-transformers 5 and 6), and
what is written is understood by both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from culet.errors import CheckpointError, InputError
from culet.model.config import (
    EMBEDDINGGEMMA_WINDOW,
    EmbeddingConfig,
    EncoderConfig,
    Pooling,
    every_sixth,
)
from culet.tensorfile import StoredDtype, StoredTensor

# transformers before August 2026 halved `sliding_window` at every save (512 -> 257 -> 129 ...)
DAMAGED_WINDOWS = (257, 129, 65, 33, 17, 9, 5, 3, 2)
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
    """Return encoder tensors under culet's names; unknown ones keep theirs and are refused later."""
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
    layers = _integer(raw, "num_hidden_layers", where)
    local_base, global_base = _rope_bases(raw, where)
    window, notes = _window(raw, where)
    try:
        config = EncoderConfig(
            vocab_size=_integer(raw, "vocab_size", where),
            num_layers=layers,
            model_dim=_integer(raw, "hidden_size", where),
            ffn_dim=_integer(raw, "intermediate_size", where),
            num_heads=_integer(raw, "num_attention_heads", where),
            num_kv_heads=_integer(raw, "num_key_value_heads", where),
            head_dim=_integer(raw, "head_dim", where),
            window=window,
            global_layers=_global_layers(raw, layers, where),
            max_length=_integer(raw, "max_position_embeddings", where),
            local_rope_base=local_base,
            global_rope_base=global_base,
            attention_scale=float(raw.get("query_pre_attn_scalar", raw["head_dim"])) ** -0.5,
            norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
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
    lengths = [int(n) for n in stated if isinstance(n, int | float) and 0 < n < 1e9]
    return replace(encoder, max_length=min([encoder.max_length, *lengths]))


@dataclass(frozen=True)
class PoolingSettings:
    """How token states become one vector."""

    kind: Pooling
    tokens: int = 1
    heads: int = 4


def pooling_config(
    raw: Mapping[str, Any], model: Mapping[str, Any], encoder: EncoderConfig, *, where: Path
) -> PoolingSettings:
    """Return the pooling a Pooling module's config describes, in its old or new spelling."""
    if "culet_pooling" in raw:
        return PoolingSettings(**raw["culet_pooling"])
    old = {
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_cls_token": "cls",
        "pooling_mode_lasttoken": "lasttoken",
        "pooling_mode_max_tokens": "max",
        "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
        "pooling_mode_weightedmean_tokens": "weightedmean",
    }
    mode = raw.get("pooling_mode") or [name for key, name in old.items() if raw.get(key)]
    modes = [mode] if isinstance(mode, str) else list(mode)
    known: dict[str, Pooling] = {"mean": "mean", "cls": "first", "lasttoken": "last"}
    if len(modes) != 1 or modes[0] not in known:
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


def check_head(
    up: tuple[int, ...], down: tuple[int, ...], model_dim: int, folder: Path
) -> None:
    """Raise CheckpointError unless the two dense heads follow on from the encoder."""
    if up[1] != model_dim or down[1] != up[0]:
        raise CheckpointError(
            f"{folder}: the dense heads map {up[1]} -> {up[0]} and {down[1]} -> {down[0]}, which "
            f"does not continue from the encoder's width {model_dim}"
        )


def trained_widths(
    raw: Mapping[str, Any], encoder: EncoderConfig, embedding_dim: int
) -> tuple[int, ...]:
    """Return the trained widths, largest first: stated, EmbeddingGemma's own, or the full one."""
    stated = raw.get("matryoshka_dimensions")
    if not stated and (encoder.num_layers, encoder.model_dim, embedding_dim) == (24, 768, 768):
        stated = _PUBLISHED_WIDTHS
    return tuple(sorted({int(w) for w in stated or ()} | {embedding_dim}, reverse=True))


def folder_texts(
    config: EmbeddingConfig, *, dtype: StoredDtype, prompts: dict[str, str]
) -> dict[str, str]:
    """Return the small files of a checkpoint folder, path to content."""
    encoder, dim = config.encoder, config.encoder.model_dim
    pooling_type = "sentence_transformers.models.Pooling"
    mode = {"mean": "mean", "first": "cls", "last": "lasttoken"}.get(config.pooling)
    pooling: dict[str, Any] = {
        "word_embedding_dimension": dim,
        "pooling_mode_cls_token": mode == "cls",
        "pooling_mode_mean_tokens": mode == "mean",
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
        "pooling_mode_weightedmean_tokens": False,
        "pooling_mode_lasttoken": mode == "lasttoken",
        "include_prompt": True,
    }
    if mode is None or config.pooling_tokens > 1:
        # No stock module does this: a name of our own makes other readers stop, not guess.
        pooling_type = "culet.CuletPooling"
        pooling = {
            "culet_pooling": {
                "kind": config.pooling,
                "tokens": config.pooling_tokens,
                "heads": config.pooling_heads,
            }
        }
    modules = [
        ("", "sentence_transformers.models.Transformer"),
        ("1_Pooling", pooling_type),
        ("2_Dense", "sentence_transformers.models.Dense"),
        ("3_Dense", "sentence_transformers.models.Dense"),
        ("4_Normalize", "sentence_transformers.models.Normalize"),
    ]
    texts: dict[str, Any] = {
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": kind}
            for i, (path, kind) in enumerate(modules)
        ],
        "config.json": _model_config(config, dtype),
        "1_Pooling/config.json": pooling,
        "2_Dense/config.json": _dense_config(dim, config.projection_dim),
        "3_Dense/config.json": _dense_config(config.projection_dim, config.embedding_dim),
        "4_Normalize/config.json": {},
        "sentence_bert_config.json": {
            "max_seq_length": encoder.max_length,
            "do_lower_case": False,
        },
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "__version__": {},
            "prompts": prompts,
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": encoder.max_length,
            "padding_side": "right",
            "pad_token": "<pad>",
            "eos_token": "<eos>",
            "bos_token": "<bos>",
            "unk_token": "<unk>",
            "clean_up_tokenization_spaces": False,
        },
    }
    return {name: json.dumps(value, indent=2) + "\n" for name, value in texts.items()}


def model_card(config: EmbeddingConfig) -> str:
    """Return a short README.md with the metadata the hub reads."""
    return (
        "---\nlibrary_name: sentence-transformers\npipeline_tag: sentence-similarity\ntags:\n"
        "- sentence-transformers\n- feature-extraction\n- dense\n- culet\n---\n\n"
        f"A bidirectional Gemma 3 text encoder with {config.num_parameters():,} parameters that "
        f"maps text of up to {config.encoder.max_length} tokens to unit vectors of width "
        f"{config.embedding_dim}. Usable widths: {', '.join(map(str, config.widths))}.\n\n"
        "```python\nimport culet\nembedder = culet.load(\"path/to/this/folder\")\n```\n"
    )


def _model_config(config: EmbeddingConfig, dtype: StoredDtype) -> dict[str, Any]:
    encoder = config.encoder
    return {
        "architectures": ["Gemma3TextModel"],
        "model_type": "gemma3_text",
        "vocab_size": encoder.vocab_size,
        "num_hidden_layers": encoder.num_layers,
        "hidden_size": encoder.model_dim,
        "intermediate_size": encoder.ffn_dim,
        "num_attention_heads": encoder.num_heads,
        "num_key_value_heads": encoder.num_kv_heads,
        "head_dim": encoder.head_dim,
        "query_pre_attn_scalar": _whole(encoder.scale**-2),
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": encoder.norm_eps,
        "max_position_embeddings": encoder.max_length,
        "use_bidirectional_attention": True,
        "sliding_window": 2 * encoder.window,
        "layer_types": [
            "full_attention" if encoder.is_global(i) else "sliding_attention"
            for i in range(encoder.num_layers)
        ],
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": encoder.global_rope_base},
            "sliding_attention": {"rope_type": "default", "rope_theta": encoder.local_rope_base},
        },
        "rope_theta": encoder.global_rope_base,
        "rope_local_base_freq": encoder.local_rope_base,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
        "dtype": dtype,
        "torch_dtype": dtype,
        "matryoshka_dimensions": list(config.widths),
        "culet": {"window": encoder.window},
    }


def _dense_config(in_dim: int, out_dim: int) -> dict[str, Any]:
    return {
        "in_features": in_dim,
        "out_features": out_dim,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }


def _window(raw: Mapping[str, Any], where: Path) -> tuple[int, list[str]]:
    """Return the tokens visible each way, undoing the halving of a bad save."""
    stored = _integer(raw, "sliding_window", where)
    # culet writes the true window beside the foreign one, so that even an unusual size survives
    own = raw.get("culet", {}).get("window")
    window = stored // 2
    if own is not None and own != window:
        repaired = int(own)
    elif stored in DAMAGED_WINDOWS:
        repaired = EMBEDDINGGEMMA_WINDOW
    else:
        return window, []
    return repaired, [
        f"config.json states sliding_window={stored}, which a faulty save has halved; "
        f"repaired to {2 * repaired} (±{repaired} tokens). Save the checkpoint again with culet "
        "to mend it on disk"
    ]


def _global_layers(raw: Mapping[str, Any], num_layers: int, where: Path) -> tuple[int, ...]:
    types = raw.get("layer_types")
    if types is None:
        if int(raw.get("sliding_window_pattern", raw.get("_sliding_window_pattern", 6))) != 6:
            raise CheckpointError(f"{where}: sliding_window_pattern must be 6 or layer_types given")
        return every_sixth(num_layers)
    unknown = sorted(set(types) - {"full_attention", "sliding_attention"})
    if unknown or len(types) != num_layers:
        raise CheckpointError(
            f"{where}: layer_types must name {num_layers} layers as full_attention or "
            f"sliding_attention, got {len(types)} with {unknown or 'no'} unknown kinds"
        )
    return tuple(i for i, kind in enumerate(types) if kind == "full_attention")


def _rope_bases(raw: Mapping[str, Any], where: Path) -> tuple[float, float]:
    """Return the local and the global rotary base, from either generation of config."""
    parameters = raw.get("rope_parameters") or {}
    scaling = raw.get("rope_scaling")
    bases = []
    for kind, old, default in (
        ("sliding_attention", "rope_local_base_freq", 10_000.0),
        ("full_attention", "rope_theta", 1_000_000.0),
    ):
        entry = parameters.get(kind) or {}
        if entry.get("rope_type", "default") != "default" or scaling:
            raise CheckpointError(
                f"{where}: rotary scaling {scaling or entry} is not part of this family; "
                "expected rope_type 'default'"
            )
        bases.append(float(entry.get("rope_theta", raw.get(old, default))))
    return bases[0], bases[1]


def _integer(raw: Mapping[str, Any], key: str, where: Path) -> int:
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise CheckpointError(f"{where}: {key} must be a whole number, got {value!r}")
    return value


def _whole(value: float) -> float | int:
    return round(value) if abs(value - round(value)) < 1e-6 else value
