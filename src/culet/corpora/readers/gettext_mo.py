"""Message catalogues of GNU gettext (.mo), read as data.

The standard library's reader compiles the plural formula of a catalogue; this one looks at the
strings alone (gettext manual, "The Format of GNU MO Files").
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_MAGIC = 0x950412DE
_MAX_MESSAGES = 1_000_000


def messages(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield (message, translation); the singular of plurals, no headers, no contexts.

    Raises:
        ValueError: When the data is not a catalogue, or its messages overlap.
    """
    for order in "<>":
        if len(data) >= 28 and struct.unpack_from(f"{order}I", data)[0] == _MAGIC:
            break
    else:
        raise ValueError("does not begin like a message catalogue")
    _, _, count, originals, translations = struct.unpack_from(f"{order}5I", data)
    if count > _MAX_MESSAGES or max(originals, translations) + 8 * count > len(data):
        raise ValueError("the tables of the catalogue do not fit into the file")
    left = 4 * len(data)  # messages may share a text, but a small file must not become a large one
    for number in range(count):
        texts = []
        for table in (originals, translations):
            length, start = struct.unpack_from(f"{order}2I", data, table + 8 * number)
            if start + length > len(data):
                raise ValueError(f"message {number} lies outside of the file")
            left -= length
            if left < 0:
                raise ValueError("its messages overlap")
            texts.append(data[start : start + length].decode("utf-8", "replace"))
        message = texts[0].rpartition("\4")[2].partition("\0")[0]
        translation = texts[1].partition("\0")[0]
        if message and translation and "\ufffd" not in translation:
            yield message, translation
