"""Soft tokens: vectors that stand in for rows of the token table, as those of an image or sound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from culet.errors import InputError


@dataclass(frozen=True)
class SoftTokens:
    """The soft tokens of one text; the ids at their places do not count.

    Attributes:
        places: Where they are in the text, from 0, int [S], none twice.
        vectors: As rows of the token table, before the factor √D, float32 [S, D].
    """

    places: np.ndarray
    vectors: np.ndarray

    def check(self, length: int, model_dim: int) -> None:
        """Raise InputError unless they fit a text of `length` tokens and a model."""
        if self.vectors.shape != (len(self.places), model_dim):
            raise InputError(
                f"soft tokens at {len(self.places)} places need vectors of shape "
                f"{(len(self.places), model_dim)}, got {self.vectors.shape}"
            )
        outside = [int(place) for place in self.places if not 0 <= place < length]
        if outside or len(set(self.places.tolist())) < len(self.places):
            raise InputError(
                f"places of soft tokens must be from 0 to {length - 1}, none twice, got "
                f"{self.places.tolist()}"
            )
