"""Questions to a language model behind any OpenAI-compatible endpoint, each asked once.

`POST <url>/chat/completions`, as OpenAI, vLLM, llama.cpp, Ollama and most providers speak it. An
answer goes to a file the moment it is used, under the hash of its question: a run that was
stopped, by Ctrl-C, a limit or a bill, asks only what it has not asked yet.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from culet.data.endpoints.http import SHOWN
from culet.data.endpoints.pace import Asker, answers_file
from culet.errors import RecipeError

Messages = Sequence[Mapping[str, str]]

_MOST_TOKENS = 1 << 53  # of one answer; a larger count is no count, and SQLite cannot hold it


@dataclass(frozen=True)
class EndpointConfig:
    """Where a language model answers, how fast it may be asked and what it costs.

    Attributes:
        url: Base address, up to and with `/v1`.
        model: Its name there.
        key_env: Environment variable that holds the key; the key itself is written nowhere.
        parallel: Requests under way at once.
        requests_per_minute: Most requests begun in a minute; 0 sets no bound.
        tokens_per_minute: Most tokens (of questions and answers) a minute; 0 sets no bound.
        retries: Further attempts after a failure that may pass (busy, too many, no connection).
        timeout_seconds: Longest wait for one answer.
        temperature: Sampling temperature.
        max_tokens: Longest answer.
        seed: Sampling seed, where the endpoint takes one.
        json_mode: Ask for JSON by `response_format`; not every endpoint knows it.
        input_price: Price of a million tokens asked.
        output_price: Price of a million tokens answered.
        budget: Once the new answers of a run have cost this much, it stops; answers under way
            then may exceed it. 0 sets no bound.
    """

    url: str
    model: str
    key_env: str | None = None
    parallel: int = 4
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    retries: int = 5
    timeout_seconds: float = 120.0
    temperature: float = 0.0
    max_tokens: int = 512
    seed: int | None = None
    json_mode: bool = False
    input_price: float = 0.0
    output_price: float = 0.0
    budget: float = 0.0

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise RecipeError(f"url must begin with http:// or https://, got {self.url!r}")
        if self.parallel < 1 or self.max_tokens < 1 or self.retries < 0:
            raise RecipeError(
                "parallel and max_tokens must be at least 1 and retries 0, got "
                f"{self.parallel}, {self.max_tokens} and {self.retries}"
            )
        if self.budget and not (self.input_price or self.output_price):
            raise RecipeError("budget needs input_price and output_price to be known")

    def asked_with(self) -> dict[str, Any]:
        """Return the settings that answers depend on."""
        names = ("model", "temperature", "max_tokens", "seed", "json_mode")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Answer:
    """What the model said.

    Attributes:
        text: Its words.
        asked_tokens: Tokens of the question, as the endpoint counts them; 0 if it does not.
        answered_tokens: Tokens of the answer, likewise.
        cached: Whether it had been asked before.
    """

    text: str
    asked_tokens: int
    answered_tokens: int
    cached: bool = False

    @property
    def empty(self) -> bool:
        """Whether it says nothing: a busy endpoint, or a model that only thought."""
        return not self.text.strip()


class Endpoint:
    """Asks, remembers, counts.

    Args:
        config: Where and how.
        cache: File of the answers; made if it is not there.
        sleep: Waits some seconds; replaced in tests.
        clock: Tells seconds; replaced in tests.

    Attributes:
        cost: What was asked so far.
    """

    def __init__(
        self,
        config: EndpointConfig,
        cache: Path,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        prices = (config.input_price, config.output_price)
        self._asker = Asker(config, "chat/completions", prices=prices, sleep=sleep, clock=clock)
        self.cost = self._asker.cost
        self._cache = cache
        # streams of answers may feed each other, each with threads of its own
        self._turns = threading.Semaphore(config.parallel)
        with answers_file(cache) as store:
            store.execute(
                "create table if not exists answers "
                "(question text primary key, answer text, asked integer, answered integer)"
            )

    def answers(self, questions: Iterable[Messages]) -> Iterator[Answer]:
        """Yield the answer to each question, in order; some are asked ahead.

        An answer that is still empty after all retries is yielded and not kept: another run asks
        again.

        Raises:
            InputError: If the endpoint refuses, or still fails after all retries, or the budget is
                spent, or the file of answers cannot be used; what was answered until then is kept.
        """
        waiting: deque[tuple[str, Future[Answer] | Answer]] = deque()
        under_way: dict[str, Future[Answer]] = {}
        source = iter(questions)
        pool = ThreadPoolExecutor(self.config.parallel)
        stop = threading.Event()
        with answers_file(self._cache) as store:
            try:
                more = True
                while more or waiting:
                    while more and len(waiting) < 2 * self.config.parallel:
                        messages = next(source, None)
                        if messages is None:
                            more = False
                            break
                        waiting.append(self._begun(messages, store, under_way, (pool, stop)))
                    if waiting:
                        name, answer = waiting.popleft()
                        if isinstance(answer, Future):
                            answer = self._kept(store, name, answer.result(), under_way)
                        yield self._counted(answer)
            finally:
                stop.set()
                pool.shutdown(cancel_futures=True)  # what is under way is paid for: wait for it
                for name, future in under_way.items():
                    if not future.cancelled() and not future.exception():
                        self._store(store, name, future.result())

    def _begun(
        self,
        messages: Messages,
        store: sqlite3.Connection,
        under_way: dict[str, Future[Answer]],
        workers: tuple[ThreadPoolExecutor, threading.Event],
    ) -> tuple[str, Future[Answer] | Answer]:
        """Return the question's name, and its answer or who is on the way to get it."""
        body = self._body(messages)
        name = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        if name in under_way:
            return name, under_way[name]
        query = "select answer, asked, answered from answers where question = ?"
        if known := store.execute(query, (name,)).fetchone():
            text, asked, answered = known
            answer = Answer(text, asked, answered, cached=True)
            if not answer.empty:  # older versions kept empty ones
                return name, answer
        self._asker.check_budget()
        pool, stop = workers
        under_way[name] = pool.submit(self._asked, body, stop)
        return name, under_way[name]

    def _asked(self, body: dict[str, Any], stop: threading.Event) -> Answer:
        """Ask, once fewer than `parallel` requests of all streams are under way."""
        with self._turns:  # whoever holds it waits for the endpoint only, so none waits for ever
            try:
                return self._asker.ask(body, _answer, stop, again=lambda answer: answer.empty)
            except RecursionError:  # nested more deeply than can be read: it says nothing
                return Answer("", 0, 0)

    def _kept(
        self,
        store: sqlite3.Connection,
        name: str,
        answer: Answer,
        under_way: dict[str, Future[Answer]],
    ) -> Answer:
        if under_way.pop(name, None) is None:  # the same question stood in line twice
            return Answer(answer.text, answer.asked_tokens, answer.answered_tokens, cached=True)
        self._store(store, name, answer)
        return answer

    def _store(self, store: sqlite3.Connection, name: str, answer: Answer) -> None:
        if answer.empty:
            return
        values = (name, answer.text, answer.asked_tokens, answer.answered_tokens)
        with store:
            store.execute("insert or replace into answers values (?, ?, ?, ?)", values)

    def _counted(self, answer: Answer) -> Answer:
        self._asker.count(answer, cached=answer.cached)
        return answer

    def _body(self, messages: Messages) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.config.model,
            "messages": [dict(message) for message in messages],
            "temperature": self.config.temperature,
            "max_tokens": self.config.max_tokens,
        }
        if self.config.seed is not None:
            body["seed"] = self.config.seed
        if self.config.json_mode:
            body["response_format"] = {"type": "json_object"}
        return body


def _answer(value: Any) -> Answer:
    """Return what an endpoint answered; a ValueError if it is no answer of one."""
    try:
        text = value["choices"][0]["message"]["content"]
        usage = value.get("usage") or {}
        asked, answered = usage.get("prompt_tokens"), usage.get("completion_tokens")
        return Answer(without_surrogates(str(text or "")), _tokens(asked), _tokens(answered))
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"not an answer of a chat endpoint: {value!r:.{SHOWN}}") from error


def without_surrogates(text: str) -> str:
    """Return a text with U+FFFD for each half of a surrogate pair, which no file could hold."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _tokens(value: Any) -> int:
    """Return a count of tokens; 0 for what is none, such as NaN: an answer is worth more."""
    return int(value) if isinstance(value, int | float) and 0 <= value < _MOST_TOKENS else 0
