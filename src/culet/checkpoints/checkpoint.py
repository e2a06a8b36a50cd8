"""A model as it lies in a folder or a file, whatever its kind: read, and about to be written.

Embedding models, decoders and encoder-decoders name, tie and split their weights in different
ways; each states its own in a `Layout`, and in the `Contents` of a folder to write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from culet.architecture.embedding_config import EmbeddingConfig
from culet.architecture.generating_config import DecoderConfig, EncoderDecoderConfig
from culet.checkpoints.folder import (
    LazyArrays,
    Tensor,
    architecture,
    check_tensors,
    check_tied_copy,
    listed,
    read_json,
    weight_files,
)
from culet.checkpoints.refusals import refuse_adapter, refuse_pickle
from culet.checkpoints.tokenizer_files import read_tokenizer
from culet.checkpoints.values import check_values
from culet.errors import CheckpointError, InputError
from culet.files import fingerprint
from culet.files.tensors import StoredTensor

Config = TypeVar("Config", bound=EmbeddingConfig | DecoderConfig | EncoderDecoderConfig)
Stored = TypeVar("Stored", bound=Tensor)


@dataclass(frozen=True)
class Checkpoint(Generic[Config, Stored]):
    """A checked model; its weights are still on disk.

    Attributes:
        path: The folder or the GGUF file.
        config: The architecture.
        architecture: What its own files call it.
        tensors: Each weight where it is stored, under its canonical name.
        tokenizer: Its tokenizer.json, or the content of one where the model has no such file, or
            cannot use it as it is.
        fingerprint: 16 hex digits that change with weights, config, tokenizer or prompts.
        notes: What was repaired or left out, or deserves a word, as sentences.
        prompts: Prompt name to prefix, as an embedding model ships them; may be empty.
    """

    path: Path
    config: Config
    architecture: str
    tensors: Mapping[str, Stored]
    tokenizer: Path | str
    fingerprint: str
    notes: tuple[str, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)

    @property
    def tokenizer_json(self) -> str:
        """The content of its tokenizer.json: up to 33 MB, so read when asked for."""
        if isinstance(self.tokenizer, Path):
            return self.tokenizer.read_text(encoding="utf-8")
        return self.tokenizer

    def arrays(self) -> Mapping[str, np.ndarray]:
        """Return the weights as float32 arrays; float32 files are mapped, not copied."""
        return LazyArrays(self.tensors)


EmbeddingCheckpoint = Checkpoint[EmbeddingConfig, StoredTensor]
DecoderCheckpoint = Checkpoint[DecoderConfig, Tensor]
EncoderDecoderCheckpoint = Checkpoint[EncoderDecoderConfig, Tensor]
GeneratingCheckpoint = DecoderCheckpoint | EncoderDecoderCheckpoint
AnyCheckpoint = EmbeddingCheckpoint | GeneratingCheckpoint
AnyConfig = EmbeddingConfig | DecoderConfig | EncoderDecoderConfig


@dataclass(frozen=True)
class Layout:
    """How the weights of one model lie in a folder.

    Attributes:
        names: The name on disk of each weight, by canonical name.
        rows: Tokens that every table of the model has a row for.
        copies: Tensors that a file may repeat: name on disk to canonical name of the original.
        renamed: From a name that others use to the one in `names`.
        reads_images: Whether a tensor belongs to the part that reads images, which is left out.
    """

    names: Mapping[str, str]
    rows: int
    copies: Mapping[str, str] = field(default_factory=dict)
    renamed: Callable[[str], str] = str
    reads_images: Callable[[str], bool] = lambda full: False


@dataclass(frozen=True)
class Contents:
    """What the folder of a model holds, except its tokenizer.json.

    Attributes:
        weights: Array by its name on disk, by the folder inside; "" is the folder itself.
        texts: Content of each small file.
        rows: Tokens that every table of the model has a row for.
    """

    weights: Mapping[str, Mapping[str, np.ndarray]]
    texts: Mapping[str, str]
    rows: int


def read_folder(
    path: Path,
    known: Sequence[str],
    described: Callable[[Mapping[str, Any], str, Path], Config],
    laid_out: Callable[[Config], Layout],
) -> Checkpoint[Config, Tensor]:
    """Return the model that generates in a folder, with everything about it checked.

    Args:
        path: The folder.
        known: Architectures that may stand in its config.json.
        described: From config.json, the architecture's name and the file's path, to the config.
        laid_out: From the config to the layout of its weights.

    Raises:
        CheckpointError: If the architecture is not known, a file is missing or damaged, weights
            are missing or too many, or config, weights and tokenizer do not fit together.
    """
    refuse_pickle(path)
    refuse_adapter(path)
    where = path / "config.json"
    raw = read_json(where)
    if (name := architecture(raw)) not in known:
        raise CheckpointError(
            f"{where}: the architecture is {name!r} (model_type {raw.get('model_type')!r}), which "
            f"is not known here; expected one of {', '.join(known)}"
        )
    try:
        config = described(raw, name, where)
    except InputError as error:
        raise CheckpointError(f"{where}: {error}") from error
    layout = laid_out(config)
    found, notes = named_tensors(weight_files(path), layout)
    tensors = check_tensors(config.weight_shapes(), found, path)
    tokenizer = path / "tokenizer.json"
    return Checkpoint(
        path=path,
        config=config,
        architecture=name,
        tensors=tensors,
        tokenizer=read_tokenizer(tokenizer, layout.rows),
        fingerprint=fingerprint.of_files(
            {where, tokenizer, *(tensor.path for tensor in tensors.values())}, relative_to=path
        ),
        notes=(*notes, *check_values(tensors)),
    )


def named_tensors(
    on_disk: Mapping[str, Stored], layout: Layout
) -> tuple[dict[str, Stored], list[str]]:
    """Return the tensors under canonical names, unknown ones under their own, and notes."""
    own = {disk: name for name, disk in layout.names.items()}
    tensors: dict[str, Stored] = {}
    notes = []
    images = [full for full in on_disk if layout.reads_images(full)]
    if images:
        notes.append(f"left out {len(images)} tensors that read images: {listed(images)}")
    for full in (name for name in on_disk if name not in images):
        theirs = layout.renamed(full)
        name = own.get(theirs, theirs if theirs in layout.copies else full)
        if name in tensors:
            raise CheckpointError(
                f"{tensors[name].path}: two tensors are both {name}: damaged checkpoint"
            )
        tensors[name] = on_disk[full]
    for copy, original in layout.copies.items():
        if copy in tensors and original in tensors:
            check_tied_copy(tensors.pop(copy), tensors[original])
    return tensors, notes
