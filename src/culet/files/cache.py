"""The cache: vectors of searched folders, quantised and compiled weights.

culet can recompute all of it. Its files are in the user's cache folder, are checked by CRC-32 and
bounded in size; where the folder cannot be used, culet works without it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import warnings
import zlib
from pathlib import Path

from culet.errors import CheckpointError, InputError
from culet.files.atomic import new_file

_KINDS = ("search", "weights", "compiled", "teachers", "files")


def cache_folder() -> Path:
    """Return culet's cache folder: $CULET_CACHE, $XDG_CACHE_HOME/culet or ~/.cache/culet."""
    if own := os.environ.get("CULET_CACHE"):
        return Path(own)
    stated = os.environ.get("XDG_CACHE_HOME")
    if not stated and sys.platform == "win32":
        stated = os.environ.get("LOCALAPPDATA")
    return (Path(stated) if stated else Path.home() / ".cache") / "culet"


def kept_bytes() -> dict[str, int]:
    """Return the bytes of each kind of cached files, by the name of its folder."""
    sizes = {}
    for kind in _KINDS:
        files = [path for path in (cache_folder() / kind).rglob("*") if path.is_file()]
        sizes[kind] = sum(path.stat().st_size for path in files)
    return sizes


def clear_cache() -> None:
    """Remove the cached files. Other files in the folder, which culet did not write, stay.

    Raises:
        InputError: If something cannot be removed.
    """
    for kind in _KINDS:
        try:
            shutil.rmtree(cache_folder() / kind)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise InputError(f"cannot remove {error.filename}: {error.strerror}") from error


def checksum(path: Path, *, but_last: int = 0) -> str:
    """Return the CRC-32 of a file, without its `but_last` last bytes, as 8 hex digits."""
    value, left = 0, path.stat().st_size - but_last
    with path.open("rb") as file:
        while left > 0 and (piece := file.read(min(left, 1 << 22))):
            value = zlib.crc32(piece, value)
            left -= len(piece)
    return f"{value:08x}"


def seal(path: Path) -> None:
    """Write a file's CRC-32 beside it.

    Raises:
        InputError: If it cannot be written.
    """
    with new_file(path.with_suffix(".crc32"), together=True) as aside:
        aside.write_text(checksum(path))


def check(path: Path) -> None:
    """Raise CheckpointError or OSError if a file does not match the CRC-32 of `seal`."""
    stated = path.with_suffix(".crc32").read_text(errors="replace").strip()
    found = checksum(path)
    if stated != found:
        raise CheckpointError(f"{path} has the CRC-32 {found} instead of {stated}")


def remove_older(path: Path, prefix: str) -> None:
    """Remove files beside `path` whose names begin with `prefix`: those of other versions."""
    for other in path.parent.glob(f"{prefix}*"):
        if other.stem != path.stem:
            with contextlib.suppress(OSError):
                other.unlink()


def bound(newest: Path, limit: int) -> None:
    """Remove files of the kind of `newest`, least recently used first, down to `limit` bytes."""
    found = [(path.stat(), path) for path in newest.parent.glob(f"*{newest.suffix}")]
    total = sum(stat.st_size for stat, _ in found)
    for stat, path in sorted(found, key=lambda entry: entry[0].st_mtime):
        if total > limit and path != newest:
            total -= stat.st_size
            with contextlib.suppress(OSError):
                path.unlink()


def warn(text: str) -> None:
    """Warn that the cache does not work; the engine does."""
    warnings.warn(text, UserWarning, stacklevel=5)
