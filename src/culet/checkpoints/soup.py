"""Soups: weighted means of checkpoints, tensor by tensor, and which checkpoints may be averaged.

A soup works because fine-tuned copies of one model lie in one basin of the loss; the mean of
models that began from different weights is noise (model soups, arXiv 2203.05482). So checkpoints
have to be of one shape, one tokenizer, one set of prompts and one origin.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import combinations
from pathlib import Path

import numpy as np

from culet.checkpoints.checkpoint import EmbeddingCheckpoint
from culet.checkpoints.lineage import descent, lineage
from culet.checkpoints.write import write_checkpoint
from culet.errors import InputError
from culet.files.atomic import new_folder
from culet.files.tensors import StoredDtype, StoredTensor, to_float32

# Median cosine of the matrices of two models below which they are taken for unrelated. Measured on
# the packaged model's runs: 0.82 and more between any two that come from one start, even the random
# start itself and its end 1,500 steps on; below 0.01 between two different random starts.
MIN_COSINE = 0.5
_PIECE = 1 << 22  # numbers added up at once


def check_alike(checkpoints: Sequence[EmbeddingCheckpoint]) -> None:
    """Raise InputError unless shapes, tokenizers and prompts are the same everywhere."""
    first = checkpoints[0]
    tokenizer = json.loads(first.tokenizer_json)
    for other in checkpoints[1:]:
        pair = f"{first.path} and {other.path} cannot be averaged"
        for part in ("encoder", "embedding"):
            mine = first.config.encoder if part == "encoder" else first.config
            theirs = other.config.encoder if part == "encoder" else other.config
            for field in fields(mine):
                values = getattr(mine, field.name), getattr(theirs, field.name)
                if field.name != "encoder" and values[0] != values[1]:
                    raise InputError(
                        f"{pair}: {field.name} is {values[0]} in one and {values[1]} in the other"
                    )
        if json.loads(other.tokenizer_json) != tokenizer:
            raise InputError(f"{pair}: their tokenizers differ, so their rows mean other tokens")
        if other.prompts != first.prompts:
            raise InputError(f"{pair}: their prompts differ, so they were trained on other texts")


def cosine(first: EmbeddingCheckpoint, second: EmbeddingCheckpoint) -> float:
    """Return the median cosine between the matrices of two models, the token table left out.

    The table is left out because models that began apart may share it, as those do whose rows
    begin from the spelling of tokens.
    """
    found = []
    for name, shape in first.config.weight_shapes().items():
        if len(shape) < 2 or shape[0] == first.config.encoder.vocab_size:
            continue
        dot = np.zeros(3)
        a, b = (c.tensors[name] for c in (first, second))
        for x, y in zip(_pieces(a), _pieces(b), strict=True):
            dot += [float(np.dot(x, y)), float(np.dot(x, x)), float(np.dot(y, y))]
        found.append(dot[0] / max(np.sqrt(dot[1] * dot[2]), 1e-30))
    return float(np.median(found))


def check_related(checkpoints: Sequence[EmbeddingCheckpoint]) -> dict[str, float]:
    """Return the cosine of each pair, by its places ("0-1").

    Recorded ancestors decide where both models have them; otherwise the cosine does.

    Raises:
        InputError: If two of them do not come from the same weights.
    """
    cosines = {}
    for (i, first), (j, second) in combinations(enumerate(checkpoints), 2):
        cosines[f"{i}-{j}"] = near = cosine(first, second)
        chains = lineage(first), lineage(second)
        pair = f"{first.path} and {second.path} cannot be averaged"
        if chains[0] is not None and chains[1] is not None:
            if not set(chains[0]) & set(chains[1]):
                raise InputError(
                    f"{pair}: they began from different weights (no common ancestor in their "
                    "lineage); a mean of unrelated models is noise: merge runs of one start"
                )
        elif near < MIN_COSINE:
            raise InputError(
                f"{pair}: the median cosine of their matrices is {near:.3f}, and models of one "
                f"origin have at least {MIN_COSINE}; they seem to have begun from different "
                "weights, and a mean of unrelated models is noise"
            )
    return cosines


def write_mean(
    folder: Path,
    checkpoints: Sequence[EmbeddingCheckpoint],
    weights: Sequence[float],
    *,
    scratch: Path,
    dtype: StoredDtype = "float32",
    extra_files: Mapping[str, str] | None = None,
) -> None:
    """Write the weighted mean of some checkpoints as a checkpoint.

    Sums are taken in float64, a few million numbers at a time, in a file that is mapped: memory
    does not grow with the models.

    Args:
        folder: Where.
        checkpoints: Models for which `check_alike` holds.
        weights: Share of each; they are divided by their sum.
        scratch: Folder for that file; removed afterwards.
        dtype: How the result is stored.
        extra_files: Further small files of the checkpoint, by name.

    Raises:
        InputError: If weights and checkpoints differ in number, or the weights sum to 0.
    """
    total = float(sum(weights))
    if len(weights) != len(checkpoints) or not checkpoints or not abs(total) > 1e-9:
        raise InputError(
            f"expected a weight for each of {len(checkpoints)} models, and a sum that is not 0; "
            f"got {list(weights)}"
        )
    first = checkpoints[0]
    shapes = first.config.weight_shapes()
    with new_folder(scratch) as aside:
        arrays = {}
        for number, (name, shape) in enumerate(shapes.items()):
            array = np.memmap(aside / f"{number}.f32", dtype="<f4", mode="w+", shape=shape)
            flat = array.reshape(-1)
            sources = [_pieces(c.tensors[name]) for c in checkpoints]
            for place, pieces in enumerate(zip(*sources, strict=True)):
                mean = sum(
                    (w / total) * piece.astype(np.float64)
                    for w, piece in zip(weights, pieces, strict=True)
                )
                flat[place * _PIECE : place * _PIECE + len(pieces[0])] = mean
            arrays[name] = array
        write_checkpoint(
            folder,
            first.config,
            arrays,
            tokenizer_json=first.tokenizer_json,
            prompts=first.prompts,
            dtype=dtype,
            extra_files=descent(*checkpoints) | dict(extra_files or {}),
        )


def _pieces(tensor: StoredTensor) -> Iterator[np.ndarray]:
    """Yield a stored tensor's numbers in order as float32, a few million at a time."""
    flat = tensor.mapped().reshape(-1)
    for start in range(0, max(1, flat.size), _PIECE):
        yield to_float32(flat[start : start + _PIECE], tensor.dtype)
