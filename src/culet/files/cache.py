"""Files in a cache folder that can be made again: checked by CRC-32, no older ones beside them."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path

from culet.errors import CheckpointError
from culet.files.atomic import new_file
from culet.files.tensors import checksum


def seal(path: Path) -> None:
    """Write a file's CRC-32 beside it.

    Raises:
        InputError: If it cannot be written.
    """
    with new_file(path.with_suffix(".crc32"), together=True) as aside:
        aside.write_text(checksum(path))


def check(path: Path) -> None:
    """Raise CheckpointError or OSError if a file is not what was sealed."""
    stated = path.with_suffix(".crc32").read_text(errors="replace").strip()
    found = checksum(path)
    if stated != found:
        raise CheckpointError(f"{path} has the CRC-32 {found} instead of {stated}")


def remove_older(path: Path, prefix: str) -> None:
    """Remove files beside `path` whose names begin alike: of other versions, not read again."""
    for other in path.parent.glob(f"{prefix}*"):
        if other.stem != path.stem:
            with contextlib.suppress(OSError):
                other.unlink()


def bound(newest: Path, limit: int) -> None:
    """Remove files of the kind of `newest`, longest unused first, until all take `limit` bytes."""
    found = [(path.stat(), path) for path in newest.parent.glob(f"*{newest.suffix}")]
    total = sum(stat.st_size for stat, _ in found)
    for stat, path in sorted(found, key=lambda entry: entry[0].st_mtime):
        if total > limit and path != newest:
            total -= stat.st_size
            with contextlib.suppress(OSError):
                path.unlink()


def warn(text: str) -> None:
    """Say that the cache does not do its work; the engine does."""
    warnings.warn(text, UserWarning, stacklevel=5)
