"""Teacher vectors of whole sources, by a hash of the text: what stage teach leaves, read again.

teacher.json      who taught: {"teacher", "width", "by_role", "texts", "fingerprint"}
00000.parquet …   columns key and vector (float16, unit length)

A record needs no key: its texts are looked up as they are. Vectors are copied once into a mapped
file of the user's cache, since a shuffled batch asks for them in any order.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from culet.data.records import Record
from culet.errors import InputError, need
from culet.files import fingerprint
from culet.files.atomic import new_folder
from culet.files.cache import cache_folder
from culet.text.prompts import SYMMETRIC_TASKS

MANIFEST = "teacher.json"


@dataclass(frozen=True)
class Spoken:
    """A text in its role.

    Attributes:
        task: Task of a query, or of both sides of a symmetric task; None for a document.
        title: Title of a document, if it has one.
        text: The words.
    """

    task: str | None
    title: str | None
    text: str

    @property
    def titled(self) -> str:
        """Return the words with the title in front, for models without a place for one."""
        return f"{self.title}\n{self.text}" if self.title else self.text

    def key(self, *, by_role: bool) -> str:
        """Return 32 hex digits of the text, and of its role if that matters to the teacher."""
        parts = [self.titled]
        if by_role and self.task is not None:
            parts = ["query", self.task, self.text]
        elif by_role:
            parts = ["document", self.title or "", self.text]
        return fingerprint.of_texts(*parts).hex()


def spoken(record: Record, task: str) -> tuple[Spoken, Spoken, list[Spoken]]:
    """Return a record's query, positive and negatives in their roles, as training reads them.

    Args:
        record: The record.
        task: Its task if it names none.
    """
    name = record.task or task
    both = name if name in SYMMETRIC_TASKS else None
    return (
        Spoken(name, None, record.query),
        Spoken(both, None if both else record.title, record.positive),
        [Spoken(both, None, text) for text in record.negatives],
    )


class TeacherFolder:
    """The vectors in a folder of stage teach.

    Raises:
        InputError: If it is no such folder, unfinished or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            self.width, self._by_role = int(manifest["width"]), bool(manifest["by_role"])
            texts = int(manifest["texts"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} is not a finished folder of teacher vectors: {MANIFEST}: {error!r}"
            ) from error
        shards = sorted(path.glob("*.parquet"))
        name = fingerprint.of_settings([manifest, [(s.name, s.stat().st_size) for s in shards]])
        cache = cache_folder() / "teachers" / name
        if not cache.exists():
            _copy(shards, cache, width=self.width, texts=texts)
        self._keys = np.load(cache / "keys.npy", mmap_mode="r")
        self._rows = np.load(cache / "rows.npy", mmap_mode="r")
        self._vectors = np.memmap(
            cache / "vectors.f16", dtype=np.float16, mode="r", shape=(texts, self.width)
        )

    def vector(self, text: Spoken, origin: str) -> np.ndarray:
        """Return the vector of a text, float32 [T].

        Raises:
            InputError: If there is none.
        """
        vector: np.ndarray = self._vectors[self._row(text, origin)].astype(np.float32)
        return vector

    def of_record(self, record: Record, task: str) -> dict[str, Any]:
        """Return a record's vectors by role, as if they stood in it."""
        query, positive, negatives = spoken(record, task)
        return {
            "query": self.vector(query, record.origin),
            "positive": self.vector(positive, record.origin),
            "negatives": [self.vector(negative, record.origin) for negative in negatives],
        }

    def check(self, record: Record, task: str) -> None:
        """Raise InputError unless there is a vector for each text of a record."""
        query, positive, negatives = spoken(record, task)
        for text in (query, positive, *negatives):
            self._row(text, record.origin)

    def _row(self, text: Spoken, origin: str) -> int:
        key = np.frombuffer(bytes.fromhex(text.key(by_role=self._by_role)), dtype=_KEY)
        place = int(np.searchsorted(self._keys, key)[0])
        if place == len(self._keys) or self._keys[place] != key[0]:
            raise InputError(
                f"{origin}: {self.path} has no vector for {text.text!r:.60}; let stage teach read "
                "this file too"
            )
        return int(self._rows[place])


_KEY = np.dtype("S16")


def _copy(shards: Sequence[Path], cache: Path, *, width: int, texts: int) -> None:
    """Copy shards into a mapped file with sorted keys beside it."""
    pq = need("pyarrow.parquet", extra="parquet", purpose="reading vectors")
    parts: list[np.ndarray] = []
    with new_folder(cache) as aside:
        with (aside / "vectors.f16").open("wb") as file:
            for shard in shards:
                try:
                    table = pq.read_table(shard, columns=["key", "vector"]).combine_chunks()
                    column = table["vector"].combine_chunks()
                    flat = column.flatten().to_numpy(zero_copy_only=False)
                    block = flat.astype(np.float16).reshape(len(table), width)
                    told = b"".join(bytes.fromhex(key) for key in table["key"].to_pylist())
                    parts.append(np.frombuffer(told, dtype=_KEY))
                except Exception as error:  # pyarrow raises its own kinds
                    raise InputError(
                        f"{shard} is not a shard of teacher vectors of width {width}: {error}"
                    ) from error
                file.write(block.tobytes())
        keys = np.concatenate([np.empty(0, dtype=_KEY), *parts])
        if len(keys) != texts:
            raise InputError(
                f"{shards[0].parent if shards else 'the folder'} should hold {texts} vectors, got "
                f"{len(keys)}; run its stage again"
            )
        order = np.argsort(keys, kind="stable")
        np.save(aside / "keys.npy", keys[order])
        np.save(aside / "rows.npy", order)


def write_shard(path: Path, keys: Sequence[str], vectors: np.ndarray) -> None:
    """Write one shard, whole or not at all.

    Args:
        path: The file.
        keys: Of `Spoken.key`.
        vectors: float32 [B, T]; stored at unit length in half precision, which every distance
            that is taken of them ignores.

    Raises:
        InputError: If a vector is zero or not finite.
    """
    pa = need("pyarrow", extra="parquet", purpose=f"writing {path}")
    pq = need("pyarrow.parquet", extra="parquet", purpose=f"writing {path}")
    from culet.files.atomic import new_file

    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not (lengths > 0).all():
        bad = int(np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)).ravel())[0])
        raise InputError(f"the teacher's vector of text {bad} of {path.name} has no direction")
    flat = pa.array((vectors / lengths).astype(np.float16).ravel())
    column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    with new_file(path) as aside:
        pq.write_table(pa.table({"key": list(keys), "vector": column}), aside)
