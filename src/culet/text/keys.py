"""What texts are known by: hashes that tell equal ones, and the form in which they are compared."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from culet.files.fingerprint import of_bytes, of_texts


def normalised(text: str) -> str:
    """Return a text as comparisons see it: NFKC, case folded, each run of blanks one space."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def key(*parts: str) -> int:
    """Return a 64-bit hash of some texts, signed: of ten million, two agree by chance 3 in 10⁶."""
    return int.from_bytes(of_texts(*parts, size=8), "little", signed=True)


def keys_of(texts: Iterable[str]) -> np.ndarray:
    """Return the 64-bit hash of each text, int64."""
    return np.fromiter((key(text) for text in texts), dtype=np.int64)


def normalised_key(parts: Sequence[str]) -> bytes:
    """Return 16 bytes that are equal for texts equal but for case, blanks and Unicode forms."""
    texts = [normalised(part).encode("utf-8", "surrogatepass") for part in parts]
    # lengths and not a separator: a text may hold any character
    return of_bytes(b"".join(len(text).to_bytes(8, "little") + text for text in texts))


def numbered(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each key's number in order of first occurrence, and where those occurrences are.

    Args:
        keys: [K], with repeats.

    Returns:
        number: int32 [K], from 0; equal keys have equal numbers.
        first: [K], True where a key stands for the first time.
    """
    order = np.argsort(keys, kind="stable")
    known = keys[order]
    begins = np.empty(len(keys), dtype=bool)
    begins[:1], begins[1:] = True, known[1:] != known[:-1]
    del known
    where = order[begins]  # of each distinct key, in order of keys
    rank = np.empty(len(where), dtype=np.int32)
    rank[np.argsort(where)] = np.arange(len(where), dtype=np.int32)
    number = np.empty(len(keys), dtype=np.int32)
    number[order] = np.repeat(rank, np.diff(np.append(np.flatnonzero(begins), len(keys))))
    first = np.zeros(len(keys), dtype=bool)
    first[where] = True
    return number, first
