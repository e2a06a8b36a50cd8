"""Models that others learn from: a culet folder, any sentence-transformers folder, an endpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from culet.data.endpoints.embeddings import EmbeddingClient, EmbeddingEndpoint
from culet.data.teacher_vectors import Spoken
from culet.embedder import Embedder
from culet.errors import CheckpointError, need
from culet.files import fingerprint
from culet.loading import load


class Teacher(Protocol):
    """Whatever makes vectors of texts.

    Attributes:
        name: For messages.
        by_role: Whether the same words have another vector as a query than as a document.
        fingerprint: Changes with the model.
    """

    name: str
    by_role: bool
    fingerprint: str

    def embed(
        self, texts: Sequence[Spoken], advance: Callable[[int], None] = lambda number: None
    ) -> np.ndarray:
        """Return a vector for each text, float32 [B, T].

        Args:
            texts: The texts.
            advance: Told how many more texts have their vectors, as they come.
        """


class EmbedderTeacher:
    """A checkpoint that culet reads, through its own engines and prompts.

    Attributes:
        prompts: The prompts it puts in front of texts.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.name = embedder.name
        self.prompts = embedder.prompts
        self.by_role = not embedder.prompts.empty
        self.fingerprint = embedder.fingerprint

    def embed(
        self, texts: Sequence[Spoken], advance: Callable[[int], None] = lambda number: None
    ) -> np.ndarray:
        """Return unit vectors; queries carry the prompt of their task."""
        vectors = np.empty((len(texts), self._embedder.dim), dtype=np.float32)
        for task in sorted({text.task for text in texts}, key=lambda task: task or ""):
            places = [i for i, text in enumerate(texts) if text.task == task]
            own = [texts[i] for i in places]
            if task is not None:
                asked = [text.text for text in own]
                found = self._embedder.encode_query(asked, task=task, progress=False)
            elif self._embedder.prompts.takes_title:
                found = self._embedder.encode_document(
                    [text.text for text in own],
                    titles=[text.title for text in own],
                    progress=False,
                )
            else:
                found = self._embedder.encode_document(
                    [text.titled for text in own], progress=False
                )
            vectors[places] = found
            advance(len(places))
        return vectors


class SentenceTransformerTeacher:
    """Any local sentence-transformers folder; prompts named query and document if it has them."""

    def __init__(self, folder: Path, *, device: str = "cpu", batch_size: int = 64) -> None:
        need("sentence_transformers", extra="rerank", purpose=f"the teacher {folder}")
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        if not (folder / "modules.json").exists():
            raise CheckpointError(
                f"{folder} has no modules.json; expected a sentence-transformers folder"
            )
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # ours counts texts
        try:
            self._model = SentenceTransformer(str(folder), device=device, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{folder} cannot be read: {error}") from error
        self._batch_size = batch_size
        self._prompts = {
            side: (self._model.prompts or {}).get(side) or "" for side in ("query", "document")
        }
        self.name = str(folder)
        self.by_role = self._prompts["query"] != self._prompts["document"]
        self.fingerprint = fingerprint.of_files(_files(folder), relative_to=folder)

    def embed(
        self, texts: Sequence[Spoken], advance: Callable[[int], None] = lambda number: None
    ) -> np.ndarray:
        """Return the model's vectors."""
        sides = ["document" if text.task is None else "query" for text in texts]
        vectors = self._model.encode(
            [self._prompts[s] + t.titled for s, t in zip(sides, texts, strict=True)],
            prompt="",
            batch_size=self._batch_size,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        advance(len(texts))
        return np.asarray(vectors, dtype=np.float32)


def _files(folder: Path) -> list[Path]:
    """Return the files a model may be made of: all but hidden ones and what people read."""
    return [
        file
        for file in folder.rglob("*")
        if file.is_file()
        and file.suffix != ".md"
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]


class EndpointTeacher:
    """A model behind an OpenAI-compatible endpoint.

    Attributes:
        client: Who asks it, keeps what it answers and counts what that costs.
    """

    def __init__(self, config: EmbeddingEndpoint) -> None:
        self._config = config
        self.client = EmbeddingClient(config)
        self.name = f"{config.model} at {config.shown_url}"
        self.by_role = config.query_prefix != config.document_prefix
        self.fingerprint = fingerprint.of_settings(
            [config.model, config.query_prefix, config.document_prefix]
        )

    def embed(
        self, texts: Sequence[Spoken], advance: Callable[[int], None] = lambda number: None
    ) -> np.ndarray:
        """Return the endpoint's vectors."""
        prefixes = [
            self._config.document_prefix if text.task is None else self._config.query_prefix
            for text in texts
        ]
        asked = [p + t.titled for p, t in zip(prefixes, texts, strict=True)]
        return self.client.embed(asked, advance)


def folder_teacher(folder: Path, *, device: str = "cpu", threads: int | None = None) -> Teacher:
    """Return the teacher in a folder: by culet's own engine where culet reads it.

    Raises:
        CheckpointError: If neither culet nor sentence-transformers can read it.
    """
    try:
        return EmbedderTeacher(load(folder, device=device, threads=threads))
    except CheckpointError:
        if not (folder / "modules.json").exists():
            raise
    return SentenceTransformerTeacher(folder, device=device)
