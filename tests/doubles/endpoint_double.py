"""Endpoints for tests: servers on this machine that answer by a function, with words or vectors."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar
from unittest.mock import patch

Answer = tuple[int, str, dict[str, str]]  # status, body, headers
Reply = str | None | tuple[int, str] | Answer


class Server:
    """What was asked, and what is answered.

    Attributes:
        path: The only one it knows.
        url: Its base address.
        bodies: Every request, in the order of arrival.
        keys: The Authorization header of each.
    """

    path = ""

    def __init__(self) -> None:
        self.url = ""
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self._lock = threading.Lock()

    def asked(self, body: dict[str, Any], key: str | None) -> Answer:
        with self._lock:
            self.bodies.append(body)
            self.keys.append(key)
            number = len(self.bodies)
        return self.answer(body, number)

    def answer(self, body: dict[str, Any], number: int) -> Answer:
        raise NotImplementedError


class Stub(Server):
    """A language model.

    Attributes:
        reply: Takes the last message and the number of the request; returns a text, or None for
            an answer without one, or a status and a body, or those and headers.
        usage: Whether it counts tokens: the words of question and answer.
    """

    path = "/v1/chat/completions"

    def __init__(self) -> None:
        super().__init__()
        self.reply: Callable[[str, int], Reply] = lambda question, number: question.upper()
        self.usage = True

    def answer(self, body: dict[str, Any], number: int) -> Answer:
        question = body["messages"][-1]["content"]
        reply = self.reply(question, number)
        if isinstance(reply, tuple):
            return (*reply, {}) if len(reply) == 2 else reply
        value: dict[str, Any] = {"choices": [{"message": {"content": reply}}]}
        if self.usage:
            value["usage"] = {
                "prompt_tokens": len(question.split()),
                "completion_tokens": len((reply or "").split()),
            }
        return 200, json.dumps(value), {}


class VectorStub(Server):
    """An embedding model.

    Attributes:
        reply: May answer in place of the vectors: status, JSON value or text, headers.
        usage: Whether it counts tokens: the words of the texts.
    """

    path = "/v1/embeddings"

    def __init__(self) -> None:
        super().__init__()
        self.reply: Callable[[int, list[str]], Any] = lambda number, texts: None
        self.usage = True

    @property
    def texts(self) -> list[str]:
        return [text for body in self.bodies for text in body["input"]]

    def answer(self, body: dict[str, Any], number: int) -> Answer:
        rows = [{"index": i, "embedding": vector(t)} for i, t in enumerate(body["input"])]
        value: dict[str, Any] = {"data": rows[::-1]}  # in another order: `index` counts
        if self.usage:
            value["usage"] = {"prompt_tokens": sum(len(text.split()) for text in body["input"])}
        usual: Any = (200, value, {})
        status, given, headers = self.reply(number, body["input"]) or usual
        return status, given if isinstance(given, str) else json.dumps(given), headers


def vector(text: str) -> list[float]:
    """Four numbers that tell texts apart."""
    return [float(len(text)), float(sum(map(ord, text)) % 97), float(text.count("e")), 1.0]


AnyServer = TypeVar("AnyServer", bound=Server)


@contextmanager
def serving(stub: AnyServer) -> Iterator[AnyServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == stub.path
            status, text, headers = stub.asked(body, self.headers["Authorization"])
            data = text.encode()
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(data))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        stub.url = f"http://127.0.0.1:{server.server_port}/v1"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield stub
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def full_disk(pages: int) -> Iterator[None]:
    """A disk with room for databases of so many pages of 4,096 bytes."""
    connect = sqlite3.connect

    def small(*given: Any, **named: Any) -> sqlite3.Connection:
        store = connect(*given, **named)
        store.execute(f"pragma max_page_count = {pages}")
        return store

    with patch.object(sqlite3, "connect", small):
        yield
