"""Lines of a file as UTF-8, also of one in UTF-16, which begins with a byte order mark."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from itertools import chain

from culet.errors import InputError
from culet.files.lookalikes import LFS_POINTER

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_UTF32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)


def utf8_lines(raw: Iterable[bytes], name: str) -> Iterator[bytes]:
    """Yield lines as they are, or those of UTF-16 decoded and as UTF-8.

    Args:
        raw: Pieces of a file that end with the byte of a line feed, as a file yields them.
        name: What the file is called in a message.

    Raises:
        InputError: If it is UTF-32, or a Git LFS pointer in place of the file.
        UnicodeError: If what begins as UTF-16 is none.
    """
    pieces = iter(raw)
    first = next(pieces, b"")
    if first.startswith(LFS_POINTER):
        raise InputError(
            f"{name} is a Git LFS pointer, which only names the file; fetch that with: git lfs pull"
        )
    if first.startswith(_UTF32):
        raise InputError(f"{name} is UTF-32; convert it to UTF-8")
    if not first.startswith(_UTF16):
        yield from chain((first,) if first else (), pieces)
        return
    decoder = codecs.getincrementaldecoder("utf-16")()
    rest = ""
    for piece in chain((first,), pieces):
        *lines, rest = (rest + decoder.decode(piece)).split("\n")
        yield from (f"{line}\n".encode() for line in lines)
    rest += decoder.decode(b"", final=True)
    if rest:
        yield rest.encode()
