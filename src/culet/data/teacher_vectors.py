"""Teacher vectors of whole sources, by a hash of the text: what stage teach leaves, read again.

teacher.json      who taught: {"teacher", "width", "by_role", "texts", "fingerprint"}
00000.parquet …   columns key and vector (float16, unit length)

A record needs no key: its texts are looked up as they are. Vectors are copied once into a mapped
file of the user's cache, since a shuffled batch asks for them in any order.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from culet.data.records import Record
from culet.data.roles import RoleText, role_texts
from culet.errors import InputError, need
from culet.files import fingerprint
from culet.files.atomic import new_folder
from culet.files.cache import cache_folder

MANIFEST = "teacher.json"


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

    def vector(self, text: RoleText, origin: str) -> np.ndarray:
        """Return the vector of a text, float32 [T].

        Raises:
            InputError: If there is none.
        """
        vector: np.ndarray = self._vectors[self._row(text, origin)].astype(np.float32)
        return vector

    def check(self, record: Record, task: str) -> None:
        """Raise InputError unless there is a vector for each text of a record."""
        query, positive, negatives = role_texts(record, task)
        for text in (query, positive, *negatives):
            self._row(text, record.origin)

    def _row(self, text: RoleText, origin: str) -> int:
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
    with new_folder(cache, together=True) as aside:  # by each process of a run
        with (aside / "vectors.f16").open("wb") as file:
            for shard in shards:
                try:
                    table = pq.read_table(shard, columns=["key", "vector"]).combine_chunks()
                    column = table["vector"].combine_chunks()
                    flat = column.flatten().to_numpy(zero_copy_only=False)
                    block = flat.astype(np.float16).reshape(len(table), width)
                    keys = b"".join(bytes.fromhex(key) for key in table["key"].to_pylist())
                    parts.append(np.frombuffer(keys, dtype=_KEY))
                except Exception as error:  # pyarrow raises its own kinds
                    raise InputError(
                        f"{shard} is not a shard of teacher vectors of width {width}: {error}"
                    ) from error
                file.write(block.tobytes())
        found = np.concatenate([np.empty(0, dtype=_KEY), *parts])
        if len(found) != texts:
            raise InputError(
                f"{shards[0].parent if shards else 'the folder'} should hold {texts} vectors, got "
                f"{len(found)}; run its stage again"
            )
        order = np.argsort(found, kind="stable")
        np.save(aside / "keys.npy", found[order])
        np.save(aside / "rows.npy", order)


def write_shard(path: Path, keys: Sequence[str], vectors: np.ndarray) -> None:
    """Write one shard, whole or not at all.

    Args:
        path: The file.
        keys: Of `RoleText.key`.
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
