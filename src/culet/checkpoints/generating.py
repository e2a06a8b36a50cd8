"""What folders of decoders and of encoder-decoders have in common, in and out.

Both are a config.json, safetensors and a tokenizer.json. What the two name and tie in other ways
stands in a `Layout`, which `decoder_checkpoint` and `encoder_decoder_checkpoint` make of a config.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from culet.checkpoints.folder import (
    LazyArrays,
    Tensor,
    architecture,
    check_tensors,
    check_tied_copy,
    check_tokenizer,
    fitting_tokenizer,
    generating_files,
    listed,
    read_json,
    refuse_pickle,
    required,
    weight_files,
    write_shards,
)
from culet.errors import CheckpointError, InputError
from culet.files import fingerprint
from culet.files.atomic import new_folder
from culet.files.tensors import StoredDtype

Config = TypeVar("Config")
Stored = TypeVar("Stored", bound=Tensor)


@dataclass(frozen=True)
class GeneratingCheckpoint(Generic[Config]):
    """A checked model that writes text; weights are still on disk.

    Attributes:
        path: The folder or the GGUF file.
        config: The architecture.
        architecture: What its file calls it.
        tensors: Each weight where it is stored, under its canonical name.
        tokenizer_json: The content of tokenizer.json.
        fingerprint: 16 hex digits that change with weights, config or tokenizer.
        notes: What was left out or deserves a word, as sentences.
    """

    path: Path
    config: Config
    architecture: str
    tensors: Mapping[str, Tensor]
    tokenizer_json: str
    fingerprint: str
    notes: tuple[str, ...] = ()

    def arrays(self) -> Mapping[str, np.ndarray]:
        """Return the weights as float32 arrays, each read when it is asked for."""
        return LazyArrays(self.tensors)


Read = TypeVar("Read", bound=GeneratingCheckpoint[Any])


@dataclass(frozen=True)
class Layout:
    """How the weights of one model lie in a folder.

    Attributes:
        shapes: The shape of each weight, by canonical name.
        names: The name on disk of each weight, by canonical name.
        rows: Tokens that every table of the model has a row for.
        copies: Tensors that may be there again: name on disk to canonical name of the original.
        renamed: From a name that others use to the one in `names`.
        reads_images: Whether a tensor is of the part that reads images, which is left out.
    """

    shapes: Mapping[str, tuple[int, ...]]
    names: Mapping[str, str]
    rows: int
    copies: Mapping[str, str]
    renamed: Callable[[str], str]
    reads_images: Callable[[str], bool]


def read_folder(
    kind: type[Read],
    path: Path,
    known: Sequence[str],
    described: Callable[[Mapping[str, Any], str, Path], tuple[Any, Layout]],
) -> Read:
    """Return the checkpoint in a folder, with everything about it checked.

    Args:
        kind: The class of the answer.
        path: The folder.
        known: Architectures that may stand in its config.json.
        described: From config.json, the architecture's name and the file's path, to the config
            and the layout of its weights.

    Raises:
        CheckpointError: If the architecture is not known, a file is missing or damaged, weights
            are missing or too many, or config, weights and tokenizer do not fit together.
    """
    refuse_pickle(path)
    where = path / "config.json"
    raw = read_json(where)
    name = architecture(raw, known, where)
    try:
        config, layout = described(raw, name, where)
    except InputError as error:
        raise CheckpointError(f"{where}: {error}") from error
    tensors, notes = named_tensors(weight_files(path), layout)
    check_tensors(layout.shapes, tensors, path)
    tokenizer = required(path / "tokenizer.json")
    content = tokenizer.read_text(encoding="utf-8")
    files = {where, tokenizer, *(tensor.path for tensor in tensors.values())}
    return kind(
        path=path,
        config=config,
        architecture=name,
        tensors={name: tensors[name] for name in layout.shapes},
        tokenizer_json=fitting_tokenizer(content, layout.rows, tokenizer),
        fingerprint=fingerprint.of_files(files, relative_to=path),
        notes=tuple(notes),
    )


def write_folder(
    folder: Path,
    layout: Layout,
    config: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    *,
    max_length: int,
    tokenizer_json: str,
    dtype: StoredDtype,
    max_shard_bytes: int,
    extra_tensors: Mapping[str, np.ndarray] | None = None,
    extra_files: Mapping[str, str] | None = None,
) -> None:
    """Write a folder; an older one there is replaced once the new one is whole.

    Args:
        folder: Where.
        layout: The names of the weights.
        config: Content of config.json, but for the dtype.
        arrays: float32 weights under their canonical names.
        max_length: Longest text, for the tokenizer's own file.
        tokenizer_json: Content of tokenizer.json.
        dtype: How weights are stored.
        max_shard_bytes: Weights beyond this size are split into several files.
        extra_tensors: Tensors that are not of this model, under their names on disk.
        extra_files: Further small files, name to content.

    Raises:
        InputError: If the folder cannot be written.
        CheckpointError: If the tokenizer does not go with the model.
    """
    with new_folder(folder) as aside:
        named = {disk: arrays[name] for name, disk in layout.names.items()}
        write_shards(aside, named | dict(extra_tensors or {}), dtype, max_shard_bytes)
        texts = generating_files({**config, "dtype": dtype}, max_length)
        texts["tokenizer.json"] = tokenizer_json
        for file, text in (texts | dict(extra_files or {})).items():
            (aside / file).parent.mkdir(parents=True, exist_ok=True)
            (aside / file).write_text(text, encoding="utf-8")
        check_tokenizer(aside / "tokenizer.json", layout.rows)


def named_tensors(
    on_disk: Mapping[str, Stored], layout: Layout
) -> tuple[dict[str, Stored], list[str]]:
    """Return the tensors under canonical names; unknown ones keep theirs, for the refusal."""
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
