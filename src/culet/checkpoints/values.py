"""Whether the weights of a model are numbers that can be right.

A damaged weight does not always show: int8 and int4 turn NaN into finite codes, a NaN in one row of
the token table waits for a text with that token, and a file that was only downloaded in part is
filled with zeros, which give vectors of length 0. So every weight is looked at when a checkpoint is
opened, whatever it is opened for. Of a large file the result is remembered while the file is
unchanged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from culet.checkpoints.folder import Tensor
from culet.errors import CheckpointError
from culet.files.remembered import remembered

_VERSION = 1  # of what is looked for
_SMALLEST = np.finfo(np.float32).tiny  # below it numbers lose their digits, and products are 0
_EMPTY_BYTES = 1 << 14  # of zero rows side by side, from where they are worth a word


def check_values(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return a sentence for each weight that has suspiciously many zeros.

    Raises:
        CheckpointError: If a weight holds NaN or infinity, or a matrix only zeros or only numbers
            too small to compute with; the message names the tensor and the file.
    """
    by_file: dict[Path, list[Tensor]] = {}
    for tensor in tensors.values():
        by_file.setdefault(tensor.path, []).append(tensor)
    notes: list[str] = []
    for path, inside in by_file.items():
        names = hashlib.blake2b("\0".join(t.name for t in inside).encode(), digest_size=8)
        what = f"values {_VERSION} {names.hexdigest()}"
        notes += json.loads(remembered(path, what, partial(_notes, inside)))
    return notes


def _notes(tensors: Sequence[Tensor]) -> str:
    return json.dumps([note for tensor in tensors for note in _of_tensor(tensor)])


def _of_tensor(tensor: Tensor) -> list[str]:
    """Return what to say of one tensor, read in pieces of some rows."""
    largest, first = np.float32(0), 0
    empty: list[np.ndarray] = []  # rows of zeros
    for piece in tensor.pieces():
        sizes = np.abs(piece).reshape(len(piece), -1).max(axis=1)
        if not np.isfinite(sizes).all():  # a NaN is the largest of its row
            row = first + int(np.argmin(np.isfinite(sizes)))
            raise CheckpointError(
                f"{_named(tensor)} holds NaN or infinity (first in row {row}); the file is damaged "
                "or training has failed: take another copy or an earlier checkpoint"
            )
        largest = max(largest, sizes.max())
        empty.append(first + np.flatnonzero(sizes == 0))
        first += len(piece)
    if len(tensor.shape) < 2 or 0 in tensor.shape:  # norms may begin at 0; layers without heads
        return []
    if largest < _SMALLEST:
        what = "zeros only, as after a download or copy that stopped early"
        if largest:
            what = f"no number above {largest:.0e}, which is too small to compute with"
        raise CheckpointError(f"{_named(tensor)} holds {what}; take the file again")
    return _empty_rows(tensor, np.concatenate(empty))


def _empty_rows(tensor: Tensor, rows: np.ndarray) -> list[str]:
    """Return a sentence about the longest run of rows of zeros, if it is a long one."""
    runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    longest = max(runs, key=len)
    if len(longest) * tensor.shape[-1] * 4 < _EMPTY_BYTES:
        return []
    return [
        f"rows {longest[0]} to {longest[-1]} of the tensor {tensor.name} "
        f"({tensor.shape[0]} rows) are zero; "
        "if nobody has set them so, the file was only downloaded or copied in part"
    ]


def _named(tensor: Tensor) -> str:
    return f"{tensor.path}: the tensor {tensor.name}"
