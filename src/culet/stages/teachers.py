"""Models that others learn from: a culet folder, any sentence-transformers folder, an endpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from culet.checkpoints.embedding import read_embedding_model
from culet.checkpoints.recognize import recognize
from culet.data.endpoints.embeddings import EmbeddingClient, EmbeddingEndpoint
from culet.data.roles import RoleText
from culet.embedder import Embedder
from culet.errors import CheckpointError, need
from culet.files import fingerprint
from culet.loading import find_checkpoint, load
from culet.text.prompts import Prompts

Advance = Callable[[int], None]  # called with how many more texts have their vectors


class Teacher(Protocol):
    """A model that gives vectors of texts.

    Attributes:
        name: What messages call it.
        by_role: Whether the same words get another vector as a query than as a document.
        fingerprint: Changes with the model.
    """

    name: str
    by_role: bool
    fingerprint: str

    @property
    def prompts(self) -> Prompts | None:
        """The prompts that decide which tasks it knows; None if it takes any.

        A model that culet does not read has at most one prompt for all queries.
        """

    @property
    def client(self) -> EmbeddingClient | None:
        """The client of an endpoint, if it is behind one."""

    def embed(self, texts: Sequence[RoleText], advance: Advance) -> np.ndarray:
        """Return a vector for each text, float32 [B, T]."""


class EmbedderTeacher:
    """A checkpoint that culet reads, through its own engines and prompts."""

    client = None

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.name = embedder.name
        self.prompts = embedder.prompts
        self.by_role = not embedder.prompts.empty
        self.fingerprint = embedder.fingerprint

    def embed(self, texts: Sequence[RoleText], advance: Advance) -> np.ndarray:
        """Return unit vectors; queries carry the prompt of their task."""
        vectors = np.empty((len(texts), self._embedder.dim), dtype=np.float32)
        for task in sorted({text.task for text in texts}, key=lambda task: task or ""):
            places = [i for i, text in enumerate(texts) if text.task == task]
            vectors[places] = self._of_task(task, [texts[i] for i in places])
            advance(len(places))
        return vectors

    def _of_task(self, task: str | None, texts: Sequence[RoleText]) -> np.ndarray:
        words = [text.text for text in texts]
        if task is not None:
            return self._embedder.encode_query(words, task=task, progress=False)
        titles = [text.title for text in texts]
        if self.prompts.takes_title:
            return self._embedder.encode_document(words, titles=titles, progress=False)
        return self._embedder.encode_document([text.titled for text in texts], progress=False)


class SentenceTransformerTeacher:
    """Any local sentence-transformers folder; prompts named query and document if it has them."""

    prompts = client = None

    def __init__(self, folder: Path, *, device: str = "cpu", batch_size: int = 64) -> None:
        need("sentence_transformers", extra="rerank", purpose=f"the teacher {folder}")
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        if recognize(folder) != "embedding model":
            raise CheckpointError(
                f"{folder} has no modules.json; expected a sentence-transformers folder"
            )
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # ours counts texts
        try:
            self._model = SentenceTransformer(str(folder), device=device, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{folder} cannot be read: {error}") from error
        self._batch_size = batch_size
        prompts = self._model.prompts or {}
        self._query, self._document = prompts.get("query") or "", prompts.get("document") or ""
        self.name = str(folder)
        self.by_role = self._query != self._document
        self.fingerprint = _foreign_fingerprint(folder)

    def embed(self, texts: Sequence[RoleText], advance: Advance) -> np.ndarray:
        """Return the model's vectors."""
        vectors = self._model.encode(
            _prefixed(texts, query=self._query, document=self._document),
            prompt="",
            batch_size=self._batch_size,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        advance(len(texts))
        return np.asarray(vectors, dtype=np.float32)


def _prefixed(texts: Sequence[RoleText], *, query: str, document: str) -> list[str]:
    return [(document if text.task is None else query) + text.titled for text in texts]


def _foreign_fingerprint(folder: Path) -> str:
    """Return the content of what a model may be made of: no hidden files, none for people."""
    files = [
        file
        for file in folder.rglob("*")
        if file.is_file()
        and file.suffix != ".md"
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]
    return fingerprint.of_files(files, relative_to=folder)


class EndpointTeacher:
    """A model behind an OpenAI-compatible endpoint."""

    prompts = None

    def __init__(self, config: EmbeddingEndpoint) -> None:
        self.client = EmbeddingClient(config)
        self.name = f"{config.model} at {config.shown_url}"
        self.by_role = config.query_prefix != config.document_prefix
        self.fingerprint = endpoint_fingerprint(config)

    def embed(self, texts: Sequence[RoleText], advance: Advance) -> np.ndarray:
        """Return the endpoint's vectors."""
        config = self.client.config
        prefixes = {"query": config.query_prefix, "document": config.document_prefix}
        return self.client.embed(_prefixed(texts, **prefixes), advance)


def folder_teacher(folder: Path, *, device: str = "cpu", threads: int | None = None) -> Teacher:
    """Return the teacher in a folder: by culet's own engine where culet reads it.

    Raises:
        CheckpointError: If neither culet nor sentence-transformers can read it.
    """
    try:
        return EmbedderTeacher(load(folder, device=device, threads=threads))
    except CheckpointError:
        if recognize(folder) != "embedding model":
            raise
    return SentenceTransformerTeacher(folder, device=device)


def folder_fingerprint(folder: Path) -> str:
    """Return the `fingerprint` of the teacher in a folder, which is not loaded for it."""
    try:
        return read_embedding_model(find_checkpoint(folder.as_posix())).fingerprint
    except CheckpointError:
        if recognize(folder) != "embedding model":
            raise
    return _foreign_fingerprint(folder)


def endpoint_fingerprint(config: EmbeddingEndpoint) -> str:
    """Return the `fingerprint` of the teacher behind an endpoint."""
    return fingerprint.of_settings([config.model, config.query_prefix, config.document_prefix])
