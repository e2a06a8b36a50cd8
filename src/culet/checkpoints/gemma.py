"""Decoders on disk: a transformers folder or a GGUF file in, a transformers folder out.

Read: Gemma3ForCausalLM, the text part of Gemma3ForConditionalGeneration, Gemma2ForCausalLM, and
CuletDecoder, which is what is written where neither Gemma has a word for a setting.
Encoder-decoders are in `encoder_decoder_checkpoint.py` and can be imported from here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from culet.architecture.generating_config import DecoderConfig
from culet.checkpoints.families import (
    GEMMA2,
    GEMMA3,
    read_stack,
    writable,
    write_stack,
)
from culet.checkpoints.folder import check_tensors, fitting_tokenizer, read_json
from culet.checkpoints.generating import GeneratingCheckpoint, Layout, read_folder, write_folder
from culet.checkpoints.gguf.container import read_gguf
from culet.checkpoints.gguf.reader import decoder_config, decoder_tensors
from culet.checkpoints.gguf.tokenizer_json import tokenizer_json
from culet.checkpoints.json_fields import optional_number, table
from culet.checkpoints.own_config import own_table, read_own
from culet.checkpoints.t5gemma import ARCHITECTURES as ENCODER_DECODERS
from culet.checkpoints.t5gemma import (
    EncoderDecoderCheckpoint as EncoderDecoderCheckpoint,
)
from culet.checkpoints.t5gemma import (
    read_encoder_decoder as read_encoder_decoder,
)
from culet.checkpoints.t5gemma import (
    write_encoder_decoder as write_encoder_decoder,
)
from culet.errors import CheckpointError, InputError
from culet.files import fingerprint
from culet.files.tensors import StoredDtype

_OWN = "CuletDecoder"
_FAMILIES = {"Gemma3ForCausalLM": GEMMA3, "Gemma2ForCausalLM": GEMMA2}
_WITH_IMAGES = "Gemma3ForConditionalGeneration"
ARCHITECTURES = (*_FAMILIES, _WITH_IMAGES, _OWN)
_IMAGES = tuple(
    f"{start}{part}."
    for start in ("", "model.")
    for part in ("vision_tower", "multi_modal_projector")
)
_PREFIXES = ("model.language_model.", "language_model.model.", "language_model.", "model.")


@dataclass(frozen=True)
class DecoderCheckpoint(GeneratingCheckpoint[DecoderConfig]):
    """A checked decoder; weights are still on disk."""


def read_generating(path: Path | str) -> DecoderCheckpoint | EncoderDecoderCheckpoint:
    """Return the decoder (a folder or a GGUF file) or the encoder-decoder at a path.

    Raises:
        CheckpointError: If it is neither, or cannot be trusted.
        InputError: If it is an embedding model, which writes nothing.
    """
    path = Path(path)
    if (path / "modules.json").exists():
        raise InputError(
            f"{path} is an embedding model, which writes no text; expected a decoder or an "
            "encoder-decoder"
        )
    if path.is_dir():
        named = read_json(path / "config.json").get("architectures")
        if isinstance(named, list) and named and named[0] in ENCODER_DECODERS:
            return read_encoder_decoder(path)
    return read_decoder(path)


def read_decoder(path: Path | str) -> DecoderCheckpoint:
    """Return the decoder in a transformers folder or a GGUF file, with everything checked.

    Raises:
        CheckpointError: If the architecture is not known, a file is missing or damaged, weights
            are missing or too many, or config, weights and tokenizer do not fit together.
    """
    path = Path(path)
    if path.is_file():
        return _read_gguf(path)
    if not path.is_dir():
        raise CheckpointError(f"{path} does not exist; expected a folder or a GGUF file")
    return read_folder(DecoderCheckpoint, path, ARCHITECTURES, _described)


def write_decoder(
    folder: Path | str,
    config: DecoderConfig,
    arrays: Mapping[str, np.ndarray],
    *,
    tokenizer_json: str,
    dtype: StoredDtype = "float32",
    max_shard_bytes: int = 5_000_000_000,
    extra_files: Mapping[str, str] | None = None,
) -> None:
    """Write a folder that culet and, where it has such a model, transformers load alike.

    Args:
        folder: Where; an older one there is replaced once the new one is whole.
        config: The architecture.
        arrays: float32 weights under their canonical names.
        tokenizer_json: Content of tokenizer.json.
        dtype: How weights are stored.
        max_shard_bytes: Weights beyond this size are split into several files.
        extra_files: Further small files (name to content), such as the resolved recipe.

    Raises:
        InputError: If the folder cannot be written.
        CheckpointError: If the tokenizer does not go with the model.
    """
    write_folder(
        Path(folder),
        _layout(config),
        _written(config),
        arrays,
        max_length=config.stack.max_length,
        tokenizer_json=tokenizer_json,
        dtype=dtype,
        max_shard_bytes=max_shard_bytes,
        extra_files=extra_files,
    )


def _read_gguf(path: Path) -> DecoderCheckpoint:
    """Return the decoder in a GGUF file."""
    file = read_gguf(path)
    config = decoder_config(file)
    tensors = decoder_tensors(file, config)
    check_tensors(config.weight_shapes(), tensors, path, said_by="its metadata")
    tokenizer = tokenizer_json(file.metadata, path)
    kinds = Counter(tensor.kind.name for tensor in file.tensors.values())
    stored = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    return DecoderCheckpoint(
        path=path,
        config=config,
        architecture=str(file.metadata["general.architecture"]),
        tensors={name: tensors[name] for name in config.weight_shapes()},
        tokenizer_json=fitting_tokenizer(tokenizer, config.stack.vocab_size, path),
        fingerprint=fingerprint.of_files([path]),
        notes=(f"tensors are stored as {stored}",),
    )


def _described(
    raw: Mapping[str, Any], architecture: str, where: Path
) -> tuple[DecoderConfig, Layout]:
    config = _config(raw, architecture, where)
    return config, _layout(config)


def _config(raw: Mapping[str, Any], architecture: str, where: Path) -> DecoderConfig:
    if architecture == _OWN:
        own = table(raw, "culet", where)
        return DecoderConfig(
            read_own(own.get("stack"), where),
            optional_number(own, "logit_softcap", where),
            own.get("tied_head", True) is True,
        )
    family = _FAMILIES.get(architecture, GEMMA3)
    part = table(raw, "text_config", where) if architecture == _WITH_IMAGES else raw
    return DecoderConfig(
        read_stack(part, family, causal=True, where=where),
        optional_number({**family.defaults, **part}, "final_logit_softcapping", where),
        {**part, **raw}.get("tie_word_embeddings", True) is not False,
    )


def _written(config: DecoderConfig) -> dict[str, Any]:
    """Return the config.json of a decoder."""
    for name, family in _FAMILIES.items():
        if writable(config.stack, family):
            return write_stack(config.stack, family) | {
                "architectures": [name],
                "final_logit_softcapping": config.logit_softcap,
                "tie_word_embeddings": config.tied_head,
            }
    own = {
        "stack": own_table(config.stack),
        "logit_softcap": config.logit_softcap,
        "tied_head": config.tied_head,
    }
    return {"architectures": [_OWN], "model_type": "culet_decoder", "culet": own}


def _layout(config: DecoderConfig) -> Layout:
    """Return how a decoder's weights lie in a folder."""
    shapes = config.weight_shapes()
    return Layout(
        shapes=shapes,
        names={name: _disk_name(name) for name in shapes},
        rows=config.stack.vocab_size,
        copies={"lm_head.weight": "embed"} if config.tied_head else {},
        renamed=_renamed,
        reads_images=lambda full: full.startswith(_IMAGES),
    )


def _renamed(full: str) -> str:
    """Return a tensor's name as a decoder without images has it."""
    head = full.removeprefix("language_model.")
    if head == "lm_head.weight":
        return head
    prefix = next((p for p in _PREFIXES if full.startswith(p)), "")
    return f"model.{full.removeprefix(prefix)}"


def _disk_name(name: str) -> str:
    return "lm_head.weight" if name == "head" else f"model.{GEMMA3.disk_name(name)}"
