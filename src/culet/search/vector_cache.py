"""Vectors of a corpus cached on disk, so that a second search embeds only what has changed.

One file for each model, engine and corpus. Inside, a vector for each text, under the hash of the
text with its prompt: an edited file costs its edited chunks, a moved one costs nothing. The file's
name is derived from the model's fingerprint, the backend and the precision, so that a vector of
another model or a coarser precision is never used.

The cache is a convenience: a file that is damaged or cannot be written is reported and otherwise
ignored. Concurrent searches may write the same file; the last one wins.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from culet.errors import InputError
from culet.files.atomic import new_file
from culet.files.cache import cache_folder

_KEY_BYTES = 16

# What a damaged archive raises; TypeError if it is another kind of numpy file.
_DAMAGES = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile)

Report = Callable[[str], None]


class Computed(Protocol):
    """What identifies the vectors it gives, as an `Embedder` does: weights, backend, precision."""

    fingerprint: str
    backend: str
    precision: str


def cache_path(embedder: Computed, *corpus: Path) -> Path:
    """Return the file for the vectors of this corpus under this model and precision."""
    made_by = f"{embedder.fingerprint}\0{embedder.backend}\0{embedder.precision}\0"
    places = b"\0".join(os.fsencode(path.resolve()) for path in corpus)
    name = hashlib.sha256(made_by.encode() + places).hexdigest()[:24]
    return cache_folder() / "search" / f"{name}.npz"


def with_cache(
    path: Path | None,
    keys: Sequence[bytes],
    encode: Callable[[list[int]], Iterable[np.ndarray]],
    *,
    dim: int,
    report: Report,
) -> tuple[np.ndarray, int]:
    """Return the vectors [B, E] of the texts known by `keys`, and how many had to be encoded.

    What was encoded is written back, even if the work is interrupted; vectors whose texts are
    gone are dropped.

    Args:
        path: The file; None for no cache.
        keys: `fingerprint.of_texts` of each text; equal texts are encoded once.
        encode: Positions of texts → their vectors, batch by batch [B, E].
        dim: The width E.
        report: Receives a sentence if the cache is damaged or cannot be written.
    """
    kept = _read(path, dim, report) if path is not None else {}
    stale = len(kept.keys() - set(keys))
    first_places = {key: i for i, key in reversed(list(enumerate(keys)))}
    missing = sorted(i for key, i in first_places.items() if key not in kept)
    encoded = 0
    try:
        for vectors in encode(missing) if missing else ():
            places = missing[encoded : encoded + len(vectors)]
            kept |= {keys[i]: vector for i, vector in zip(places, vectors, strict=True)}
            encoded += len(vectors)
    finally:
        if path is not None and (encoded or stale):
            _write(path, {key: kept[key] for key in first_places if key in kept}, dim, report)
    embedding = np.empty((len(keys), dim), dtype=np.float32)
    for i, key in enumerate(keys):
        embedding[i] = kept[key]
    return embedding, encoded


def _read(path: Path, dim: int, report: Report) -> dict[bytes, np.ndarray]:
    if not path.is_file():
        return {}
    try:
        # The archive has checksums, so that damage anywhere in it is noticed.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            keys, vectors = file["keys"], file["vectors"]
        expected = keys.dtype == np.uint8 and vectors.dtype == np.float32
        if not expected or keys.shape != (len(vectors), _KEY_BYTES) or vectors.shape[1:] != (dim,):
            raise ValueError(f"keys {keys.shape} and vectors {vectors.shape} do not fit {dim}")
        if not np.isfinite(vectors).all():
            raise ValueError("a vector is not finite")
    except _DAMAGES as error:
        report(f"the cached vectors in {path} are damaged and were ignored ({error})")
        return {}
    return {key.tobytes(): vector for key, vector in zip(keys, vectors, strict=True)}


def _write(path: Path, kept: dict[bytes, np.ndarray], dim: int, report: Report) -> None:
    keys = np.frombuffer(b"".join(kept), dtype=np.uint8).reshape(-1, _KEY_BYTES)
    vectors = np.array(list(kept.values()), dtype=np.float32).reshape(-1, dim)
    try:
        with new_file(path, together=True) as aside, aside.open("wb") as file:
            np.savez(file, keys=keys, vectors=vectors)
    except InputError as error:
        report(f"vectors were not kept for the next search: {error}")
