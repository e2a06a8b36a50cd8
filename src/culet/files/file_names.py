"""Names from files of others that become names of files."""

from __future__ import annotations

import re

from culet.errors import InputError

_SIGNS = r"/\\<>:\"|?*\x00-\x1f\x7f-\x9f\ud800-\udfff"
_FILE_NAME = re.compile(f"[^.{_SIGNS}][^{_SIGNS}]*")
_LONGEST_FILE_NAME_BYTES = 200  # file systems take 255, and endings are added


def check_file_name(name: object, origin: str) -> None:
    r"""Raise InputError unless a name can stand for one file of a folder, on any system.

    What could name another folder, or no file at all, is refused: `../x`, `/x`, `C:x`, `x\y`,
    control characters, lone surrogates, more than 200 bytes.
    """
    if (
        not isinstance(name, str)
        or not _FILE_NAME.fullmatch(name)
        or len(name.encode()) > _LONGEST_FILE_NAME_BYTES
    ):
        raise InputError(
            f"{origin}: {name!r:.80} cannot name a file; expected letters, digits, spaces, "
            "'-', '_', '.' and other signs that are no part of paths, up to 200 bytes, not "
            "beginning with a '.'"
        )
