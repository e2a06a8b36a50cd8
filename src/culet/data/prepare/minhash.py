"""MinHash signatures of training rows (Broder 1997), computed for many texts at once in numpy.

The share of equal columns in two signatures estimates the Jaccard similarity of two sets of
shingles; 64 columns a side estimate 0.8 to ±0.05 (one standard deviation).

A pair has two sides, and its signature has both, column by column in turn. Two pairs are near
duplicates only if they are on both sides: many questions about one passage are not duplicates of
each other, nor is one English sentence beside its translations into forty languages.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from culet.data.batches.shuffle import check_seed
from culet.data.prepare.shingles import character_shingles, mixed
from culet.errors import RecipeError
from culet.text.keys import normalised

_BLOCK = 1 << 16  # shingles that are hashed together: they stay in the processor's cache
_BANDS, _BAND_ROWS = 20, 6  # wherever they find enough: more bands take more disk
_ENOUGH = 0.95  # of the rows that are alike to the threshold, the share that is to be compared


@dataclass(frozen=True)
class NearConfig:
    """Removal of rows that are nearly the same as an earlier one.

    Attributes:
        threshold: Similarity (Jaccard, of character shingles) from which a row goes; of a pair,
            on both sides.
        shingle: Characters in a shingle. At 5, one changed letter in a sentence of 60 leaves 0.84.
        hashes: Columns of a signature, half of them for each side; two bytes each on disk.
        bands: Groups of columns; rows that agree in all of one are compared. 0: by the threshold.
        band_rows: Columns in a band. Two pairs of similarity s on both sides are compared with
            probability 1 - (1 - s^band_rows)^bands: with 20 bands of 6 rows 0.997 at 0.8, 0.71 at
            0.63. 0: by the threshold, so that the probability there is at least 0.95: 20 bands of
            6 rows from 0.75, 20 of 5 at 0.7, 42 of 3 at 0.5.
        min_chars: Rows whose longer side is shorter take no part: in a few words one letter may be
            the whole difference (IgG1 and IgG2, increased and decreased).
        seed: Decides the hash functions.
    """

    threshold: float = 0.8
    shingle: int = 5
    hashes: int = 128
    bands: int = 0
    band_rows: int = 0
    min_chars: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if not 0 < self.threshold <= 1:
            raise RecipeError(f"threshold must be over 0 and at most 1, got {self.threshold}")
        given = self.bands or self.band_rows
        bands, band_rows = self._banded()
        object.__setattr__(self, "bands", bands)
        object.__setattr__(self, "band_rows", band_rows)
        if self.shingle < 1 or self.bands < 1 or self.band_rows < 1 or self.hashes % 2:
            raise RecipeError(
                "shingle, bands and band_rows must be at least 1 and hashes even, got "
                f"{self.shingle}, {self.bands}, {self.band_rows} and {self.hashes}"
            )
        if self.bands * self.band_rows > self.hashes:
            raise RecipeError(
                f"bands × band_rows must be at most hashes, got {self.bands} × {self.band_rows} "
                f"over {self.hashes}"
            )
        if (chance := self._compared(bands, band_rows)) < _ENOUGH:
            remedy = "leave bands and band_rows out" if given else "raise hashes"
            warnings.warn(
                f"near-duplicates: with {bands} bands of {band_rows} rows only {chance:.0%} of "
                f"those whose similarity is the threshold of {self.threshold} are compared; "
                f"{remedy}",
                stacklevel=3,
            )

    def _banded(self) -> tuple[int, int]:
        """Return bands and their rows: what is given, of the rest the first that find enough."""
        found = (self.bands or 1, self.band_rows or 1)  # does not fit if nothing below does
        for rows in [self.band_rows] if self.band_rows else range(_BAND_ROWS, 0, -1):
            for bands in [self.bands] if self.bands else (_BANDS, self.hashes // rows):
                if bands > 0 and bands * rows <= self.hashes:
                    found = (bands, rows)
                    if self._compared(bands, rows) >= _ENOUGH:
                        return found
        return found

    def _compared(self, bands: int, rows: int) -> float:
        """Return the chance that rows of the threshold's similarity agree in a band."""
        return float(1 - (1 - self.threshold**rows) ** bands)


class MinHasher:
    """Texts to signatures."""

    def __init__(self, config: NearConfig) -> None:
        self.config = config
        random = np.random.Generator(np.random.PCG64(config.seed))
        self._factors = random.integers(0, 1 << 32, config.hashes, np.uint32) | np.uint32(1)
        self._offsets = random.integers(0, 1 << 32, config.hashes, np.uint32)

    def signatures(self, queries: Sequence[str], documents: Sequence[str]) -> np.ndarray:
        """Return uint16 [B, hashes]: even columns of the queries, odd ones of the documents.

        A row that is one text is given as both.
        """
        found = np.empty((len(queries), self.config.hashes), np.uint16)
        for side, texts in enumerate((queries, documents)):
            shingles, starts = character_shingles(
                [normalised(text) for text in texts], self.config.shingle
            )
            low = (shingles >> np.uint64(32)).astype(np.uint32)
            columns = range(side, self.config.hashes, 2)
            for first, last in _blocks(starts):
                part = low[starts[first] : starts[last]]
                self._smallest(part, starts[first:last] - starts[first], columns, found[first:last])
        return found

    def _smallest(
        self, shingles: np.ndarray, begins: np.ndarray, columns: range, found: np.ndarray
    ) -> None:
        """Write the low half of each text's smallest hash into its columns.

        The high half would be small itself, and so hardly tell long texts apart.
        """
        hashed = np.empty_like(shingles)
        for column in columns:
            np.multiply(shingles, self._factors[column], out=hashed)
            np.add(hashed, self._offsets[column], out=hashed)
            found[:, column] = np.minimum.reduceat(hashed, begins).astype(np.uint16)


def band_keys(signatures: np.ndarray, config: NearConfig) -> np.ndarray:
    """Return uint64 [B, bands]: rows with equal keys in one place agree in a whole band."""
    columns = signatures[:, : config.bands * config.band_rows].astype(np.uint64)
    columns = columns.reshape(len(signatures), config.bands, config.band_rows)
    keys = np.broadcast_to(np.arange(config.bands, dtype=np.uint64), columns.shape[:2]).copy()
    for place in range(config.band_rows):
        keys = mixed((keys << np.uint64(16)) ^ (keys >> np.uint64(48)) ^ columns[:, :, place])
    return keys


def similarities(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the estimated similarity of rows [B, hashes], float [B]: that of the worse side."""
    equal = left == right
    found: np.ndarray = np.minimum(equal[:, 0::2].mean(axis=1), equal[:, 1::2].mean(axis=1))
    return found


def _blocks(starts: np.ndarray) -> list[tuple[int, int]]:
    """Return spans of texts of about `_BLOCK` shingles each; a longer text stands alone."""
    spans, first, texts = [], 0, len(starts) - 1
    while first < texts:
        last = int(np.searchsorted(starts, starts[first] + _BLOCK, side="right")) - 1
        last = min(max(last, first + 1), texts)
        spans.append((first, last))
        first = last
    return spans
