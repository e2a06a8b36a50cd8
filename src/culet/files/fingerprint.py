"""Short names for content: files and settings that are the same have the same fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from culet.files.remembered import WORTH_BYTES, remembered

_WEIGHTS = (".safetensors", ".gguf")


def of_files(
    paths: Iterable[Path],
    *,
    relative_to: Path | None = None,
    place: Callable[[Path], Path] | None = None,
) -> str:
    """Return 16 hex digits that change with the name or any byte of any of the files.

    Every file is read whole. Of weights beyond 64 MiB the hash is remembered, so that a model's
    second load need not read them again; data are rarely read twice and are hashed each time.

    Args:
        paths: The files.
        relative_to: Folder from which their names are taken; their own names alone if left out.
        place: Returns what decides their order, where that is not their path.
    """
    digest = hashlib.sha256()
    for path in sorted(paths, key=place):
        size = path.stat().st_size
        name = path.relative_to(relative_to) if relative_to else path.name
        digest.update(f"{name}:{size}\n".encode())
        if size > WORTH_BYTES and path.suffix in _WEIGHTS:
            digest.update(sha256(path).encode())
            continue
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def sha256(path: Path) -> str:
    """Return a file's SHA-256; that of a large file is remembered while it is unchanged."""

    def read() -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return remembered(path, "sha256", read)


def of_folder(folder: Path) -> str:
    """Return 16 hex digits that change with the name or content of any file below a folder."""
    return of_files(file for file in folder.rglob("*") if file.is_file())


def of_settings(value: Any) -> str:
    """Return 16 hex digits of a JSON-like value."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def of_texts(*parts: str, size: int = 16) -> bytes:
    """Return `size` bytes that tell texts apart, or sequences of texts without a NUL in them."""
    return of_bytes("\0".join(parts).encode("utf-8", "surrogatepass"), size=size)


def of_bytes(data: bytes, *, size: int = 16) -> bytes:
    """Return `size` bytes of BLAKE2b."""
    return hashlib.blake2b(data, digest_size=size).digest()
