"""Texts as sets of hashed pieces, many texts at once in numpy: for duplicates and for overlap.

Characters, not words, for near-duplicates: a shingle of characters needs no word breaks (Chinese,
Japanese, Thai, code), and a text of three words still has many. Words, for overlap with evaluation
texts: a run of thirteen words is unlikely to be shared by chance, whatever their length.
"""

from __future__ import annotations

import functools
import sys
import unicodedata
from collections.abc import Sequence

import numpy as np

_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, the multiplier of splitmix64
_SEPARATOR, _WORD, _ALONE = 0, 1, 2  # what a character is to `token_runs`
_ALONE_RANGES = (  # scripts written without spaces: each character counts as a word
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x3400, 0x9FFF),  # Han
    (0xF900, 0xFAFF),
    (0x20000, 0x323AF),
)


def mixed(values: np.ndarray) -> np.ndarray:
    """Return well-spread 64-bit hashes of 64-bit numbers (the finaliser of splitmix64)."""
    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    found: np.ndarray = values ^ (values >> np.uint64(31))
    return found


def character_shingles(texts: Sequence[str], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (hash of each run of `size` characters, where each text's hashes begin).

    A text shorter than `size` is one shingle, so every text has at least one. The hashes are
    uint64 [S]; the beginnings int64 [B + 1], the last of them S. Texts are taken as they are:
    normalise them first.
    """
    points, starts = _code_points([text.ljust(size, "\0") for text in texts])
    count = len(points) - size + 1
    if count < 1:
        return np.zeros(0, np.uint64), np.zeros(len(texts) + 1, np.int64)
    hashes = np.zeros(count, np.uint64)
    for place in range(size):
        hashes *= _ODD
        hashes += points[place : place + count]
    lengths = np.diff(starts) - size + 1
    inside = np.ones(count, bool)
    for last in range(1, size):  # runs that would reach into the next text
        inside[starts[1:-1] - last] = False
    return mixed(hashes[inside]), np.concatenate([[0], np.cumsum(lengths)])


def token_runs(
    texts: Sequence[str], size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the hashes of runs of `size` words and of whole texts, blind to punctuation.

    A word is a run of letters, marks and digits. In scripts written without spaces each character
    is a word, and a text that is mostly such characters has runs of twice the size, since thirteen
    of them are half a sentence only.

    Returns:
        runs: uint64 [S], the hash of each run.
        starts: int64 [B + 1], where each text's runs begin; a text of fewer words has none.
        whole: uint64 [B], the hash of all words of a text.
        words: int64 [B], how many words a text has.
    """
    points, starts = _code_points(texts)
    kinds = _kinds()[points]
    tokens, owners, alone = _tokens(points, kinds, starts)
    words = np.bincount(owners, minlength=len(texts))
    begins = np.concatenate([[0], np.cumsum(words)])
    unspaced = 2 * np.bincount(owners, weights=alone, minlength=len(texts)) > words
    powers = np.cumprod(np.full(len(tokens) + 1, _ODD)) if len(tokens) else np.ones(1, np.uint64)
    place = np.arange(len(tokens)) - begins[owners]
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(tokens * powers[place])])
    whole = mixed(sums[begins[1:]] - sums[begins[:-1]] + words.astype(np.uint64))
    plain = _runs(tokens, begins, size)
    double = _runs(tokens, begins, 2 * size)
    length = np.where(unspaced, 2 * size, size)
    counts = np.maximum(words - length + 1, 0)
    places = np.repeat(begins[:-1], counts) + _within(counts)
    doubled = np.repeat(unspaced, counts)
    runs = np.empty(len(places), np.uint64)
    runs[~doubled] = plain[places[~doubled]]
    runs[doubled] = double[places[doubled]]
    return runs, np.concatenate([[0], np.cumsum(counts)]), whole, words


def _within(counts: np.ndarray) -> np.ndarray:
    """Return 0, 1, … for each of some groups of the given sizes."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    found: np.ndarray = np.arange(total) - np.repeat(ends - counts, counts)
    return found


def _runs(tokens: np.ndarray, begins: np.ndarray, size: int) -> np.ndarray:
    """Return the hash of the run of `size` tokens from each place; those that cross are unused."""
    count = max(len(tokens) - size + 1, 0)
    hashes = np.zeros(count, np.uint64)
    for place in range(size):
        hashes *= _ODD
        hashes += tokens[place : place + count]
    return mixed(hashes)


def _tokens(
    points: np.ndarray, kinds: np.ndarray, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (hash, text and whether it is a character alone) of each word."""
    kept = kinds != _SEPARATOR
    first = kept & (kinds == _ALONE)
    before = np.concatenate([[_SEPARATOR], kinds[:-1]]) if len(kinds) else kinds
    first |= kept & (before != _WORD)
    edges = starts[:-1][starts[:-1] < len(points)]
    first[edges] |= kept[edges]
    heads = np.flatnonzero(first)
    if not len(heads):
        return np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, bool)
    # place of each character in its word, so that a word's hash is a sum that numpy can reduce
    word = np.cumsum(first) - 1
    place = np.arange(len(points)) - heads[np.maximum(word, 0)]
    values = mixed(points.astype(np.uint64) + (place.astype(np.uint64) << np.uint64(32)))
    values[~kept] = 0
    hashes = mixed(np.add.reduceat(values, heads))
    owners = np.searchsorted(starts, heads, side="right") - 1
    return hashes, owners, kinds[heads] == _ALONE


def _code_points(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return all characters as uint32 [N] and where each text begins, int64 [B + 1]."""
    joined = "".join(texts).encode("utf-32-le", "surrogatepass")
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    return np.frombuffer(joined, np.uint32), np.concatenate([[0], np.cumsum(lengths)])


@functools.cache
def _kinds() -> np.ndarray:
    """Return what each code point is: separator, part of a word, or a word of its own."""
    kinds = np.fromiter(
        (unicodedata.category(chr(point))[0] in "LMN" for point in range(sys.maxunicode + 1)),
        np.uint8,
        sys.maxunicode + 1,
    )
    for low, high in _ALONE_RANGES:
        kinds[low : high + 1] *= _ALONE
    return kinds
