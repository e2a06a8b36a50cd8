"""Questions to a language model behind any OpenAI-compatible endpoint, each asked once.

`POST <url>/chat/completions`, as OpenAI, vLLM, llama.cpp, Ollama and most providers speak it.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from culet.data.endpoints.client import Answer, Client
from culet.data.endpoints.http import SHOWN, EndpointConfig
from culet.errors import RecipeError

Messages = Sequence[Mapping[str, str]]

_MAX_TOKENS = 1 << 53  # of one answer; a larger count is no count, and SQLite cannot hold it


@dataclass(frozen=True)
class ChatEndpoint(EndpointConfig):
    """A language model, and how it answers.

    Attributes:
        temperature: Sampling temperature.
        max_tokens: Length limit of an answer.
        seed: Sampling seed, where the endpoint takes one.
        json_mode: Ask for JSON by `response_format`; not every endpoint knows it.
        output_price: Price of a million tokens received.
    """

    temperature: float = 0.0
    max_tokens: int = 512
    seed: int | None = None
    json_mode: bool = False
    output_price: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_tokens < 1:
            raise RecipeError(f"max_tokens must be at least 1, got {self.max_tokens}")

    @property
    def prices(self) -> tuple[float, float]:
        """Return the prices of a million tokens, sent and received."""
        return self.input_price, self.output_price

    def asked_with(self) -> dict[str, Any]:
        """Return the settings that answers depend on."""
        names = ("model", "temperature", "max_tokens", "seed", "json_mode")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class ChatAnswer(Answer):
    """The text that a language model answered."""

    text: str


class ChatClient(Client[str, ChatAnswer]):
    """Asks a language model; a question is the JSON text of its request.

    Args:
        config: The endpoint.
        cache: File of the answers; made if it is not there.
        sleep: Waits some seconds; replaced in tests.
        clock: Returns seconds; replaced in tests.
    """

    tables = ("answers (question text primary key, answer text, asked integer, answered integer)",)

    def __init__(
        self,
        config: ChatEndpoint,
        cache: Path,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(config, "chat/completions", sleep=sleep, clock=clock)
        self.config = config
        self.keep_in(cache)

    def answers(self, questions: Iterable[Messages]) -> Iterator[ChatAnswer]:
        """Yield the answer to each question, in order; see `Client.stream`."""
        return self.stream(self._question(messages) for messages in questions)

    def _question(self, messages: Messages) -> str:
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
        return json.dumps(body, sort_keys=True)

    def _body(self, question: str) -> str:
        return question

    def _read(self, question: str, reply: bytes) -> ChatAnswer:
        try:
            value = json.loads(reply)
        except RecursionError:  # nested more deeply than can be read: as good as empty
            return ChatAnswer("", empty=True)
        try:
            text = without_surrogates(str(value["choices"][0]["message"]["content"] or ""))
            usage = value.get("usage") or {}
            asked, answered = usage.get("prompt_tokens"), usage.get("completion_tokens")
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ValueError(f"not an answer of a chat endpoint: {value!r:.{SHOWN}}") from error
        return ChatAnswer(
            text,
            asked_tokens=_tokens(asked),
            answered_tokens=_tokens(answered),
            empty=not text.strip(),
        )

    def _known(self, store: sqlite3.Connection, question: str) -> ChatAnswer | None:
        query = "select answer, asked, answered from answers where question = ?"
        known = store.execute(query, (_name(question),)).fetchone()
        if known is None or not known[0].strip():  # older versions kept empty ones
            return None
        text, asked, answered = known
        return ChatAnswer(text, asked_tokens=asked, answered_tokens=answered, cached=True)

    def _keep(self, store: sqlite3.Connection, question: str, answer: ChatAnswer) -> None:
        if not answer.empty:
            values = (_name(question), answer.text, answer.asked_tokens, answer.answered_tokens)
            with store:
                store.execute("insert or replace into answers values (?, ?, ?, ?)", values)


def without_surrogates(text: str) -> str:
    """Return a text with U+FFFD for each half of a surrogate pair, which no file could hold."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _name(question: str) -> str:
    return hashlib.sha256(question.encode()).hexdigest()


def _tokens(value: Any) -> int:
    """Return a count of tokens; 0 for what is none, such as NaN: an answer is worth more."""
    return int(value) if isinstance(value, int | float) and 0 <= value < _MAX_TOKENS else 0
