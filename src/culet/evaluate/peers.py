"""Models of other libraries, behind the two methods that an evaluated model has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from culet.errors import CheckpointError, InputError, need
from culet.files import fingerprint

Vectors = NDArray[np.float32]


class SentenceTransformerModel:
    """Any local sentence-transformers folder, as that library embeds with it.

    Prompts named query and document are used if the folder has them.

    Attributes:
        name: For tables and for the folder of its results.
        fingerprint: Changes with the files of the folder.
        backend: Stands in the revision of its results.
    """

    backend = "sentence-transformers"

    def __init__(self, folder: Path, *, name: str | None = None, batch_size: int = 32) -> None:
        if not (folder / "modules.json").exists():
            raise CheckpointError(
                f"{folder} has no modules.json; expected a sentence-transformers folder"
            )
        library = need("sentence_transformers", extra="rerank", purpose=f"the model {folder}")
        try:
            self._model = library.SentenceTransformer(
                str(folder), device="cpu", local_files_only=True
            )
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{folder} cannot be read: {error}") from error
        self._batch_size = batch_size
        self._prompts = self._model.prompts or {}
        self.name = name or folder.resolve().name
        self.fingerprint = fingerprint.of_folder(folder)

    def encode_query(
        self,
        texts: Sequence[str],
        *,
        task: str = "search",
        instruction: str | None = None,
        truncate_to: int | None = None,
    ) -> Vectors:
        """Return unit vectors [B, E] under the prompt named query."""
        prompt = self._prompts.get("query", "") if instruction is None else instruction
        return self._encode(texts, prompt, truncate_to)

    def encode_document(
        self,
        texts: Sequence[str],
        *,
        titles: Sequence[str] | None = None,
        truncate_to: int | None = None,
    ) -> Vectors:
        """Return unit vectors [B, E] under the prompt named document.

        Raises:
            InputError: If titles are given separately, which this library has no place for.
        """
        if titles is not None:
            raise InputError("sentence-transformers takes no separate titles; join them to texts")
        return self._encode(texts, self._prompts.get("document", ""), truncate_to)

    def _encode(self, texts: Sequence[str], prompt: str, truncate_to: int | None) -> Vectors:
        vectors = self._model.encode(
            list(texts),
            prompt=prompt or "",
            batch_size=self._batch_size,
            normalize_embeddings=True,
            truncate_dim=truncate_to,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return np.asarray(vectors, dtype=np.float32)
