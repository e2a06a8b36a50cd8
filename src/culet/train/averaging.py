"""The mean of the last weights of a run (T5Gemma 2, arXiv 2512.14856, section 3.1: of five).

A folder holds a file of weights for each of these steps; only the newest are kept. Only weights are
averaged: integers have no mean and are taken from the last file, and optimiser state is not saved
there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from culet.errors import TrainingError
from culet.files.tensors import read_tensors, write_tensors
from culet.train.processes import current, unshard

_NAME = re.compile(r"step-(\d+)")
_EXTENSION = ".safetensors"


def save_weights(folder: Path, named: Mapping[str, Tensor], *, step: int, keep: int) -> None:
    """Write the weights after a step, and drop all but the newest `keep` files.

    The first process writes; where weights are split, the others must call it too.
    """
    arrays = {}
    for name, parameter in named.items():
        value = unshard(parameter.detach())
        if current().first:
            arrays[name] = np.atleast_1d(value.float().cpu().numpy())
    if not current().first:
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / (step_name(step) + _EXTENSION), arrays)
    for file in superseded(saved(folder), step=step, keep=keep):
        file.unlink()


def superseded(files: Mapping[int, Path], *, step: int, keep: int) -> list[Path]:
    """Return the files, given by step, that are not among the newest `keep` after a step.

    Files of later steps belong to a run that was interrupted after them and resumed before them.
    """
    later = [at for at in files if at > step]
    return [files[at] for at in later + sorted(files.keys() - set(later))[:-keep]]


def step_name(step: int) -> str:
    """Return the name of what is kept after a step, without an extension."""
    return f"step-{step:09d}"


def saved(folder: Path, extension: str = _EXTENSION) -> dict[int, Path]:
    """Return the files by step, oldest first; with no extension, the folders."""
    found = {
        int(match[1]): path
        for path in folder.glob(f"step-*{extension}")
        if (match := _NAME.fullmatch(path.name.removesuffix(extension)))
    }
    return dict(sorted(found.items()))


def average_files(files: Sequence[Path]) -> dict[str, np.ndarray]:
    """Return the mean of each tensor over some files, in float64, as float32.

    Raises:
        TrainingError: If there is no file, or they do not hold the same tensors.
    """
    if not files:
        raise TrainingError("there are no saved weights to average")
    stored = [read_tensors(file) for file in files]
    for file, tensors in zip(files, stored, strict=True):
        if tensors.keys() != stored[-1].keys():
            raise TrainingError(f"{file} does not hold the tensors of {files[-1]}")
    return {name: mean([tensors[name].float32() for tensors in stored]) for name in stored[-1]}


def mean(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean of some arrays; of whole numbers, the last one."""
    if not np.issubdtype(arrays[-1].dtype, np.floating):
        return arrays[-1]
    total = np.zeros(arrays[0].shape, dtype=np.float64)
    for array in arrays:
        total += array
    averaged: np.ndarray = (total / len(arrays)).astype(arrays[-1].dtype)
    return averaged
