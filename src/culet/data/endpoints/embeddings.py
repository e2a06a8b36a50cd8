"""Vectors from any endpoint that speaks OpenAI's `POST <url>/embeddings`."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from culet.data.endpoints.pace import Asker, answers_file
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
        requests_per_minute: Most requests begun in a minute; 0 sets no bound.
        tokens_per_minute: Most tokens a minute; 0 sets no bound.
        input_price: Price of a million tokens, for the cost report.
        budget: Once the new answers of a run have cost this much, it stops; answers under way
            then may exceed it. 0 sets no bound.
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
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    input_price: float = 0.0
    budget: float = 0.0

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise RecipeError(f"url must begin with http:// or https://, got {self.url!r}")
        if self.batch_size < 1 or self.parallel < 1 or self.retries < 0:
            raise RecipeError(
                "batch_size and parallel must be at least 1 and retries 0, got "
                f"{self.batch_size}, {self.parallel} and {self.retries}"
            )
        if min(self.requests_per_minute, self.tokens_per_minute, self.input_price, self.budget) < 0:
            raise RecipeError(
                "requests_per_minute, tokens_per_minute, input_price and budget must not be "
                f"negative, got {self.requests_per_minute}, {self.tokens_per_minute}, "
                f"{self.input_price} and {self.budget}"
            )
        if self.budget and not self.input_price:
            raise RecipeError("budget needs input_price to be known")


@dataclass(frozen=True)
class _Answer:
    """Vectors, float32 [B, T], what the endpoint counted, and a name of its own."""

    vectors: np.ndarray
    asked_tokens: int
    answered_tokens: int = 0
    name: str = field(default_factory=lambda: uuid4().hex)


class EmbeddingClient:
    """Asks an endpoint for vectors, and keeps what it answers until it is told to forget.

    Args:
        config: The endpoint.
        sleep: Waits so many seconds; replaced in tests.
        clock: Tells seconds; replaced in tests.

    Attributes:
        cost: What was asked so far; of what was known before, a text counts as one.

    Raises:
        InputError: If the variable that should hold the key is not set.
    """

    def __init__(
        self,
        config: EmbeddingEndpoint,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        prices = (config.input_price, 0.0)
        self._asker = Asker(config, "embeddings", prices=prices, sleep=sleep, clock=clock)
        self.cost = self._asker.cost
        self._kept: Path | None = None

    def keep_in(self, path: Path) -> None:
        """Keep answers in a file as they come, so that another run need not pay for them again.

        Raises:
            InputError: If it holds something else, or cannot be written.
        """
        with answers_file(path) as store:
            _make_tables(store)
        self._kept = path

    def forget(self) -> None:
        """Drop the vectors kept, once they are elsewhere; what they cost is still known."""
        if self._kept is not None:
            with answers_file(self._kept) as store, store:
                store.execute("delete from vectors")

    def spent(self) -> dict[str, Any]:
        """Return the cost of all runs that kept their answers in the same file, as JSON values."""
        report = self.cost.report()
        if self._kept is not None:
            with answers_file(self._kept) as store:
                query = "select count(*), coalesce(sum(tokens), 0) from requests"
                asked, tokens = store.execute(query).fetchone()
            paid = round(self._asker.price(tokens), 6)
            report |= {"asked": asked, "asked_tokens": tokens, "paid": paid}
        return {name: report[name] for name in ("asked", "retried", "asked_tokens", "paid")}

    def embed(
        self, texts: Sequence[str], advance: Callable[[int], None] = lambda number: None
    ) -> np.ndarray:
        """Return the vector of each text, float32 [B, T]; a text that is there twice is asked once.

        Args:
            texts: The texts.
            advance: Told how many more texts have their vectors, as answers come in.

        Raises:
            InputError: If the endpoint refuses, does not answer, or answers something else, or the
                budget is spent; what it answered until then is kept.
        """
        places: dict[str, list[int]] = {}
        for place, text in enumerate(texts):
            places.setdefault(text, []).append(place)
        found: dict[str, np.ndarray] = {}
        with answers_file(self._kept) as store:
            _make_tables(store)
            known = dict(_read(store, places))
            for text, (vector, tokens) in known.items():
                found[text] = vector
                self._asker.count(_Answer(vector[None], tokens), cached=True)
                advance(len(places[text]))
            missing = [text for text in places if text not in known]
            with closing(self._answers(missing, store)) as answers:
                for asked, answer in answers:
                    found |= dict(zip(asked, answer.vectors, strict=True))
                    advance(sum(len(places[text]) for text in asked))
        widths = {len(vector) for vector in found.values()}
        if len(widths) != 1:
            raise InputError(f"{self.config.url} gave vectors of widths {sorted(widths)}")
        return np.stack([found[text] for text in texts])

    def _answers(
        self, texts: Sequence[str], store: sqlite3.Connection
    ) -> Generator[tuple[list[str], _Answer], None, None]:
        """Yield the vectors of some texts, request by request as answers come in, and keep them."""
        size, stop = self.config.batch_size, threading.Event()
        batches = (list(texts[first : first + size]) for first in range(0, len(texts), size))
        under_way: dict[Future[_Answer], list[str]] = {}
        pool = ThreadPoolExecutor(self.config.parallel)
        try:
            more = True
            while more or under_way:
                while more and len(under_way) < 2 * self.config.parallel:
                    batch = next(batches, None)
                    more = batch is not None
                    if batch is not None:
                        self._asker.check_budget()
                        under_way[pool.submit(self._asked, batch, stop)] = batch
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    asked, answer = under_way[future], future.result()
                    _write(store, asked, answer)
                    del under_way[future]  # not before: Ctrl-C may come in between
                    self._asker.count(answer)
                    yield asked, answer
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)  # what is under way is paid for: wait for it
            for future, asked in under_way.items():
                if not future.cancelled() and not future.exception():
                    _write(store, asked, future.result())

    def _asked(self, texts: list[str], stop: threading.Event) -> _Answer:
        body = {"model": self.config.model, "input": texts, "encoding_format": "float"}
        return self._asker.ask(body, lambda answer: self._read(answer, len(texts)), stop)

    def _read(self, answer: Any, number: int) -> _Answer:
        """Return the rows of an answer in the order of the texts."""
        try:
            rows = sorted(answer["data"], key=lambda row: row["index"])
            with np.errstate(over="ignore"):  # becomes inf, and is refused below
                vectors = np.array([row["embedding"] for row in rows], dtype=np.float32)
            numbers = [row["index"] for row in rows]
            tokens = int((answer.get("usage") or {}).get("prompt_tokens") or 0)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{self.config.url} answered something else than vectors: {answer!r:.200}"
            ) from error
        if numbers != list(range(number)) or vectors.ndim != 2 or not np.isfinite(vectors).all():
            raise InputError(
                f"{self.config.url} was asked for {number} vectors and answered numbers "
                f"{numbers[:5]}… of shape {vectors.shape}, or values that are not finite"
            )
        return _Answer(vectors, tokens)


def _make_tables(store: sqlite3.Connection) -> None:
    store.execute(
        "create table if not exists vectors (text blob primary key, vector blob, tokens integer)"
    )
    store.execute("create table if not exists requests (name text primary key, tokens integer)")


def _write(store: sqlite3.Connection, texts: Sequence[str], answer: _Answer) -> None:
    """Keep an answer, whole or not at all, and counted once if it is written twice.

    Its tokens are shared out evenly.
    """
    each, rest = divmod(answer.asked_tokens, len(texts))
    rows = [
        (_key(text), vector.astype("<f4").tobytes(), each + (number < rest))
        for number, (text, vector) in enumerate(zip(texts, answer.vectors, strict=True))
    ]
    with store:
        store.executemany("insert or replace into vectors values (?, ?, ?)", rows)
        store.execute(
            "insert or replace into requests values (?, ?)", (answer.name, answer.asked_tokens)
        )


def _read(
    store: sqlite3.Connection, texts: Iterable[str]
) -> Iterator[tuple[str, tuple[np.ndarray, int]]]:
    """Yield the texts whose vectors are kept, with them and their tokens."""
    for text in texts:
        query = "select vector, tokens from vectors where text = ?"
        if row := store.execute(query, (_key(text),)).fetchone():
            yield text, (np.frombuffer(row[0], dtype="<f4").astype(np.float32), int(row[1]))


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
