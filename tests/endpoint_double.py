"""A language model for tests: a server on this machine that answers by a function."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = str | tuple[int, str] | tuple[int, str, dict[str, str]]


class Stub:
    """What was asked, and what is answered.

    Attributes:
        url: Its base address.
        bodies: Every request, in the order of arrival.
        keys: The Authorization header of each.
        reply: Takes the last message and the number of the request; returns a text, or a status
            and a body, or those and headers.
        usage: Whether token counts are told: the words of question and answer.
    """

    def __init__(self) -> None:
        self.url = ""
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.reply: Callable[[str, int], Reply] = lambda question, number: question.upper()
        self.usage = True
        self.lock = threading.Lock()

    def answer(self, body: dict[str, Any], key: str | None) -> tuple[int, str, dict[str, str]]:
        with self.lock:
            self.bodies.append(body)
            self.keys.append(key)
            number = len(self.bodies)
        question = body["messages"][-1]["content"]
        reply = self.reply(question, number)
        if not isinstance(reply, str):
            return (*reply, {}) if len(reply) == 2 else reply
        value: dict[str, Any] = {"choices": [{"message": {"content": reply}}]}
        if self.usage:
            value["usage"] = {
                "prompt_tokens": len(question.split()),
                "completion_tokens": len(reply.split()),
            }
        return 200, json.dumps(value), {}


@contextmanager
def serving() -> Iterator[Stub]:
    stub = Stub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/v1/chat/completions"
            status, text, headers = stub.answer(body, self.headers["Authorization"])
            data = text.encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
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
