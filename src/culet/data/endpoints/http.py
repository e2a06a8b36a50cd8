"""One POST to an OpenAI-compatible endpoint: its address, its key, and what its failures say.

The key goes to the configured address and nowhere else: redirects are refused. Credentials inside
a URL are masked wherever the URL is shown or written.
"""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from base64 import b64encode
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from culet.errors import InputError, RecipeError
from culet.files.addresses import masked
from culet.files.settings import WRITTEN_AS

_MAY_PASS = {408, 409, 425, 429, 500, 502, 503, 504, 529}  # worth another attempt
_REDIRECTS = {301, 302, 303, 307, 308}
_SHORTEST_SECRET = 4  # characters; a shorter one would be found in any words
MAX_WAIT_SECONDS = 60.0
SHOWN = 300  # characters of a reply in a message


@dataclass(frozen=True)
class EndpointConfig(ABC):
    """Where a model answers, how fast it may be asked and what that costs.

    Attributes:
        url: Base address, such as "http://localhost:8000/v1".
        model: The model's name there.
        key_env: Environment variable that holds the key; the key itself is never written.
        parallel: Requests under way at once.
        retries: Further attempts after a failure that may pass (busy, too many, no connection).
        timeout_seconds: Longest wait for one reply.
        requests_per_minute: Limit on the requests begun in a minute; 0 sets none.
        tokens_per_minute: Limit on the tokens, sent and received, in a minute; 0 sets none.
        input_price: Price of a million tokens sent.
        budget: Once the new answers of a run have cost this much, it stops; the requests under
            way may then exceed it. 0 sets no limit.
    """

    url: str = field(metadata={WRITTEN_AS: masked})
    model: str
    key_env: str | None = None
    parallel: int = 4
    retries: int = 5
    timeout_seconds: float = 120.0
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    input_price: float = 0.0
    budget: float = 0.0

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise RecipeError(f"url must begin with http:// or https://, got {self.shown_url!r}")
        try:
            valid = bool(urlsplit(self.url).hostname) and urlsplit(self.url).port != 0
        except ValueError:  # its text may hold a part of a password
            valid = False
        if not valid:
            raise RecipeError(f"url must be http://host:port/path, got {self.shown_url!r}")
        if self.parallel < 1 or self.retries < 0:
            raise RecipeError(
                f"parallel must be at least 1 and retries 0, got {self.parallel} and {self.retries}"
            )
        limits = (self.requests_per_minute, self.tokens_per_minute, self.budget)
        if min(*limits, *self.prices) < 0:
            raise RecipeError(
                "requests_per_minute, tokens_per_minute, budget and prices must not be negative, "
                f"got {limits} and {self.prices}"
            )
        if self.budget and not any(self.prices):
            raise RecipeError("budget needs the prices of tokens, such as input_price")

    @property
    def shown_url(self) -> str:
        """Return the base address as messages show it."""
        return masked(self.url)

    @property
    @abstractmethod
    def prices(self) -> tuple[float, float]:
        """Return the prices of a million tokens, sent and received."""


class MayPass(Exception):
    """A failure that another attempt may not meet.

    Attributes:
        busy: Whether the endpoint answered and wants to be left alone for a while.
        retry_after: Seconds it asks for, if it does.
    """

    def __init__(self, text: str, *, busy: bool = False, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.busy = busy
        self.retry_after = retry_after


class Transport:
    """Posts to one address; threads may share it.

    Args:
        config: The endpoint.
        path: What follows its base address.

    Raises:
        InputError: If the variable that should hold the key is not set.
    """

    def __init__(self, config: EndpointConfig, path: str) -> None:
        self._config = config
        parts = urlsplit(config.url)
        user, _, host = parts.netloc.rpartition("@")
        path = f"{parts.path.rstrip('/')}/{path}"
        self._address = parts._replace(netloc=host, path=path, fragment="").geturl()
        key = _key(config)
        self._headers = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        elif user:
            self._headers["Authorization"] = f"Basic {b64encode(unquote(user).encode()).decode()}"
        values = [value for _, value in parse_qsl(parts.query)]
        secrets = {key, parts.password, unquote(parts.password or ""), *values}
        self._secrets = [secret for secret in secrets if len(secret or "") >= _SHORTEST_SECRET]
        self._opener = urllib.request.build_opener(_NoRedirects)

    def post(self, body: str) -> bytes:
        """Return the reply to a JSON text; on the thread of the caller.

        Raises:
            InputError: If the endpoint refuses, or sends elsewhere.
            MayPass: If it is busy, the connection breaks, or what answers speaks no HTTP.
        """
        request = urllib.request.Request(self._address, body.encode(), self._headers)
        try:
            with self._opener.open(request, timeout=self._config.timeout_seconds) as reply:
                return bytes(reply.read())
        except urllib.error.HTTPError as error:
            raise self._failure(error) from None
        except HTTPException as error:  # cut off, or no HTTP: few words, if any
            text = f"{type(error).__name__}: {str(error).strip():.{SHOWN}}"
            raise MayPass(self.without_secrets(text)) from None
        except OSError as error:
            raise MayPass(self.without_secrets(str(error) or type(error).__name__)) from None

    def _failure(self, error: urllib.error.HTTPError) -> MayPass | InputError:
        with closing(error):  # what was not read of it holds the connection
            try:
                body = error.read(SHOWN).decode("utf-8", "replace")
            except (OSError, HTTPException):
                body = ""
        if error.code in _REDIRECTS:
            target = self.without_secrets(masked(error.headers.get("Location") or "nowhere"))
            return InputError(
                f"{self._config.shown_url} redirects to {target[:SHOWN]!r} ({error.code}); "
                "redirects are not followed, so that your key and your texts reach no other "
                "address; if you trust it, give it as url"
            )
        text = self.without_secrets(f"{error.code} {error.reason}: {body}")
        if error.code in _MAY_PASS:
            return MayPass(text, busy=True, retry_after=_retry_after(error))
        advice = ""
        if error.code in (401, 403):
            name = self._config.key_env
            advice = "; name the environment variable that holds your key as key_env"
            if name is not None:
                advice = f"; check the key in the environment variable {name}"
        return InputError(f"{self._config.shown_url} refuses the request: {text}{advice}")

    def without_secrets(self, text: str) -> str:
        """Return a text in which the key, a password and query values of the URL are masked."""
        for secret in self._secrets:
            text = text.replace(str(secret), "***")
        return text


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Leaves a redirect an error; urllib would send the key on to wherever it points."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _key(config: EndpointConfig) -> str | None:
    if config.key_env is None:
        return None
    if key := os.environ.get(config.key_env):
        return key
    raise InputError(
        f"the environment variable {config.key_env} is not set; put the endpoint's key into it"
    )


def _retry_after(error: urllib.error.HTTPError) -> float | None:
    try:
        return min(MAX_WAIT_SECONDS, max(0.0, float(error.headers.get("Retry-After", ""))))
    except ValueError:
        return None
