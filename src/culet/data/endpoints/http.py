"""JSON to an endpoint and back, asked again while that may help: what all endpoints need."""

from __future__ import annotations

import json
import os
import random
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, TypeVar

from culet.errors import InputError

Answer = TypeVar("Answer")

_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}  # worth another attempt
_LONGEST_WAIT = 60.0
SHOWN = 300  # characters of a refusal


@dataclass(frozen=True)
class Post:
    """An address, and how often to try it.

    Attributes:
        url: Where requests go.
        base: What messages call it.
        key: Sent as a bearer token, if there is one.
        key_env: Environment variable the key came from, for messages.
        retries: Further attempts after a failure that may pass.
        timeout_seconds: Longest wait for one answer.
        sleep: Waits some seconds.
    """

    url: str
    base: str
    key: str | None
    key_env: str | None
    retries: int
    timeout_seconds: float
    sleep: Callable[[float], None]

    def ask(
        self,
        body: dict[str, Any],
        read: Callable[[Any], Answer],
        *,
        before: Callable[[int], bool] = lambda attempt: True,
        hold: Callable[[float], None] | None = None,
        again: Callable[[Answer], bool] = lambda answer: False,
    ) -> Answer:
        """Return what `read` makes of the answer; on the thread of the caller.

        Args:
            body: The request.
            read: Takes the JSON value of an answer; a ValueError asks for another attempt.
            before: Called with the number of each attempt (from 0); False gives up.
            hold: Waits after a refusal that may pass, in place of `sleep`; for those who pace
                several threads.
            again: True for an answer of no use that another attempt may better; that of the last
                attempt is returned whatever it is.

        Raises:
            InputError: If the endpoint refuses, or still fails after all retries.
        """
        failure = ""
        for attempt in range(self.retries + 1):
            if not before(attempt):
                break
            last = attempt == self.retries
            try:
                answer = read(self._posted(body))
            except urllib.error.HTTPError as error:
                failure = f"{error.code} {error.reason}: {_told(error)}"
                if error.code not in _AGAIN:
                    raise InputError(
                        f"{self.base} refuses the request: {failure}"
                        + (self._about_key() if error.code in (401, 403) else "")
                    ) from None
                wait = _retry_after(error) or _backoff(attempt)
                if hold is not None:
                    hold(wait)
                elif not last:
                    self.sleep(wait)
            except (HTTPException, OSError, ValueError) as error:  # it broke, or is no JSON
                failure = str(error) or type(error).__name__
                if isinstance(error, HTTPException):  # cut off, or no HTTP: few words, if any
                    failure = f"{type(error).__name__}: {str(error).strip():.{SHOWN}}"
                if not last:
                    self.sleep(_backoff(attempt))
            else:
                if last or not again(answer):
                    return answer
                failure = "an answer of no use"
                self.sleep(_backoff(attempt))
        raise InputError(
            f"{self.base} gave no answer in {self.retries + 1} attempts, the last: {failure}; run "
            "again to go on from here"
        )

    def _posted(self, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.url, data=data, headers=headers)
        with urllib.request.urlopen(request, timeout=self.timeout_seconds) as reply:
            return json.loads(reply.read())

    def _about_key(self) -> str:
        if self.key_env is None:
            return "; name the environment variable that holds your key as key_env"
        return f"; check the key in the environment variable {self.key_env}"


def post_to(config: Any, path: str, *, sleep: Callable[[float], None]) -> Post:
    """Return where to ask an endpoint.

    Args:
        config: With url, key_env, retries and timeout_seconds.
        path: What follows its base address.
        sleep: Waits some seconds; replaced in tests.

    Raises:
        InputError: If the variable that should hold the key is not set.
    """
    key = None
    if config.key_env is not None and not (key := os.environ.get(config.key_env)):
        raise InputError(
            f"the environment variable {config.key_env} is not set; put the endpoint's key into it"
        )
    return Post(
        f"{config.url.rstrip('/')}/{path}",
        config.url,
        key,
        config.key_env,
        config.retries,
        config.timeout_seconds,
        sleep,
    )


def _backoff(attempt: int) -> float:
    """Return seconds to wait: twice as long each time, spread so that threads do not march."""
    return min(_LONGEST_WAIT, 2.0**attempt) * random.uniform(0.5, 1.0)


def _retry_after(error: urllib.error.HTTPError) -> float | None:
    try:
        return min(_LONGEST_WAIT, max(0.0, float(error.headers.get("Retry-After", ""))))
    except ValueError:
        return None


def _told(error: urllib.error.HTTPError) -> str:
    try:
        return error.read(SHOWN).decode("utf-8", "replace")
    except (OSError, HTTPException):
        return ""
    finally:
        error.close()  # what was not read of it holds the connection
