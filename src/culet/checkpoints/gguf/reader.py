"""A decoder in a GGUF file: its sizes, its weights under canonical names, its tokenizer.

Architectures gemma3 and gemma2. Two things differ from a transformers folder: RMSNorm weights are
stored with the 1 added that Gemma adds when it uses them, and what never varies within a family
(the pattern of global layers, the rotary base of local ones) is not stored at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from culet.checkpoints.checkpoint import Checkpoint, DecoderCheckpoint
from culet.checkpoints.families import GEMMA2, GEMMA3, GLOBAL, LOCAL, read_decoder
from culet.checkpoints.folder import Tensor, check_tensors
from culet.checkpoints.gguf.container import GGUFFile, GGUFTensor, read_gguf
from culet.checkpoints.gguf.tokenizer_json import tokenizer_json
from culet.checkpoints.json_fields import integer
from culet.checkpoints.tokenizer_files import fitting_tokenizer
from culet.checkpoints.values import check_values
from culet.errors import CheckpointError
from culet.files import fingerprint

_KEYS = {
    "vocab_size": "vocab_size",
    "num_layers": "block_count",
    "model_dim": "embedding_length",
    "ffn_dim": "feed_forward_length",
    "num_heads": "attention.head_count",
    "num_kv_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_length": "context_length",
    "window": "attention.sliding_window",
    "norm_eps": "attention.layer_norm_rms_epsilon",
    "local_rope_base": "rope.freq_base_swa",
    "global_rope_base": "rope.freq_base",
}
_NAMES = {
    "embed": "token_embd.weight",
    "norm": "output_norm.weight",
    "head": "output.weight",
    "attention_norm": "blk.{}.attn_norm.weight",
    "attention.query": "blk.{}.attn_q.weight",
    "attention.key": "blk.{}.attn_k.weight",
    "attention.value": "blk.{}.attn_v.weight",
    "attention.query_norm": "blk.{}.attn_q_norm.weight",
    "attention.key_norm": "blk.{}.attn_k_norm.weight",
    "attention.out": "blk.{}.attn_output.weight",
    "attention_post_norm": "blk.{}.post_attention_norm.weight",
    "ffn_norm": "blk.{}.ffn_norm.weight",
    "ffn.gate": "blk.{}.ffn_gate.weight",
    "ffn.up": "blk.{}.ffn_up.weight",
    "ffn.down": "blk.{}.ffn_down.weight",
    "ffn_post_norm": "blk.{}.post_ffw_norm.weight",
}
_DEFAULTS = {  # what llama.cpp assumes where a gemma2 file is silent; a gemma3 file states all
    "attention.sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}
_FAMILIES = {
    "gemma3": replace(GEMMA3, defaults={}, keys=_KEYS, names=_NAMES),
    "gemma2": replace(GEMMA2, defaults=_DEFAULTS, keys=_KEYS, names=_NAMES),
}
_WIDE_SCALE = {"gemma3": 62, "gemma2": 46}  # layers of the 27B models, which scale by model_dim


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

    @property
    def dtype(self) -> str:
        return self.stored.dtype

    def float32(self) -> np.ndarray:
        return self.stored.float32() - np.float32(1)

    def pieces(self) -> Iterator[np.ndarray]:
        return (piece - np.float32(1) for piece in self.stored.pieces())


def read_gguf_decoder(path: Path) -> DecoderCheckpoint:
    """Return the decoder in a GGUF file, with everything about it checked.

    Raises:
        CheckpointError: If it is of another architecture, damaged, or a value is missing or
            impossible.
    """
    file = read_gguf(path)
    kind = file.metadata.get("general.architecture")
    if not isinstance(kind, str) or kind not in _FAMILIES:
        embeds = isinstance(kind, str) and ("bert" in kind or "embed" in kind or "encoder" in kind)
        advice = (
            "; it is an embedding model, which culet reads from the sentence-transformers folder "
            "it was made of"
        )
        raise CheckpointError(
            f"{path}: the architecture is {kind!r}, which is not known here; expected one of "
            f"{', '.join(_FAMILIES)}{advice if embeds else ''}"
        )
    family, values = _FAMILIES[kind], _values(file, kind)
    tied_head = _NAMES["head"] not in file.tensors
    config = read_decoder(values, family, tied_head=tied_head, where=path)
    shapes = config.weight_shapes()
    tensors = check_tensors(
        shapes,
        _tensors(file, {family.disk_name(name): name for name in shapes}),
        path,
        source="its metadata",
    )
    content = tokenizer_json(file.metadata, path)
    kinds = Counter(tensor.dtype for tensor in file.tensors.values())
    stored = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    return Checkpoint(
        path=path,
        config=config,
        architecture=kind,
        tensors=tensors,
        tokenizer=fitting_tokenizer(content, config.stack.vocab_size, path),
        fingerprint=fingerprint.of_files([path]),
        notes=(f"tensors are stored as {stored}", *check_values(tensors)),
    )


def _values(file: GGUFFile, kind: str) -> dict[str, Any]:
    """Return the metadata of a model, its lists and scaling also in the form of a config.json."""
    path, prefix = file.path, f"{kind}."
    values = {
        key.removeprefix(prefix): _short(value) if isinstance(value, float) else value
        for key, value in file.metadata.items()
        if key.startswith(prefix)
    }
    embed = file.tensors.get(_NAMES["embed"])
    if embed is None or len(embed.shape) != 2:
        raise CheckpointError(f"{path}: the tensor {_NAMES['embed']} is missing or no matrix")
    dim, heads = (integer(values, _KEYS[size], path) for size in ("model_dim", "num_heads"))
    head_dim = values.setdefault(_KEYS["head_dim"], dim // max(heads, 1))
    wide = values.get(_KEYS["num_layers"]) == _WIDE_SCALE[kind]
    values |= {
        "vocab_size": embed.shape[0],
        "query_pre_attn_scalar": dim / max(heads, 1) if wide else head_dim,
    }
    if (pattern := values.get("attention.sliding_window_pattern")) is not None:
        if isinstance(pattern, list):  # whether each layer is local
            values["layer_types"] = [LOCAL if is_local else GLOBAL for is_local in pattern]
        else:
            values["sliding_window_pattern"] = pattern
    if (scaled := values.get("rope.scaling.type", "none")) != "none":
        factor = values.get("rope.scaling.factor", 1.0)
        values["rope_scaling"] = {"rope_type": scaled, "factor": factor}
    return values


def _tensors(file: GGUFFile, own: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the tensors under canonical names, unknown ones under their own."""
    tensors: dict[str, Tensor] = {}
    for theirs, tensor in file.tensors.items():
        if theirs == "rope_freqs.weight":  # a table that follows from the metadata
            continue
        name = own.get(theirs, theirs)
        tensors[name] = _Norm(tensor) if name.endswith("norm") else tensor
    return tensors


def _short(value: float) -> float:
    """Return a float32 number as the short decimal it was written as: 1e-6, not 9.99999997e-07."""
    return float(str(np.float32(value)))
