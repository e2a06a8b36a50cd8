"""Vectors from any endpoint that speaks OpenAI's `POST <url>/embeddings`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from culet.data.posting import post_to
from culet.errors import InputError, RecipeError


@dataclass(frozen=True)
class EmbeddingEndpoint:
    """An endpoint and how to ask it.

    Attributes:
        url: Its base, such as "http://localhost:8000/v1".
        model: The model's name there.
        key_env: Environment variable that holds the key, if one is needed.
        query_prefix: What goes in front of queries.
        document_prefix: What goes in front of documents.
        batch_size: Texts of one request.
        parallel: Requests under way at a time.
        retries: Further attempts after an answer that says to try again, or none.
        timeout_seconds: Of one request.
    """

    url: str
    model: str
    key_env: str | None = None
    query_prefix: str = ""
    document_prefix: str = ""
    batch_size: int = 64
    parallel: int = 4
    retries: int = 5
    timeout_seconds: float = 120.0

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise RecipeError(f"url must begin with http:// or https://, got {self.url!r}")
        if self.batch_size < 1 or self.parallel < 1 or self.retries < 0:
            raise RecipeError(
                "batch_size and parallel must be at least 1 and retries 0, got "
                f"{self.batch_size}, {self.parallel} and {self.retries}"
            )


class EmbeddingClient:
    """Asks an endpoint for vectors.

    Args:
        config: The endpoint.
        sleep: Waits so many seconds; replaced in tests.

    Raises:
        InputError: If the variable that should hold the key is not set.
    """

    def __init__(
        self, config: EmbeddingEndpoint, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.config = config
        self._post = post_to(config, "embeddings", sleep=sleep)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vector of each text, float32 [B, T].

        Raises:
            InputError: If the endpoint refuses, does not answer, or answers something else.
        """
        size = self.config.batch_size
        parts = [list(texts[first : first + size]) for first in range(0, len(texts), size)]
        with ThreadPoolExecutor(self.config.parallel) as pool:
            found = list(pool.map(self._asked, parts))
        widths = {part.shape[1] for part in found}
        if len(widths) != 1:
            raise InputError(f"{self.config.url} gave vectors of widths {sorted(widths)}")
        return np.concatenate(found)

    def _asked(self, texts: list[str]) -> np.ndarray:
        body = {"model": self.config.model, "input": texts, "encoding_format": "float"}
        return self._post.ask(body, lambda answer: self._vectors(answer, len(texts)))

    def _vectors(self, answer: Any, number: int) -> np.ndarray:
        """Return the rows of an answer in the order of the texts."""
        try:
            rows = sorted(answer["data"], key=lambda row: row["index"])
            with np.errstate(over="ignore"):  # becomes inf, and is refused below
                vectors = np.array([row["embedding"] for row in rows], dtype=np.float32)
            numbers = [row["index"] for row in rows]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{self.config.url} answered something else than vectors: {answer!r:.200}"
            ) from error
        if numbers != list(range(number)) or vectors.ndim != 2 or not np.isfinite(vectors).all():
            raise InputError(
                f"{self.config.url} was asked for {number} vectors and answered numbers "
                f"{numbers[:5]}… of shape {vectors.shape}, or values that are not finite"
            )
        return vectors
