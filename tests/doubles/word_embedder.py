"""A double of the embedder: a text is the sum of a fixed random direction for each of its words."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Sequence

import numpy as np

from culet.embedder import Prepared
from culet.errors import InputError
from culet.terminal.progress import Progress
from culet.text.prompts import Prompts

MAX_WORDS = 90


class WordEmbedder:
    """Two texts are near each other if they share words."""

    def __init__(
        self,
        fingerprint: str = "words",
        prompts: Prompts | None = None,
        *,
        precision: str = "float32",
    ) -> None:
        self.name = "words"
        self.fingerprint = fingerprint
        self.prompts = Prompts.default() if prompts is None else prompts
        self.widths = (64, 32)
        self.dim = 64
        self.max_length = MAX_WORDS
        self.backend = "words"
        self.precision = precision
        self.num_encoded = 0

    def encode_query(
        self,
        texts: Sequence[str],
        *,
        task: str = "search",
        instruction: str | None = None,
        truncate_to: int | None = None,
        on_long: str = "truncate",
        progress: bool | None = None,
    ) -> np.ndarray:
        prepared = self.prepare_query(texts, task=task, instruction=instruction, on_long=on_long)
        return self._warned(prepared, truncate_to)

    def encode_document(
        self,
        texts: Sequence[str],
        *,
        titles: Sequence[str | None] | None = None,
        truncate_to: int | None = None,
        on_long: str = "truncate",
        progress: bool | None = None,
    ) -> np.ndarray:
        titles = titles or [None] * len(texts)
        prepared = self.prepare_document(texts, titles=titles, on_long=on_long)
        return self._warned(prepared, truncate_to)

    def prepare_query(
        self,
        texts: Sequence[str],
        *,
        task: str = "search",
        instruction: str | None = None,
        on_long: str = "truncate",
        first: int = 0,
    ) -> Prepared:
        prompt = self.prompts.query(task, instruction=instruction)
        return _prepared([(prompt, text) for text in texts], on_long, first)

    def prepare_document(
        self,
        texts: Sequence[str],
        *,
        titles: Sequence[str | None],
        on_long: str = "truncate",
        first: int = 0,
    ) -> Prepared:
        prompts = [self.prompts.document(title) for title in titles]
        return _prepared(list(zip(prompts, texts, strict=True)), on_long, first)

    def embed(
        self, prepared: Prepared, *, truncate_to: int | None = None, bar: Progress | None = None
    ) -> np.ndarray:
        if bar is not None:
            bar.advance(len(prepared.ids))
        return self._encode(prepared.ids, truncate_to)  # type: ignore[arg-type]

    def _warned(self, prepared: Prepared, truncate_to: int | None) -> np.ndarray:
        if prepared.note:
            warnings.warn(prepared.note, stacklevel=3)
        return self.embed(prepared, truncate_to=truncate_to)

    def similarity(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9) for x in (a, b))
        return np.asarray(a @ b.T)

    def _encode(self, prompted: list[tuple[str, str]], width: int | None) -> np.ndarray:
        if width not in (None, *self.widths):
            raise InputError(f"truncate_to must be one of {self.widths}, got {width}")
        self.num_encoded += len(prompted)
        vectors = np.zeros((len(prompted), width or self.dim), dtype=np.float32)
        for i, (prompt, text) in enumerate(prompted):
            # The prompt counts a little, so that two prompts give two vectors.
            for word in re.findall(r"\w+", text.lower()):
                vectors[i] += _direction(word)[: vectors.shape[1]]
            for word in re.findall(r"\w+", prompt.lower()):
                vectors[i] += 0.1 * _direction(word)[: vectors.shape[1]]
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(norms, 1e-9), dtype=np.float32)


def _prepared(prompted: list[tuple[str, str]], on_long: str, first: int) -> Prepared:
    long = [i for i, (_, text) in enumerate(prompted) if len(text.split()) > MAX_WORDS]
    if long and on_long == "error":
        words = len(prompted[long[0]][1].split())
        raise InputError(f"text {first + long[0]} has {words} words")
    note = f"{len(long)} of {len(prompted)} texts were cut" if long else None
    return Prepared(prompted, note)  # type: ignore[arg-type]


def _direction(word: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "little")
    return np.random.default_rng(seed).standard_normal(64).astype(np.float32)
