"""A server on this machine that answers as an embeddings endpoint does."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, Any, dict[str, str]]


def vector(text: str) -> list[float]:
    """Four numbers that tell texts apart."""
    return [float(len(text)), float(sum(map(ord, text)) % 97), float(text.count("e")), 1.0]


class Stub:
    """What was asked, and what is answered.

    Attributes:
        url: Base address.
        bodies: Every request.
        keys: The Authorization header of each.
        reply: May answer in place of the vectors: status, JSON value or text, headers.
    """

    def __init__(self) -> None:
        self.url = ""
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.reply: Callable[[int, list[str]], Reply | None] = lambda number, texts: None
        self.lock = threading.Lock()

    @property
    def texts(self) -> list[str]:
        return [text for body in self.bodies for text in body["input"]]


@contextmanager
def serving() -> Iterator[Stub]:
    stub = Stub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/v1/embeddings"
            with stub.lock:
                stub.bodies.append(body)
                stub.keys.append(self.headers["Authorization"])
                number = len(stub.bodies)
            rows = [{"index": i, "embedding": vector(t)} for i, t in enumerate(body["input"])]
            usual: Reply = (200, {"data": rows[::-1]}, {})  # in another order: `index` counts
            status, value, headers = stub.reply(number, body["input"]) or usual
            data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
            self.send_response(status)
            for name, text in headers.items():
                self.send_header(name, text)
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
