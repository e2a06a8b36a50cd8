"""Decoders on disk: a transformers folder or a GGUF file in, a transformers folder out.

Read: Gemma3ForCausalLM, the text part of Gemma3ForConditionalGeneration, Gemma2ForCausalLM, and
CuletDecoder, which is what is written where neither Gemma has a word for a setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from culet.architecture.generating_config import DecoderConfig
from culet.checkpoints import families
from culet.checkpoints.checkpoint import Contents, DecoderCheckpoint, Layout, read_folder
from culet.checkpoints.families import GEMMA2, GEMMA3, writable
from culet.checkpoints.folder import generating_files
from culet.checkpoints.gguf.reader import read_gguf_decoder
from culet.checkpoints.json_fields import table
from culet.checkpoints.own_config import own_decoder, read_own_decoder
from culet.errors import CheckpointError
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


def read_decoder(path: Path | str) -> DecoderCheckpoint:
    """Return the decoder in a transformers folder or a GGUF file, with everything checked.

    Raises:
        CheckpointError: If the architecture is not known, a file is missing or damaged, weights
            are missing or too many, or config, weights and tokenizer do not fit together.
    """
    path = Path(path)
    if path.is_file():
        return read_gguf_decoder(path)
    if not path.is_dir():
        raise CheckpointError(f"{path} does not exist; expected a folder or a GGUF file")
    return read_folder(path, ARCHITECTURES, _config, _layout)


def contents(
    config: DecoderConfig, arrays: Mapping[str, np.ndarray], dtype: StoredDtype
) -> Contents:
    """Return what the folder of a decoder holds."""
    layout = _layout(config)
    return Contents(
        weights={"": {disk: arrays[name] for name, disk in layout.names.items()}},
        texts=generating_files({**_written(config), "dtype": dtype}, config.stack.max_length),
        rows=layout.rows,
    )


def _config(raw: Mapping[str, Any], architecture: str, where: Path) -> DecoderConfig:
    if architecture == _OWN:
        return read_own_decoder(table(raw, "culet", where), "stack", where)
    family = _FAMILIES.get(architecture, GEMMA3)
    part = table(raw, "text_config", where) if architecture == _WITH_IMAGES else raw
    tied = {**part, **raw}.get("tie_word_embeddings", True) is not False
    return families.read_decoder(part, family, tied_head=tied, where=where)


def _written(config: DecoderConfig) -> dict[str, Any]:
    """Return the config.json of a decoder."""
    for name, family in _FAMILIES.items():
        if writable(config.stack, family):
            return families.write_decoder(config, family) | {
                "architectures": [name],
                "tie_word_embeddings": config.tied_head,
            }
    own = own_decoder(config, "stack")
    return {"architectures": [_OWN], "model_type": "culet_decoder", "culet": own}


def _layout(config: DecoderConfig) -> Layout:
    """Return how a decoder's weights lie in a folder."""
    return Layout(
        names={name: _disk_name(name) for name in config.weight_shapes()},
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
