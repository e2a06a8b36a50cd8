"""A pair stays if its document is among the nearest to its query, under a given embedder.

Pairs come from the web and from templates; where a document does not answer its query better than
other documents do, training on the pair teaches noise. The check by rank is that of Promptagator
(arXiv 2209.11755) and E5 (arXiv 2212.03533, section 3, which kept a pair whose passage was among
the top 2 of a pool of a million).

The rank is exact, over a pool of documents drawn evenly from the data itself; memory is that of
the pool, whatever the number of pairs.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from culet.errors import RecipeError
from culet.files.atomic import new_file
from culet.text.keys import normalised_key
from culet.vectors.nearest import Banned, count_above

_QUERIES, _DOCUMENTS = 512, 8192  # compared at a time: 16 MiB of scores


@dataclass(frozen=True)
class ConsistencyConfig:
    """Removal of pairs whose document is not near their query.

    Attributes:
        model: Checkpoint folder, stage ("@start") or hub id of the embedder; the packaged model if
            left out.
        top: A pair stays if fewer than this many documents of the pool are nearer.
        pool: Documents it is compared with, drawn evenly from all that are left; 10,000 of 512
            numbers take 20 MB. The default `top` and `pool` are ours: EmbeddingGemma's are not
            published.
        sources: Names of the sources whose pairs are judged; empty means all. An embedder that
            does not know a language or code would remove what it should learn.
        task: What queries are embedded for; see `culet.text.prompts`.
        width: Width of the vectors; a trained one, or the full one if left out.
    """

    model: Path | None = None
    top: int = 3
    pool: int = 20_000
    sources: tuple[str, ...] = ()
    task: str = "search"
    width: int | None = None

    def __post_init__(self) -> None:
        if self.top < 1 or self.pool < 2:
            raise RecipeError(
                f"consistency.top must be at least 1 and pool 2, got {self.top} and {self.pool}"
            )


class TextEncoder(Protocol):
    """What embeds: `culet.embedder.Embedder` is one."""

    def encode_query(
        self,
        texts: Sequence[str],
        *,
        task: str = ...,
        truncate_to: int | None = ...,
        progress: bool | None = ...,
    ) -> np.ndarray:
        """Return unit vectors, float32 [B, E]."""

    def encode_document(
        self, texts: Sequence[str], *, truncate_to: int | None = ..., progress: bool | None = ...
    ) -> np.ndarray:
        """Return unit vectors, float32 [B, E]."""


@dataclass(frozen=True)
class PlacedPair:
    """A query and its document; `place` is whatever the caller knows the row by."""

    place: int
    query: str
    document: str


class DocumentDraw:
    """An even draw of different documents from a stream: those with the smallest hashes.

    Which they are does not depend on the order of the stream, so an interrupted pass draws alike.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._heap: list[tuple[int, int, str]] = []  # (-hash of document, hash of query, document)
        self._members: set[int] = set()

    def add(self, pair: PlacedPair) -> None:
        """Offer a pair's document."""
        document, query = _hash(pair.document), _hash(pair.query)
        if document in self._members:
            return
        entry = (-document, query, pair.document)
        if len(self._heap) < self._size:
            heapq.heappush(self._heap, entry)
            self._members.add(document)
        elif entry > self._heap[0]:
            self._members.discard(-heapq.heapreplace(self._heap, entry)[0])
            self._members.add(document)

    def drawn(self) -> list[tuple[int, int, str]]:
        """Return (hash of document, hash of query, document), in order of hashes."""
        return sorted((-negative, query, text) for negative, query, text in self._heap)


class Pool:
    """Documents in vectors, to be compared with.

    Attributes:
        vectors: float32 [P, E].
        documents: uint64 [P], hashes of the documents.
        queries: uint64 [P], hashes of the queries they were drawn with.
    """

    def __init__(self, vectors: np.ndarray, documents: np.ndarray, queries: np.ndarray) -> None:
        self.vectors = vectors
        self.documents = documents
        self.queries = queries

    @classmethod
    def embedded(cls, draw: DocumentDraw, encoder: TextEncoder, config: ConsistencyConfig) -> Pool:
        """Embed a draw of documents."""
        drawn = draw.drawn()
        return cls(
            encoder.encode_document([text for *_, text in drawn], truncate_to=config.width),
            np.array([document for document, _, _ in drawn], np.uint64),
            np.array([query for _, query, _ in drawn], np.uint64),
        )

    def save(self, path: Path) -> None:
        """Write it to a file."""
        with new_file(path) as aside, aside.open("wb") as file:
            np.savez(file, vectors=self.vectors, documents=self.documents, queries=self.queries)

    @classmethod
    def load(cls, path: Path) -> Pool:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(arrays["vectors"], arrays["documents"], arrays["queries"])

    def ranks(
        self, pairs: Sequence[PlacedPair], encoder: TextEncoder, config: ConsistencyConfig
    ) -> np.ndarray:
        """Return how many documents of the pool are nearer to each query than its own, int64 [B].

        Documents equal to its own do not count, nor those drawn with an equal query: they are
        right as well.
        """
        nearer = np.zeros(len(pairs), np.int64)
        texts = [pair.query for pair in pairs]
        settings: dict[str, Any] = {"truncate_to": config.width, "progress": False}
        queries = encoder.encode_query(texts, task=config.task, **settings)
        own = encoder.encode_document([pair.document for pair in pairs], **settings)
        scores = np.einsum("be,be->b", queries, own)
        hashes = np.array([(_hash(p.document), _hash(p.query)) for p in pairs], np.uint64)
        for low in range(0, len(pairs), _QUERIES):
            some = slice(low, low + _QUERIES)
            right = (hashes[some, :1] == self.documents) | (hashes[some, 1:] == self.queries)
            nearer[some] = count_above(
                queries[some],
                self.vectors,
                scores[some],
                banned=Banned(*np.nonzero(right)),
                block=_DOCUMENTS,
            )
        return nearer


def consistent(
    pairs: Sequence[PlacedPair], pool: Pool, encoder: TextEncoder, config: ConsistencyConfig
) -> np.ndarray:
    """Return which pairs stay, bool [B]."""
    if not pairs:
        return np.zeros(0, bool)
    found: np.ndarray = pool.ranks(pairs, encoder, config) < config.top
    return found


def draw(pairs: Iterable[PlacedPair], config: ConsistencyConfig) -> DocumentDraw:
    """Return a draw of the documents of a stream of pairs."""
    chosen = DocumentDraw(config.pool)
    for pair in pairs:
        chosen.add(pair)
    return chosen


def _hash(text: str) -> int:
    return int.from_bytes(normalised_key((text,))[:8], "little")
