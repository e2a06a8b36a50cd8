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

from culet import fingerprint
from culet.atomic import new_folder
from culet.encoder_decoder_checkpoint import (
    EncoderDecoderCheckpoint as EncoderDecoderCheckpoint,
)
from culet.encoder_decoder_checkpoint import (
    read_encoder_decoder as read_encoder_decoder,
)
from culet.encoder_decoder_checkpoint import (
    write_encoder_decoder as write_encoder_decoder,
)
from culet.errors import CheckpointError, InputError
from culet.foreign import optional_number, table
from culet.foreignstack import (
    DECODER_NAMES,
    GEMMA2,
    GEMMA3,
    disk_name,
    own_table,
    read_own,
    read_stack,
    writable,
    write_stack,
)
from culet.gguf_decoder import decoder_config, decoder_tensors
from culet.gguf_file import read_gguf
from culet.gguf_tokenizer import tokenizer_json
from culet.model.decoder_config import DecoderConfig
from culet.modelfolder import (
    LazyArrays,
    Tensor,
    architecture,
    check_tensors,
    check_tokenizer,
    drop_tied_copy,
    fitting_tokenizer,
    listed,
    read_json,
    refuse_pickle,
    required,
    small_files,
    weight_files,
    write_shards,
)
from culet.tensorfile import StoredDtype

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
class DecoderCheckpoint:
    """A checked decoder; weights are still on disk.

    Attributes:
        path: The folder or the GGUF file.
        config: The architecture.
        tensors: Each weight where it is stored, under its canonical name.
        tokenizer_json: The content of tokenizer.json.
        fingerprint: 16 hex digits that change with weights, config or tokenizer.
        notes: What was left out or deserves a word, as sentences.
    """

    path: Path
    config: DecoderConfig
    tensors: Mapping[str, Tensor]
    tokenizer_json: str
    fingerprint: str
    notes: tuple[str, ...] = ()

    def arrays(self) -> Mapping[str, np.ndarray]:
        """Return the weights as float32 arrays, each read when it is asked for."""
        return LazyArrays(self.tensors)


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
    refuse_pickle(path)
    where = path / "config.json"
    raw = read_json(where)
    try:
        config = _config(raw, architecture(raw, ARCHITECTURES, where), where)
    except InputError as error:
        raise CheckpointError(f"{where}: {error}") from error
    tensors, notes = _tensors(weight_files(path), config)
    check_tensors(config.weight_shapes(), tensors, path)
    tokenizer = required(path / "tokenizer.json")
    content = tokenizer.read_text(encoding="utf-8")
    files = {where, tokenizer, *(tensor.path for tensor in tensors.values())}
    return DecoderCheckpoint(
        path=path,
        config=config,
        tensors={name: tensors[name] for name in config.weight_shapes()},
        tokenizer_json=fitting_tokenizer(content, config.stack.vocab_size, tokenizer),
        fingerprint=fingerprint.of_files(files, relative_to=path),
        notes=tuple(notes),
    )


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
    with new_folder(Path(folder)) as aside:
        named = {_disk_name(name): arrays[name] for name in config.weight_shapes()}
        write_shards(aside, named, dtype, max_shard_bytes)
        texts = small_files(_written(config) | {"dtype": dtype}, config.stack.max_length)
        texts["tokenizer.json"] = tokenizer_json
        for name, text in (texts | dict(extra_files or {})).items():
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            (aside / name).write_text(text, encoding="utf-8")
        check_tokenizer(aside / "tokenizer.json", config.stack.vocab_size)


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
        tensors={name: tensors[name] for name in config.weight_shapes()},
        tokenizer_json=fitting_tokenizer(tokenizer, config.stack.vocab_size, path),
        fingerprint=fingerprint.of_files([path]),
        notes=(f"tensors are stored as {stored}",),
    )


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


def _tensors(
    on_disk: Mapping[str, Tensor], config: DecoderConfig
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors under canonical names; unknown ones keep theirs, for the refusal."""
    own = {_disk_name(name): name for name in config.weight_shapes()}
    tensors: dict[str, Tensor] = {}
    notes = []
    images = [full for full in on_disk if full.startswith(_IMAGES)]
    if images:
        notes.append(f"left out {len(images)} tensors that read images: {listed(images)}")
    for full in (name for name in on_disk if name not in images):
        head = full.removeprefix("language_model.")
        prefix = next((p for p in _PREFIXES if full.startswith(p)), "")
        theirs = head if head == "lm_head.weight" else f"model.{full.removeprefix(prefix)}"
        name = own.get(theirs, full)
        if name in tensors:
            raise CheckpointError(
                f"{tensors[name].path}: two tensors are both {name}: damaged checkpoint"
            )
        tensors[name] = on_disk[full]
    if config.tied_head and "lm_head.weight" in tensors and "embed" in tensors:
        drop_tied_copy(tensors, "lm_head.weight", "embed")
    return tensors, notes


def _disk_name(name: str) -> str:
    return "lm_head.weight" if name == "head" else f"model.{disk_name(name, DECODER_NAMES)}"
