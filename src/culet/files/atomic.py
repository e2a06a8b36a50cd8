"""Files and folders that are complete or absent: write aside, fsync, rename.

A crash, a full disk or kill -9 leaves either the old content or the new one under the final
name, and at most a `.partial` sibling that the next write removes. A folder replaces an older
one in one step on Linux; elsewhere, a crash between the two renames leaves the older folder under
a name that ends in `.old`.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from culet.errors import InputError

_ABANDONED_SECONDS = 3600  # since its last write
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # Linux, renameat2(2)


@contextmanager
def new_file(path: Path, *, together: bool = False) -> Iterator[Path]:
    """Yield a path to write to; on success it becomes `path`, on any error it is removed.

    Args:
        path: The file.
        together: Several processes or threads may write it at once: each writes aside under its
            own name, and the last one wins. Files of killed ones are removed an hour later.
    """
    aside = _aside(path, tag=_own() if together else "")
    if together:
        _remove_abandoned(path)
    try:
        yield aside
        _sync(aside)
        os.replace(aside, path)
        _sync(path.parent)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, value: Any, *, together: bool = False) -> None:
    """Write a value as indented JSON, whole or not at all; an unpaired surrogate stays an escape.

    Args:
        path: The file.
        value: What `json` can write.
        together: As for `new_file`.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    with new_file(path, together=together) as aside:
        aside.write_text(text, encoding="utf-8", errors="backslashreplace")


@contextmanager
def new_folder(path: Path, *, together: bool = False) -> Iterator[Path]:
    """Yield an empty folder to fill; on success it replaces `path`, on any error it is removed.

    Args:
        path: The folder.
        together: As for `new_file`.
    """
    aside = _aside(path, tag=_own() if together else "")
    if path.exists() and not path.is_dir():
        raise InputError(f"cannot write the folder {path}: a file of that name is there; move it")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir()
        yield aside
        for file in aside.rglob("*"):
            _sync(file)
        _sync(aside)
        if path.exists():
            _swap(aside, path)
        else:
            os.replace(aside, path)
        _sync(path.parent)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def locked(folder: Path, *, what: str) -> Iterator[None]:
    """Keep other processes from the same work in a folder, which is created if missing.

    The lock is on the folder itself and ends with this process, however that ends. A folder that
    was created for it and is empty at the end is removed.

    Args:
        folder: The folder.
        what: What is being done there, for the message: "a run".

    Raises:
        InputError: If another process holds the lock, or the folder cannot be created.
    """
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"cannot create {folder}: {error.strerror or error}") from error
    try:
        if not take(opened, folder):
            raise InputError(
                f"{folder} is in use by {what} of another process; wait for it to end, or end it"
            )
        try:
            yield
        finally:
            if made:
                with suppress(OSError):
                    folder.rmdir()
    finally:
        os.close(opened)


def take(opened: int, path: Path) -> bool:
    """Lock a file or folder exclusively for this process, as long as it is open.

    Args:
        opened: Its descriptor.
        path: The name it was opened under.

    Returns:
        False if another process holds it, or held it and has since moved or removed it. True also
        where the system or the file system has no locks.
    """
    try:
        import fcntl  # missing on some systems, unlike the rest of this module

        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return True
    with suppress(FileNotFoundError):
        return path.stat().st_ino == os.fstat(opened).st_ino
    return False


def _swap(new: Path, path: Path) -> None:
    """Replace a folder by another, in one step where the system can."""
    exchange = getattr(ctypes.CDLL(None), "renameat2", None)
    if exchange is not None and not exchange(
        _AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(path), _RENAME_EXCHANGE
    ):
        return
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    os.replace(path, old)
    try:
        os.replace(new, path)
    except OSError:
        os.replace(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _aside(path: Path, tag: str = "") -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create {path.parent}: {error.strerror or error}") from error
    return path.with_name(f".{path.name}{tag}.partial")


def _own() -> str:
    return f".{os.getpid()}-{threading.get_ident()}"


def _remove_abandoned(path: Path) -> None:
    for other in path.parent.glob(f".{path.name}.*.partial"):
        with suppress(OSError):
            if time.time() - other.stat().st_mtime > _ABANDONED_SECONDS:
                other.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
