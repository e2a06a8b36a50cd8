"""Standard streams that take any text and are there, whatever the locale and whoever started us."""

from __future__ import annotations

import errno
import io
import os
import sys

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


class _Closed(io.TextIOBase):
    """Standard output that was closed before we began: nothing can be written to it."""

    def write(self, text: str, /) -> int:
        """Raise OSError, as a closed file does."""
        raise OSError(errno.EBADF, "it is closed")


def prepare_streams() -> None:
    """Make standard output and error accept any text, and stand in for those that are closed.

    What an encoding cannot spell (an arrow in cp1252) is replaced; results in JSON escape it, so
    that they lose nothing.
    """
    for number in range(3):  # else the next file opened would be taken for a standard stream
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = _Closed()
    if sys.stderr is None:  # print(file=None) would print on standard output
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(errors="backslashreplace")


def is_unwritable_output(error: OSError) -> bool:
    """Return whether an error comes from standard output; those of files name the file."""
    return error.filename is None and error.errno in _UNWRITABLE


def discard_output() -> None:
    """Let what is still to be written to standard output go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
