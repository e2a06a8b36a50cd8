"""Teacher vectors for distillation: given in the records, or looked up in a file by key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from culet.errors import InputError, MissingExtra


class TeacherFile:
    """Vectors by key from a Parquet file with the columns `key` and `vector`."""

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow.parquet as pq
        except ImportError as error:
            raise MissingExtra("pyarrow", extra="parquet", purpose=f"reading {path}") from error
        try:
            table = pq.read_table(path, columns=["key", "vector"])
        except Exception as error:  # pyarrow raises its own kinds
            raise InputError(
                f"{path} is not a Parquet file with the columns key and vector: {error}"
            ) from error
        self.path = path
        self._row = {key: i for i, key in enumerate(table["key"].to_pylist())}
        vectors = table["vector"].combine_chunks()
        flat = np.asarray(vectors.flatten().to_numpy(zero_copy_only=False), dtype=np.float32)
        if not self._row or flat.size % len(self._row):
            raise InputError(f"{path}: vectors must all have one width, and there must be some")
        self._vectors = flat.reshape(len(self._row), -1)
        self.width = self._vectors.shape[1]

    def __getitem__(self, key: str) -> np.ndarray:
        if key not in self._row:
            raise KeyError(key)
        return self._vectors[self._row[key]]


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
        vector = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError):
        vector = np.empty(0, dtype=np.float32)
    if vector.ndim != 1 or not vector.size or not np.isfinite(vector).all():
        raise InputError(f"{origin}: a teacher vector must be a list of numbers, got {value!r:.60}")
    return vector
