"""A question → the nearest chunks of a corpus, compared with every one of them.

Exact: no index and no approximation; for a folder of documents that is one matrix product. What
takes time is embedding the corpus, so its vectors are cached between searches.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from culet.errors import InputError
from culet.files.fingerprint import of_texts
from culet.search.documents import TARGET_CHARS, Chunk, ChunkedCorpus, read_corpora
from culet.search.vector_cache import Report, cache_path, with_cache
from culet.terminal.progress import Progress
from culet.terminal.tables import counted
from culet.vectors.nearest import highest

if TYPE_CHECKING:
    from culet.embedder import Embedder

_CHARS_PER_TOKEN = 2  # cautious, so that hardly any chunk is longer than the model reads
_CHUNKS_PER_BATCH = 128


@dataclass(frozen=True)
class Hit:
    """A chunk that was found.

    Attributes:
        score: Cosine similarity with the question, at most 1.
        chunk: The chunk.
    """

    score: float
    chunk: Chunk


@dataclass(frozen=True)
class Hits:
    """The answer to a search.

    Attributes:
        question: What was asked.
        hits: Best first; chunks of equal score in the order of the corpus.
        num_chunks: How many chunks were compared.
        num_embedded: How many of them had to be embedded now; the others were cached.
    """

    question: str
    hits: tuple[Hit, ...]
    num_chunks: int
    num_embedded: int


def search(
    embedder: Embedder,
    chunks: Sequence[Chunk],
    question: str,
    *,
    k: int = 10,
    task: str = "search",
    truncate_to: int | None = None,
    cache: Path | None = None,
    progress: bool | None = None,
    report: Report = print,
) -> Hits:
    """Return the `k` chunks nearest to a question.

    Args:
        embedder: The model.
        chunks: From `read_corpus`.
        question: What to look for.
        k: The most chunks to return.
        task: The task of the question: "search", "question_answering", "code", …
        truncate_to: A trained width; None means the full one.
        cache: File for the vectors of this corpus (`vector_cache.cache_path`); None for none.
        progress: True shows it, False never, None once embedding takes a while.
        report: Receives a sentence when the cache is damaged or a chunk had to be cut.

    Raises:
        InputError: A blank question, `k` below 1, an unknown task or an untrained width.
    """
    if not question.strip():
        raise InputError("the question is blank; ask for something")
    if k < 1:
        raise InputError(f"k must be at least 1, got {k}")
    # The question first: a wrong task or width is refused before the corpus is embedded.
    query = embedder.encode_query([question], task=task, truncate_to=truncate_to, progress=False)
    document, num_embedded = _embed_chunks(embedder, chunks, cache, progress, report)
    width = query.shape[1]
    scores = embedder.similarity(query, document[:, :width])  # 1 P
    best = highest(scores, k=k)[0]
    hits = tuple(Hit(float(scores[0, i]), chunks[i]) for i in best)
    return Hits(question, hits, len(chunks), num_embedded)


def search_corpus(
    embedder: Embedder,
    paths: str | Path | Sequence[str | Path],
    question: str,
    *,
    k: int = 10,
    task: str = "search",
    truncate_to: int | None = None,
    text_field: str = "text",
    on_bad_line: Literal["error", "skip"] = "error",
    gitignore: bool = True,
    cached: bool = True,
    progress: bool | None = None,
    report: Report = print,
) -> tuple[Hits, ChunkedCorpus]:
    """Read a corpus, search it, and return the hits with the corpus they came from.

    Arguments are those of `read_corpora` and `search`; with `cached`, vectors are kept in the
    user's cache folder. Chunks are sized so that the model rarely has to cut one.

    Raises:
        InputError: As `read_corpus` and `search`, or there is nothing to search.
    """
    places = [Path(p) for p in ([paths] if isinstance(paths, str | Path) else paths)]
    target_chars = min(TARGET_CHARS, _CHARS_PER_TOKEN * embedder.max_length)
    corpus = read_corpora(
        places,
        target_chars=target_chars,
        text_field=text_field,
        on_bad_line=on_bad_line,
        gitignore=gitignore,
    )
    if not corpus.chunks:
        left_out = f"; {counted(len(corpus.skipped), 'files')} left out" if corpus.skipped else ""
        raise InputError(f"{', '.join(map(str, places))}: no text to search{left_out}")
    hits = search(
        embedder,
        corpus.chunks,
        question,
        k=k,
        task=task,
        truncate_to=truncate_to,
        cache=cache_path(embedder, *places) if cached else None,
        progress=progress,
        report=report,
    )
    return hits, corpus


def _embed_chunks(
    embedder: Embedder,
    chunks: Sequence[Chunk],
    cache: Path | None,
    progress: bool | None,
    report: Report,
) -> tuple[np.ndarray, int]:
    """Return the full-width vectors [B, E] of the chunks, and how many were embedded now."""
    if embedder.prompts.takes_title:
        titles = [chunk.title for chunk in chunks]
        texts = [chunk.text for chunk in chunks]
    else:  # the title still helps to find the text
        titles = [None] * len(chunks)
        texts = [f"{chunk.title}\n{chunk.text}" if chunk.title else chunk.text for chunk in chunks]
    prompted = (
        embedder.prompts.document(title) + text for title, text in zip(titles, texts, strict=True)
    )
    keys = [of_texts(text) for text in prompted]

    def encode(places: list[int]) -> Iterator[np.ndarray]:
        warned: list[str] = []
        with Progress("embedding", total=len(places), unit="chunks", show=progress) as bar:
            for start in range(0, len(places), _CHUNKS_PER_BATCH):
                batch = places[start : start + _CHUNKS_PER_BATCH]
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    embedding = embedder.encode_document(
                        [texts[i] for i in batch], titles=[titles[i] for i in batch], progress=False
                    )
                warned += [str(warning.message) for warning in caught]
                yield embedding
                bar.advance(len(batch))
        if warned:  # one sentence for the whole corpus, not one for each batch
            more = f" (and {len(warned) - 1} more batches like this one)" if warned[1:] else ""
            report(f"while embedding the corpus: {warned[0]}{more}")

    return with_cache(cache, keys, encode, dim=embedder.dim, report=report)
