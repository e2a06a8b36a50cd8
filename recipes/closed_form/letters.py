"""How a token is spelt: its n-grams, hashed into signed places and weighted by rarity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from zlib import crc32

import numpy as np
from ridge import unit

GRAMS = (2, 3, 4, 5)


def hashed_letters(pieces: Sequence[str], dim: int) -> np.ndarray:
    """Return unit rows [V, dim], mostly zeros; a blank piece has a row of zeros."""
    grams = [
        {piece[start : start + n] for n in GRAMS for start in range(len(piece) - n + 1)} | {piece}
        for piece in pieces
    ]
    holders = Counter(gram for own in grams for gram in own)
    rows = np.zeros((len(pieces), dim), np.float32)
    for number, own in enumerate(grams):
        if not pieces[number].strip():
            continue
        for gram in own:
            code = crc32(gram.encode())
            sign = 1 if code & 1 else -1
            rows[number, (code >> 1) % dim] += sign * np.log(len(pieces) / holders[gram])
    return unit(rows)
