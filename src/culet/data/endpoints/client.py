"""The client of all endpoints: asks at a bounded pace, tries again, counts, keeps every answer.

An answer is written to a SQLite file as soon as it arrives, under a hash of its question. A run
that was stopped by Ctrl-C, an error or its budget asks only what has not been answered yet. What
a question and an answer are, and how an answer is kept, is up to `chat` and `embeddings`.
"""

from __future__ import annotations

import random
import sqlite3
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from culet.data.endpoints.http import MAX_WAIT_SECONDS, EndpointConfig, MayPass, Transport
from culet.errors import InputError

Question = TypeVar("Question", bound=Hashable)
Reply = TypeVar("Reply", bound="Answer")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer's tokens as the endpoint counts them (0 if it does not), and what became of it.

    Attributes:
        asked_tokens: Tokens of the question.
        answered_tokens: Tokens of the answer.
        empty: Whether it is of no use: a busy endpoint, or a model that only thought.
        cached: Whether it was known before.
    """

    asked_tokens: int = 0
    answered_tokens: int = 0
    empty: bool = False
    cached: bool = False


@dataclass
class Cost:
    """What was asked, and what it costs by the prices of the recipe.

    Attributes:
        asked: Requests answered in this run.
        cached: Answers that were known already.
        retried: Attempts that failed and were repeated.
        asked_tokens: Tokens of the questions answered in this run; each time, if an empty answer
            was asked for again.
        answered_tokens: Tokens of their answers, likewise.
        cached_tokens: Tokens of the answers known already, both ways.
        paid: Price of this run.
        saved: Price of what was known already.
    """

    asked: int = 0
    cached: int = 0
    retried: int = 0
    asked_tokens: int = 0
    answered_tokens: int = 0
    cached_tokens: int = 0
    paid: float = 0.0
    saved: float = 0.0

    def report(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self) | {"paid": round(self.paid, 6), "saved": round(self.saved, 6)}

    def summary(self, known: str = "") -> str:
        """Return it as one clause; `known` names, in the plural, what is cached if not requests."""
        return (
            f"{self.asked:,} requests ({self.asked_tokens:,} + {self.answered_tokens:,} tokens, "
            f"{self.paid:.4g} paid), {self.cached:,} {known + ' ' if known else ''}known before"
        )


class Client(ABC, Generic[Question, Reply]):
    """Asks an endpoint.

    Args:
        config: Where and how to ask.
        path: What follows the base address.
        sleep: Waits some seconds; replaced in tests.
        clock: Returns seconds; replaced in tests.

    Attributes:
        cost: What was asked so far.
        tables: SQL that makes the tables of the answers where there are none.

    Raises:
        InputError: If the variable that should hold the key is not set.
    """

    tables: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        config: EndpointConfig,
        path: str,
        *,
        sleep: Callable[[float], None],
        clock: Callable[[], float],
    ) -> None:
        self.cost = Cost()
        self._limits = config
        self._transport = Transport(config, path)
        self._sleep = sleep
        self._pace = _Pace(config, sleep, clock)
        # streams of answers may feed each other, each with threads of its own
        self._turns = threading.Semaphore(config.parallel)
        self._lock = threading.Lock()
        self._file: Path | None = None

    @abstractmethod
    def _body(self, question: Question) -> str:
        """Return the JSON text of a request."""

    @abstractmethod
    def _read(self, question: Question, reply: bytes) -> Reply:
        """Return the answer in a reply; a ValueError asks again."""

    @abstractmethod
    def _known(self, store: sqlite3.Connection, question: Question) -> Reply | None:
        """Return an answer that was kept."""

    @abstractmethod
    def _keep(self, store: sqlite3.Connection, question: Question, answer: Reply) -> None:
        """Keep an answer, unless it is empty; a second time changes nothing."""

    def keep_in(self, path: Path) -> None:
        """Keep answers in a file from now on, so that no other run pays for them again.

        Raises:
            InputError: If it holds something else, or cannot be written.
        """
        self._file = path
        with self._answers_file():
            pass

    def stream(self, questions: Iterable[Question]) -> Generator[Reply, None, None]:
        """Yield the answer to each question, in order; a few are asked ahead.

        An answer that is still empty after all retries is yielded and not kept.

        Raises:
            InputError: If the endpoint refuses, or still fails after all retries, or the budget is
                spent, or the file of answers cannot be used; what was answered until then is kept.
        """
        source, parallel = iter(questions), self._limits.parallel
        line: deque[tuple[Question, Future[Reply] | Reply]] = deque()
        asked: dict[Question, Future[Reply]] = {}  # in line, and not yielded yet
        unkept: dict[Future[Reply], Question] = {}
        pool, stop = ThreadPoolExecutor(parallel), threading.Event()
        with self._answers_file() as store:
            try:
                while True:
                    for question in islice(source, 2 * parallel - len(line)):
                        answer = asked.get(question) or self._known(store, question)
                        if answer is None:
                            self._check_budget()
                            answer = asked[question] = pool.submit(self._ask, question, stop)
                            unkept[answer] = question
                        line.append((question, answer))
                    if not line:
                        return
                    question, answer = line.popleft()
                    if isinstance(answer, Future):
                        while answer in unkept:
                            arrived = wait(unkept, return_when=FIRST_COMPLETED).done
                            self._keep_all(store, unkept, arrived)
                        answer = answer.result()
                        if asked.pop(question, None) is None:  # it stood in line twice
                            answer = replace(answer, cached=True)
                    self._count(answer)
                    yield answer
            finally:
                stop.set()
                pool.shutdown(cancel_futures=True)  # what is under way is paid for: wait for it
                self._keep_all(store, unkept, list(unkept))

    def _keep_all(
        self,
        store: sqlite3.Connection,
        unkept: dict[Future[Reply], Question],
        arrived: Iterable[Future[Reply]],
    ) -> None:
        for future in arrived:
            if not future.cancelled() and not future.exception():
                self._keep(store, unkept[future], future.result())
            del unkept[future]  # not before it is kept: Ctrl-C may come in between

    def _ask(self, question: Question, stop: threading.Event) -> Reply:
        """Return the first answer that is not empty, or that of the last attempt.

        Raises:
            InputError: If the endpoint refuses, or still fails after all retries.
        """
        retries, failure = self._limits.retries, ""
        with self._turns:  # whoever holds it waits for the endpoint only, so none waits for ever
            for attempt in range(retries + 1):
                if stop.is_set():
                    break
                if attempt:
                    with self._lock:
                        self.cost.retried += 1
                self._pace.wait()
                try:
                    answer = self._attempt(question)
                    self._pace.used(answer.asked_tokens + answer.answered_tokens)
                    if attempt == retries or not answer.empty:
                        return answer
                    self._pay(answer)  # the endpoint charges for it all the same
                    failure = "an empty answer"
                except MayPass as error:
                    failure = str(error)
                    if error.busy:
                        self._pace.hold(error.retry_after or _backoff(attempt))
                        continue
                if attempt < retries:
                    self._sleep(_backoff(attempt))
        raise InputError(
            f"{self._limits.shown_url} gave no answer in {retries + 1} attempts, the last: "
            f"{failure}; run again to go on from here"
        )

    def _attempt(self, question: Question) -> Reply:
        reply = self._transport.post(self._body(question))
        try:
            return self._read(question, reply)
        except ValueError as error:  # no JSON, or not an answer
            raise MayPass(self._transport.without_secrets(str(error))) from None

    def _check_budget(self) -> None:
        budget = self._limits.budget
        if budget and self.cost.paid >= budget:
            raise InputError(
                f"the budget of {budget:g} is spent ({self.cost.paid:.4g} paid); "
                "raise it and run again: nothing that is answered is asked again"
            )

    def _count(self, answer: Answer) -> None:
        if answer.cached:
            self.cost.cached += 1
            self.cost.cached_tokens += answer.asked_tokens + answer.answered_tokens
            self.cost.saved += self._price(answer.asked_tokens, answer.answered_tokens)
        else:
            self.cost.asked += 1
            self._pay(answer)

    def _pay(self, answer: Answer) -> None:
        with self._lock:  # threads that ask pay as well
            self.cost.asked_tokens += answer.asked_tokens
            self.cost.answered_tokens += answer.answered_tokens
            self.cost.paid += self._price(answer.asked_tokens, answer.answered_tokens)

    def _price(self, asked_tokens: int, answered_tokens: int = 0) -> float:
        sent, received = self._limits.prices
        return (asked_tokens * sent + answered_tokens * received) / 1e6

    @contextmanager
    def _answers_file(self) -> Iterator[sqlite3.Connection]:
        """Open the file of answers, or one in memory if none is named, until the block ends.

        Raises:
            InputError: If it cannot be opened, holds something else, or cannot be read or written
                later in the block, as on a full disk; what was written before stays.
        """
        path = self._file or ":memory:"
        try:
            if self._file is not None:
                self._file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(path, error) from error
        try:
            with closing(sqlite3.connect(path, timeout=60)) as store:
                store.execute("pragma schema_version")  # refuses what is no database
                for table in self.tables:
                    store.execute(f"create table if not exists {table}")
                yield store
        except sqlite3.Error as error:
            raise _unusable(path, error) from error


class _Pace:
    """When the next request may begin, for all threads together."""

    def __init__(
        self, config: EndpointConfig, sleep: Callable[[float], None], clock: Callable[[], float]
    ) -> None:
        self._request = 60 / config.requests_per_minute if config.requests_per_minute else 0.0
        self._token = 60 / config.tokens_per_minute if config.tokens_per_minute else 0.0
        self._sleep, self._clock = sleep, clock
        self._lock = threading.Lock()
        self._next = clock()

    def wait(self) -> None:
        """Wait for the caller's turn."""
        with self._lock:
            begin = max(self._next, self._clock())
            self._next = begin + self._request
        if (delay := begin - self._clock()) > 0:
            self._sleep(delay)

    def used(self, tokens: int) -> None:
        """Put the next request off by what these tokens take."""
        with self._lock:
            self._next = max(self._next, self._clock()) + tokens * self._token

    def hold(self, seconds: float) -> None:
        """Begin nothing for a while: the endpoint asked for it."""
        with self._lock:
            self._next = max(self._next, self._clock() + seconds)


def _backoff(attempt: int) -> float:
    """Return seconds to wait: twice as long each time, spread so that threads do not march."""
    return min(MAX_WAIT_SECONDS, 2.0**attempt) * random.uniform(0.5, 1.0)


def _unusable(path: Path | str, error: Exception) -> InputError:
    return InputError(
        f"cannot use {path} as a file of answers: {error}; expected a file of its own that can be "
        "written, on a disk with room; the answers it holds stay: mend that and run the same "
        "again to go on"
    )
