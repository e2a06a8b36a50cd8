"""Vectors from any endpoint that speaks OpenAI's `POST <url>/embeddings`."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import numpy as np

from culet.data.endpoints.client import Answer, Client
from culet.data.endpoints.http import EndpointConfig
from culet.errors import InputError, RecipeError
from culet.files.fingerprint import of_texts

Texts = tuple[str, ...]


@dataclass(frozen=True)
class EmbeddingEndpoint(EndpointConfig):
    """An embedding model, and what it is sent.

    Attributes:
        query_prefix: What goes in front of queries.
        document_prefix: What goes in front of documents.
        batch_size: Texts of one request.
    """

    query_prefix: str = ""
    document_prefix: str = ""
    batch_size: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 1:
            raise RecipeError(f"batch_size must be at least 1, got {self.batch_size}")

    @property
    def prices(self) -> tuple[float, float]:
        """Return the prices of a million tokens, sent and received."""
        return self.input_price, 0.0


@dataclass(frozen=True)
class _Vectors(Answer):
    """Vectors of some texts, float32 [B, T], under a name by which a request is counted once."""

    vectors: np.ndarray
    name: str = field(default_factory=lambda: uuid4().hex)


class EmbeddingClient(Client[Texts, _Vectors]):
    """Asks for vectors, and keeps them until `forget` is called.

    In `cost`, a text whose vector was known before counts as one.

    Args:
        config: The endpoint.
        sleep: Waits some seconds; replaced in tests.
        clock: Returns seconds; replaced in tests.
    """

    tables = (
        "vectors (text blob primary key, vector blob, tokens integer)",
        "requests (name text primary key, tokens integer)",
    )

    def __init__(
        self,
        config: EmbeddingEndpoint,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(config, "embeddings", sleep=sleep, clock=clock)
        self.config = config

    def forget(self) -> None:
        """Drop the vectors kept, once they are elsewhere; what they cost is still known."""
        with self._answers_file() as store, store:
            store.execute("delete from vectors")

    def spent(self) -> dict[str, Any]:
        """Return the cost of all runs that kept their answers in the same file, as JSON values."""
        asked, tokens = self.cost.asked, self.cost.asked_tokens
        if self._file is not None:
            with self._answers_file() as store:
                query = "select count(*), coalesce(sum(tokens), 0) from requests"
                asked, tokens = store.execute(query).fetchone()
        paid = round(self._price(tokens), 6)
        retried = self.cost.retried
        return {"asked": asked, "retried": retried, "asked_tokens": tokens, "paid": paid}

    def embed(
        self, texts: Sequence[str], advance: Callable[[int], None] = lambda number: None
    ) -> np.ndarray:
        """Return the vector of each text, float32 [B, T]; equal texts are sent once.

        Args:
            texts: The texts.
            advance: Called with how many more texts have their vectors, as answers come in.

        Raises:
            InputError: If the endpoint refuses, does not answer, or answers something else, or the
                budget is spent; what it answered until then is kept.
        """
        places: dict[str, list[int]] = {}
        for place, text in enumerate(texts):
            places.setdefault(text, []).append(place)
        found: dict[str, np.ndarray] = {}
        with self._answers_file() as store:
            for text in places:
                if (answer := self._known(store, (text,))) is not None:
                    found[text] = answer.vectors[0]
                    self._count(answer)
                    advance(len(places[text]))
        missing, size = [text for text in places if text not in found], self.config.batch_size
        batches = [tuple(missing[first : first + size]) for first in range(0, len(missing), size)]
        with closing(self.stream(batches)) as answers:
            for batch, answer in zip(batches, answers, strict=True):
                found |= dict(zip(batch, answer.vectors, strict=True))
                advance(sum(len(places[text]) for text in batch))
        widths = {len(vector) for vector in found.values()}
        if len(widths) != 1:
            raise InputError(f"{self.config.shown_url} gave vectors of widths {sorted(widths)}")
        return np.stack([found[text] for text in texts])

    def _body(self, question: Texts) -> str:
        body = {"model": self.config.model, "input": question, "encoding_format": "float"}
        return json.dumps(body)

    def _read(self, question: Texts, reply: bytes) -> _Vectors:
        """Return the rows of an answer in the order of the texts."""
        try:
            value = json.loads(reply)
        except RecursionError:
            value = None
        try:
            rows = sorted(value["data"], key=lambda row: row["index"])
            with np.errstate(over="ignore"):  # becomes inf, and is refused below
                vectors = np.array([row["embedding"] for row in rows], dtype=np.float32)
            numbers = [row["index"] for row in rows]
            tokens = int((value.get("usage") or {}).get("prompt_tokens") or 0)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ValueError(f"something else than vectors: {reply[:200]!r}") from error
        if (
            numbers != list(range(len(question)))
            or vectors.ndim != 2
            or not np.isfinite(vectors).all()
        ):
            raise ValueError(
                f"asked for {len(question)} vectors, it answered numbers {numbers[:5]}… of shape "
                f"{vectors.shape}, or values that are not finite"
            )
        return _Vectors(vectors, asked_tokens=tokens)

    def _known(self, store: sqlite3.Connection, question: Texts) -> _Vectors | None:
        if len(question) > 1:  # of a batch, whose texts `embed` has looked up
            return None
        query = "select vector, tokens from vectors where text = ?"
        row = store.execute(query, (of_texts(question[0]),)).fetchone()
        if row is None:
            return None
        vector = np.frombuffer(row[0], dtype="<f4").astype(np.float32)
        return _Vectors(vector[None], asked_tokens=int(row[1]), cached=True)

    def _keep(self, store: sqlite3.Connection, question: Texts, answer: _Vectors) -> None:
        """Keep an answer, whole or not at all; its tokens are shared out evenly."""
        each, rest = divmod(answer.asked_tokens, len(question))
        rows = [
            (of_texts(text), vector.astype("<f4").tobytes(), each + (number < rest))
            for number, (text, vector) in enumerate(zip(question, answer.vectors, strict=True))
        ]
        with store:
            store.executemany("insert or replace into vectors values (?, ?, ?)", rows)
            store.execute(
                "insert or replace into requests values (?, ?)", (answer.name, answer.asked_tokens)
            )
