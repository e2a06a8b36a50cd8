"""A decoder in a GGUF file: its sizes, its weights under canonical names, its tokenizer.

Architectures gemma3 and gemma2. Two things differ from a transformers folder: RMSNorm weights are
stored with the 1 added that Gemma adds when it uses them, and what never varies within a family
(the pattern of global layers, the rotary base of local ones) is not stored at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from culet.architecture.encoder_config import EncoderConfig
from culet.architecture.generating_config import DecoderConfig
from culet.checkpoints.folder import Tensor
from culet.checkpoints.gguf.container import GGUFFile, GGUFTensor
from culet.checkpoints.sentence_transformers import integer, number, optional_number
from culet.errors import CheckpointError, InputError

ARCHITECTURES = ("gemma3", "gemma2")
_PATTERNS = {"gemma3": 6, "gemma2": 2}  # every how manieth layer is global
_WIDE_SCALE = {"gemma3": 62, "gemma2": 46}  # layers of the 27B models, which scale by model_dim
_MAX_LAYERS = 1000
_DEFAULTS: dict[str, dict[str, Any]] = {  # what llama.cpp assumes where a file is silent
    "gemma3": {},
    "gemma2": {
        "attention.sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
}
_BLOCK_NAMES = {
    "attention_norm": "attn_norm",
    "attention.query": "attn_q",
    "attention.key": "attn_k",
    "attention.value": "attn_v",
    "attention.query_norm": "attn_q_norm",
    "attention.key_norm": "attn_k_norm",
    "attention.out": "attn_output",
    "attention_post_norm": "post_attention_norm",
    "ffn_norm": "ffn_norm",
    "ffn.gate": "ffn_gate",
    "ffn.up": "ffn_up",
    "ffn.down": "ffn_down",
    "ffn_post_norm": "post_ffw_norm",
}
_TOP_NAMES = {"embed": "token_embd.weight", "norm": "output_norm.weight", "head": "output.weight"}


@dataclass(frozen=True)
class _Norm:
    """An RMSNorm weight without the 1 that the file has added to it."""

    stored: GGUFTensor

    @property
    def path(self) -> Path:
        return self.stored.path

    @property
    def name(self) -> str:
        return self.stored.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    def float32(self) -> np.ndarray:
        return self.stored.float32() - np.float32(1)


def decoder_config(file: GGUFFile) -> DecoderConfig:
    """Return the architecture that a GGUF file's metadata describes.

    Raises:
        CheckpointError: If it is of another architecture, or a value is missing or impossible.
    """
    path, metadata = file.path, file.metadata
    kind = metadata.get("general.architecture")
    if kind not in ARCHITECTURES:
        raise CheckpointError(
            f"{path}: the architecture is {kind!r}, which is not known here; expected one of "
            f"{', '.join(ARCHITECTURES)}"
        )
    prefix = f"{kind}."
    stated = {k.removeprefix(prefix): v for k, v in metadata.items() if k.startswith(prefix)}
    values = {**_DEFAULTS[kind], **stated}
    layers = integer(values, "block_count", path)
    if not 1 <= layers <= _MAX_LAYERS:
        raise CheckpointError(f"{path}: block_count must be 1 to {_MAX_LAYERS}, got {layers}")
    dim, heads = (
        integer(values, "embedding_length", path),
        integer(values, "attention.head_count", path),
    )
    head_dim = integer(
        {"attention.key_length": dim // max(heads, 1), **values}, "attention.key_length", path
    )
    embed = file.tensors.get(_TOP_NAMES["embed"])
    if embed is None or len(embed.shape) != 2:
        raise CheckpointError(f"{path}: the tensor {_TOP_NAMES['embed']} is missing or no matrix")
    newer = kind == "gemma3"
    base = number(values, "rope.freq_base", 1e6 if newer else 1e4, path)
    local = number(values, "rope.freq_base_swa", 1e4 if newer else base, path)
    default_caps = (
        {} if newer else {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    )
    caps = {**default_caps, **values}
    if newer and caps.get("attn_logit_softcapping") is not None:
        raise CheckpointError(f"{path}: attn_logit_softcapping is set, which no gemma3 has")
    try:
        stack = EncoderConfig(
            vocab_size=embed.shape[0],
            num_layers=layers,
            model_dim=dim,
            ffn_dim=integer(values, "feed_forward_length", path),
            num_heads=heads,
            num_kv_heads=integer(values, "attention.head_count_kv", path),
            head_dim=head_dim,
            window=integer(values, "attention.sliding_window", path) - 1,
            global_layers=_global_layers(values, layers, kind, path),
            max_length=integer(values, "context_length", path),
            local_rope_base=local,
            global_rope_base=base,
            attention_scale=math.sqrt(heads / dim) if layers == _WIDE_SCALE[kind] else None,
            norm_eps=_short(number(values, "attention.layer_norm_rms_epsilon", 1e-6, path)),
            causal=True,
            query_key_norm=newer,
            attention_softcap=optional_number(values, "attn_logit_softcapping", path),
            global_rope_scaling=_scaling(values, newer, path),
        )
        softcap = optional_number(values, "final_logit_softcapping", path)
        return DecoderConfig(stack, softcap, tied_head=_TOP_NAMES["head"] not in file.tensors)
    except InputError as error:
        raise CheckpointError(f"{path}: {error}") from error


def decoder_tensors(file: GGUFFile, config: DecoderConfig) -> dict[str, Tensor]:
    """Return the tensors under canonical names; unknown ones keep theirs, for the refusal."""
    own = {_disk_name(name): name for name in config.weight_shapes()}
    tensors: dict[str, Tensor] = {}
    for theirs, tensor in file.tensors.items():
        if theirs == "rope_freqs.weight":  # a table that follows from the metadata
            continue
        name = own.get(theirs, theirs)
        tensors[name] = _Norm(tensor) if name.endswith("norm") else tensor
    return tensors


def _disk_name(name: str) -> str:
    if name in _TOP_NAMES:
        return _TOP_NAMES[name]
    _, layer, rest = name.split(".", 2)
    return f"blk.{layer}.{_BLOCK_NAMES[rest]}.weight"


def _global_layers(
    values: Mapping[str, Any], num_layers: int, kind: str, path: Path
) -> tuple[int, ...]:
    key = "attention.sliding_window_pattern"
    stated = values.get(key, _PATTERNS[kind])
    if isinstance(stated, list) and len(stated) == num_layers:  # whether each layer is local
        return tuple(layer for layer, is_local in enumerate(stated) if not is_local)
    if type(stated) is not int or stated < 1:
        raise CheckpointError(
            f"{path}: {key} must be a number or say yes or no for {num_layers} layers, got "
            f"{stated!r:.100}"
        )
    return tuple(layer for layer in range(num_layers) if (layer + 1) % stated == 0)


def _scaling(values: Mapping[str, Any], newer: bool, path: Path) -> float:
    kind = values.get("rope.scaling.type", "none")
    if kind == "none":
        return 1.0
    if kind != "linear" or not newer:
        raise CheckpointError(
            f"{path}: rotary scaling {kind!r} is not part of this family; expected none, or linear "
            "for the global layers of gemma3"
        )
    return number(values, "rope.scaling.factor", 1.0, path)


def _short(value: float) -> float:
    """Return a float32 number as the short decimal it was written as: 1e-6, not 9.99999997e-07."""
    return float(str(np.float32(value)))
