"""Small packages of every kind, made in memory, and a host on this machine that serves them."""

from __future__ import annotations

import base64
import bz2
import gzip
import hashlib
import io
import json
import lzma
import struct
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Files = Mapping[str, str | bytes]


def content(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def tar(files: Files, *, links: Mapping[str, str] | None = None) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content(text))
            archive.addfile(info, io.BytesIO(content(text)))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return packed.getvalue()


def tgz(files: Files, *, links: Mapping[str, str] | None = None) -> bytes:
    return gzip.compress(tar(files, links=links))


def ar(members: Mapping[str, bytes]) -> bytes:
    packed = b"!<arch>\n"
    for name, data in members.items():
        packed += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
        packed += data + b"\n" * (len(data) % 2)
    return packed


def deb(files: Files, *, compression: str = "xz", links: Mapping[str, str] | None = None) -> bytes:
    data = tar({f"./{name}": text for name, text in files.items()}, links=links)
    if compression == "zst":
        import zstandard

        packed = zstandard.ZstdCompressor().compress(data)
    else:
        packed = {"xz": lzma.compress, "gz": gzip.compress, "bz2": bz2.compress}[compression](data)
    control = lzma.compress(tar({"./control": "Package: x\n"}))
    return ar(
        {"debian-binary": b"2.0\n", "control.tar.xz": control, f"data.tar.{compression}": packed}
    )


def wheel(files: Files) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, content(text))
    return packed.getvalue()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def debian_archive(
    debs: Mapping[str, tuple[str, bytes]], *, indices: Files | None = None
) -> dict[str, bytes]:
    """Return the files of an archive with the release "bookworm": path to content.

    Args:
        debs: Package to version and content.
        indices: Further indices, path below dists/bookworm to text.
    """
    pool, entries = {}, []
    for name, (version, data) in debs.items():
        path = f"pool/main/{name}_{version}_all.deb"
        pool[path] = data
        entries.append(
            f"Package: {name}\nVersion: {version}\nFilename: {path}\nSHA256: {sha256(data)}\n"
        )
    plain = {"main/binary-amd64/Packages": "\n".join(entries)} | dict(indices or {})
    packed = {f"{path}.xz": lzma.compress(content(text)) for path, text in plain.items()}
    sums = "".join(f" {sha256(data)} {len(data)} {path}\n" for path, data in packed.items())
    release = f"Suite: bookworm\nDate: Sat, 01 Jan 2022 00:00:00 UTC\nSHA256:\n{sums}"
    return (
        pool
        | {f"dists/bookworm/{path}": data for path, data in packed.items()}
        | {"dists/bookworm/InRelease": release.encode()}
    )


def simple_page(files: Mapping[str, bytes], *, algorithm: str = "sha256") -> bytes:
    links = (
        f'<a href="/files/{name}#{algorithm}={hashlib.new(algorithm, data).hexdigest()}">{name}</a>'
        for name, data in files.items()
    )
    return f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode()


def npm_document(name: str, version: str, data: bytes, host: str) -> bytes:
    integrity = base64.b64encode(hashlib.sha512(data).digest()).decode()
    dist = {"tarball": f"{host}/{name}/-/x.tgz", "integrity": f"sha512-{integrity}"}
    return json.dumps({"name": name, "version": version, "dist": dist}).encode()


class Host:
    """A web server of this machine; `files` may change while it runs.

    Attributes:
        files: Path to content, or to a status to answer with.
        asked: Every path that was asked for, in order.
        headers: The headers of the last request.
    """

    def __init__(self, address: str, files: dict[str, bytes | int]) -> None:
        self.address, self.files = address, files
        self.asked: list[str] = []
        self.headers: dict[str, str] = {}


@contextmanager
def serving(files: Mapping[str, bytes | int] | None = None) -> Iterator[Host]:
    host = Host("", dict(files or {}))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.lstrip("/")
            host.asked.append(path)
            host.headers = dict(self.headers)
            found: Any = host.files.get(path, 404)
            if isinstance(found, int):
                self.send_error(found)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(found)))
            self.end_headers()
            self.wfile.write(found)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    host.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield host
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def message_catalogue(*pairs: tuple[bytes, bytes], order: str = "<") -> bytes:
    tables, texts = [b"", b""], b""
    start = 28 + 16 * len(pairs)
    for number in (0, 1):
        for pair in pairs:
            tables[number] += struct.pack(f"{order}2I", len(pair[number]), start + len(texts))
            texts += pair[number] + b"\0"
    head = struct.pack(f"{order}7I", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, start)
    return head + tables[0] + tables[1] + texts
