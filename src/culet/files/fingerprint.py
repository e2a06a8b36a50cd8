"""Short names for content: files and settings that are the same have the same fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_WEIGHTS = (".safetensors", ".gguf")
_WHOLE_BYTES = 64 << 20
_BLOCKS, _BLOCK_BYTES = 256, 1 << 16


def of_files(paths: Iterable[Path], *, relative_to: Path | None = None) -> str:
    """Return 16 hex digits that change with the name or content of any of the files.

    Weights beyond 64 MiB are read at 256 evenly spread places of 64 KiB, which is quick on a
    gigabyte and still sees every training step, since a step moves every weight. All else, data
    above all, is read whole.
    """
    digest = hashlib.sha256()
    for path in sorted(paths):
        size = path.stat().st_size
        name = path.relative_to(relative_to) if relative_to else path.name
        digest.update(f"{name}:{size}\n".encode())
        with path.open("rb") as file:
            if size <= _WHOLE_BYTES or path.suffix not in _WEIGHTS:
                while block := file.read(1 << 20):
                    digest.update(block)
                continue
            for block_number in range(_BLOCKS):
                file.seek(block_number * (size - _BLOCK_BYTES) // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()[:16]


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
