"""Vectors from any endpoint that speaks OpenAI's `POST <url>/embeddings`."""

from __future__ import annotations

import json
import os
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from culet.errors import InputError, RecipeError

_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}  # worth another attempt
_LONGEST_WAIT = 60.0


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
        self._sleep = sleep
        self._key = None
        if config.key_env is not None:
            self._key = os.environ.get(config.key_env)
            if not self._key:
                raise InputError(
                    f"the environment variable {config.key_env} is not set; put the endpoint's "
                    "key into it"
                )

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
        failure = ""
        for attempt in range(self.config.retries + 1):
            wait = min(_LONGEST_WAIT, 2.0**attempt) * random.uniform(0.5, 1.0)
            try:
                return self._vectors(self._posted(texts), len(texts))
            except urllib.error.HTTPError as error:
                told = error.read(300).decode("utf-8", "replace")
                failure = f"{error.code} {error.reason}: {told}"
                if error.code not in _AGAIN:
                    raise InputError(f"{self.config.url} refuses: {failure}") from error
                if (stated := error.headers.get("Retry-After", "")).isdigit():
                    wait = min(_LONGEST_WAIT, float(stated))
            except (OSError, TimeoutError) as error:
                failure = str(error)
            if attempt < self.config.retries:
                self._sleep(wait)
        raise InputError(
            f"{self.config.url} gave no answer in {self.config.retries + 1} attempts, the last: "
            f"{failure}; run again to go on from here"
        )

    def _posted(self, texts: list[str]) -> Any:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        body = {"model": self.config.model, "input": texts, "encoding_format": "float"}
        request = urllib.request.Request(
            f"{self.config.url.rstrip('/')}/embeddings",
            data=json.dumps(body).encode(),
            headers=headers,
        )
        with urllib.request.urlopen(request, timeout=self.config.timeout_seconds) as reply:
            try:
                return json.loads(reply.read())
            except ValueError as error:
                raise InputError(f"{self.config.url} answered no JSON: {error}") from error

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
