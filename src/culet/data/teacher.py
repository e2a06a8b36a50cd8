"""Teacher vectors for distillation: given in the records, or looked up in a file by key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from culet.errors import InputError, need


class TeacherFile:
    """Vectors by key from a Parquet file with the columns `key` and `vector`."""

    def __init__(self, path: Path) -> None:
        pq = need("pyarrow.parquet", extra="parquet", purpose=f"reading {path}")
        try:
            table = pq.read_table(path, columns=["key", "vector"])
        except Exception as error:  # pyarrow raises its own kinds
            raise InputError(
                f"{path} is not a Parquet file with the columns key and vector: {error}"
            ) from error
        self.path = path
        keys = table["key"].to_pylist()
        self._row = {key: i for i, key in enumerate(keys)}
        if len(self._row) < len(keys):
            raise InputError(
                f"{path}: every key must stand once, got {len(keys)} rows with "
                f"{len(self._row)} different keys"
            )
        self._vectors: np.ndarray = _matrix(table["vector"], path)
        self.width = self._vectors.shape[1]

    def __getitem__(self, key: str) -> np.ndarray:
        if key not in self._row:
            raise KeyError(key)
        vector: np.ndarray = self._vectors[self._row[key]]
        return vector


def _matrix(column: Any, path: Path) -> np.ndarray:
    """Return a column of lists as rows, after checking that every row is there and of one width."""
    import pyarrow.compute as pc

    try:
        widths = pc.unique(pc.list_value_length(column)).to_pylist()  # None for a missing vector
        chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
        with np.errstate(over="ignore"):  # too large a number becomes inf, and is refused below
            flat = np.concatenate([np.empty(0, np.float32), *chunks]).astype(np.float32)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise InputError(
            f"{path}: the column vector must hold lists of numbers, got {column.type}"
        ) from error
    if len(widths) != 1 or not widths[0]:
        raise InputError(
            f"{path}: vectors must all have one width, and there must be some; got the widths "
            f"{', '.join(map(str, widths)) or 'of no row'}"
        )
    if not np.isfinite(flat).all():
        raise InputError(f"{path}: vectors must be finite numbers, got some that are not")
    return flat.reshape(len(column), -1)


def teacher_vector(value: Any, file: TeacherFile | None, origin: str) -> np.ndarray:
    """Return the vector a record gives, or the one its key names.

    Raises:
        InputError: If the key is unknown, there is no file to look in, or the vector is no list
            of finite numbers.
    """
    if isinstance(value, str):
        if file is None:
            raise InputError(
                f"{origin}: the teacher vector is a key ({value!r}), but the source names no "
                "teacher file"
            )
        try:
            return file[value]
        except KeyError:
            raise InputError(f"{origin}: {file.path} has no vector for the key {value!r}") from None
    try:
        with np.errstate(over="ignore"):  # too large a number becomes inf, and is refused below
            vector = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError):
        vector = np.empty(0, dtype=np.float32)
    if vector.ndim != 1 or not vector.size or not np.isfinite(vector).all():
        raise InputError(f"{origin}: a teacher vector must be a list of numbers, got {value!r:.60}")
    return vector
