"""How fast an endpoint may be asked, what it costs, and a file of what it said.

What endpoints that generate and endpoints that embed share; `culet.data.endpoints.http` has the way
there and back.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from culet.data.endpoints.http import post_to
from culet.errors import InputError


class Metered(Protocol):
    """An answer whose tokens were counted, as the endpoint counts them; 0 if it does not."""

    @property
    def asked_tokens(self) -> int:
        """Tokens of the question."""

    @property
    def answered_tokens(self) -> int:
        """Tokens of the answer."""


Answer = TypeVar("Answer", bound=Metered)


@dataclass
class Cost:
    """What was asked, and what it costs by the prices of the recipe.

    Attributes:
        asked: Requests answered in this run.
        cached: Answers that were known already.
        retried: Attempts that failed and were repeated.
        asked_tokens: Tokens of the questions answered in this run; each time, if an answer of no
            use was asked for again.
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
        """Return one clause of it.

        Args:
            known: What is known before, in the plural, if that is not requests.
        """
        return (
            f"{self.asked:,} requests ({self.asked_tokens:,} + {self.answered_tokens:,} tokens, "
            f"{self.paid:.4g} paid), {self.cached:,} {known + ' ' if known else ''}known before"
        )


class Asker:
    """Asks at the pace of the recipe and counts what it costs; threads may share it.

    Args:
        config: With what `post_to` needs, and requests_per_minute, tokens_per_minute, budget.
        path: What follows the base address.
        prices: Of a million tokens asked, and of a million answered.
        sleep: Waits some seconds; replaced in tests.
        clock: Tells seconds; replaced in tests.

    Attributes:
        cost: What was asked so far.

    Raises:
        InputError: If the variable that should hold the key is not set.
    """

    def __init__(
        self,
        config: Any,
        path: str,
        *,
        prices: tuple[float, float],
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cost = Cost()
        self._budget = config.budget
        self._prices = prices
        self._post = post_to(config, path, sleep=sleep)
        self._pace = _Pace(config, sleep, clock)
        self._lock = threading.Lock()

    def ask(
        self,
        body: dict[str, Any],
        read: Callable[[Any], Answer],
        stop: threading.Event,
        *,
        again: Callable[[Answer], bool] = lambda answer: False,
    ) -> Answer:
        """Ask until there is an answer, unless it is stopped; arguments as for `Post.ask`.

        Raises:
            InputError: If the endpoint refuses, or still fails after all retries.
        """

        def before(attempt: int) -> bool:
            if stop.is_set():
                return False
            if attempt:
                with self._lock:
                    self.cost.retried += 1
            self._pace.wait()
            return True

        def wasted(answer: Answer) -> bool:
            if not again(answer):
                return False
            self._pay(answer)  # the endpoint charges for it all the same
            self._pace.used(answer.asked_tokens + answer.answered_tokens)
            return True

        answer = self._post.ask(body, read, before=before, hold=self._pace.hold, again=wasted)
        self._pace.used(answer.asked_tokens + answer.answered_tokens)
        return answer

    def check_budget(self) -> None:
        """Raise InputError if the budget is spent."""
        if self._budget and self.cost.paid >= self._budget:
            raise InputError(
                f"the budget of {self._budget:g} is spent ({self.cost.paid:.4g} paid); "
                "raise it and run again: nothing that is answered is asked again"
            )

    def count(self, answer: Metered, *, cached: bool = False) -> None:
        """Count an answer, new or known before."""
        if cached:
            self.cost.cached += 1
            self.cost.cached_tokens += answer.asked_tokens + answer.answered_tokens
            self.cost.saved += self.price(answer.asked_tokens, answer.answered_tokens)
        else:
            self.cost.asked += 1
            self._pay(answer)

    def price(self, asked_tokens: int, answered_tokens: int = 0) -> float:
        """Return what so many tokens cost."""
        return (asked_tokens * self._prices[0] + answered_tokens * self._prices[1]) / 1e6

    def _pay(self, answer: Metered) -> None:
        with self._lock:  # threads that ask pay as well
            self.cost.asked_tokens += answer.asked_tokens
            self.cost.answered_tokens += answer.answered_tokens
            self.cost.paid += self.price(answer.asked_tokens, answer.answered_tokens)


class _Pace:
    """When the next request may begin, for all threads together."""

    def __init__(
        self, config: Any, sleep: Callable[[float], None], clock: Callable[[], float]
    ) -> None:
        self._request = 60 / config.requests_per_minute if config.requests_per_minute else 0.0
        self._token = 60 / config.tokens_per_minute if config.tokens_per_minute else 0.0
        self._sleep, self._clock = sleep, clock
        self._lock = threading.Lock()
        self._next = clock()

    def wait(self) -> None:
        """Wait for one's turn."""
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


@contextmanager
def answers_file(path: Path | None) -> Iterator[sqlite3.Connection]:
    """Open a file of answers, made if it is not there, until the block ends; None: in memory.

    Raises:
        InputError: If it cannot be opened, holds something else, or cannot be read or written
            later in the block, as on a full disk; what was written before stays.
    """
    try:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _no_answers_file(path, error) from error
    try:
        with closing(sqlite3.connect(":memory:" if path is None else path, timeout=60)) as store:
            store.execute("pragma schema_version")  # refuses what is no database
            yield store
    except sqlite3.Error as error:
        raise _no_answers_file(path, error) from error


def _no_answers_file(path: Path | None, error: Exception) -> InputError:
    return InputError(
        f"cannot use {path or 'memory'} as a file of answers: {error}; expected a file of its own "
        "that can be written, on a disk with room; the answers it holds stay: mend that and run "
        "the same again to go on"
    )
