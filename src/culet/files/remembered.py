"""What was found in a file by reading all of it, kept in the user's cache while it is unchanged.

Hashing or checking a gigabyte takes seconds, so it is done once. A file counts as unchanged while
its path, size, inode and times of change are the same. The time of the last change of status
(ctime) is among them, which no program can set back as it can the time of modification. What has
changed within the last seconds is not kept: a further change could carry the same times.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from culet.errors import InputError
from culet.files.atomic import new_file
from culet.files.cache import bound, cache_folder

_SETTLED_SECONDS = 2.0  # the coarsest times that file systems keep
WORTH_BYTES = 64 << 20  # smaller files are read in less than a tenth of a second
_KEPT_BYTES = 1_000_000  # some thousand files


def remembered(path: Path, what: str, find: Callable[[], str]) -> str:
    """Return what `find` finds in a file, without reading a large one again if it is unchanged.

    Args:
        path: The file.
        what: What is looked for, with a version of how.
        find: Reads the file.

    Raises:
        OSError: If the file is not there.
    """
    if path.stat().st_size <= WORTH_BYTES:
        return find()
    place = path.resolve()
    name = hashlib.blake2b(f"{place}\0{what}".encode("utf-8", "surrogateescape"), digest_size=16)
    kept = cache_folder() / "files" / f"{name.hexdigest()}.json"
    before = _state(place)
    with suppress(OSError, ValueError, KeyError, TypeError):
        noted = json.loads(kept.read_text(encoding="utf-8"))
        if noted["state"] == before:
            return str(noted["found"])
    found = find()
    settled = time.time_ns() - max(before[3:]) > _SETTLED_SECONDS * 1e9
    if settled and _state(place) == before:
        with suppress(InputError):  # a cache that cannot be used only costs time
            with new_file(kept, together=True) as aside:
                aside.write_text(json.dumps({"state": before, "found": found}), encoding="utf-8")
            bound(kept, _KEPT_BYTES)
    return found


def _state(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]
