"""A model whose vectors are hashes of the texts, and tasks small enough to read, for tests."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from culet.vectors.similarity import Vectors


def grid(text: str, width: int = 64) -> Vectors:
    """A vector of +-1/8 (unit length at 64 wide): sums are exact, so equal scores tie exactly."""
    rng = np.random.default_rng(zlib.crc32(text.encode()))
    signs = np.ones(width, dtype=np.float32)
    signs[rng.integers(0, width, 6)] = -1
    return signs / np.float32(8)


def gaussian(text: str, width: int = 64) -> Vectors:
    """A direction of its own for every text, near that of the text's first word."""
    around = np.random.default_rng(zlib.crc32(text.split()[0].encode())).standard_normal(width)
    own = np.random.default_rng(zlib.crc32(text.encode())).standard_normal(width)
    vector = around + 2 * own
    return (vector / np.linalg.norm(vector)).astype(np.float32)


class HashModel:
    """Both methods an evaluation calls; `calls` records side, texts and options of each."""

    def __init__(self, vector: Any = gaussian) -> None:
        self.vector = vector
        self.calls: list[tuple[str, list[str], dict[str, Any]]] = []

    def encode_query(
        self,
        texts: Sequence[str],
        *,
        task: str = "search",
        instruction: str | None = None,
        truncate_to: int | None = None,
    ) -> Vectors:
        options = {"task": task, "instruction": instruction, "truncate_to": truncate_to}
        self.calls.append(("query", list(texts), options))
        return np.stack([self.vector(text) for text in texts])[:, :truncate_to]

    def encode_document(
        self,
        texts: Sequence[str],
        *,
        titles: Sequence[str] | None = None,
        truncate_to: int | None = None,
    ) -> Vectors:
        options = {"titles": titles, "truncate_to": truncate_to}
        self.calls.append(("document", list(texts), options))
        return np.stack([self.vector(text) for text in texts])[:, :truncate_to]


def sentences(count: int, *, words: int = 8, seed: int = 0, repeats: bool = True) -> list[str]:
    """Sentences that begin with one of a few words; about one in five is a repeat."""
    rng = np.random.default_rng(seed)
    drawn = [
        f"topic{rng.integers(words)} has the number {rng.integers(2 * count)}" for _ in range(count)
    ]
    return drawn if repeats else [f"{text} in row {row}" for row, text in enumerate(drawn)]


def write_task(folder: Path, *, packed: bool = True, **task: Any) -> Path:
    """Write task.json and the files given under `files` ({name: rows or text})."""
    files = task.pop("files")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "task.json").write_text(json.dumps({"name": folder.name, **task}), encoding="utf-8")
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, str):
            content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
        if packed:
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(content.encode()))
        else:
            path.write_bytes(content.encode())
    return folder
