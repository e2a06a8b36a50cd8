"""Floors that need no training, behind the two methods that an evaluated model has.

A model that is not above them has learnt nothing that spelling does not give away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from culet.errors import InputError, need
from culet.evaluate.encoding import embedded_texts
from culet.evaluate.tasks import EvalTask
from culet.vectors.similarity import Vectors

LETTER_BINS = 4096
TFIDF_BINS = 16_384
SHORTEST, LONGEST = 2, 5  # letters of an n-gram


class LetterModel:
    """N-grams of 2 to 5 letters within words, hashed into bins and weighted: [B, bins].

    Attributes:
        name: for tables and for the folder of its results.
        fingerprint: stands for the settings; there are no weights.
    """

    def __init__(
        self, name: str, fingerprint: str, weighted: Callable[[Any], Vectors], counter: Any
    ):
        self.name = name
        self.fingerprint = fingerprint
        self._weighted = weighted
        self._counter = counter

    def encode_query(
        self,
        texts: Sequence[str],
        *,
        task: str = "search",
        instruction: str | None = None,
        truncate_to: int | None = None,
    ) -> Vectors:
        """Return the rows of the texts; task and instruction make no difference to letters."""
        return self.encode_document(texts, truncate_to=truncate_to)

    def encode_document(
        self,
        texts: Sequence[str],
        *,
        titles: Sequence[str] | None = None,
        truncate_to: int | None = None,
    ) -> Vectors:
        """Return the rows of the texts.

        Raises:
            InputError: if titles are given separately, or a width, which bins do not have.
        """
        if titles is not None or truncate_to is not None:
            raise InputError(
                "letters have no separate titles and no trained widths; use titles = 'joined' and "
                "the full width"
            )
        return self._weighted(self._counter.transform(texts))


class TfIdf:
    """The same n-grams by rarity, (1 + ln tf) · idf, with frequencies from the texts of each task.

    Attributes:
        name, fingerprint: as of `LetterModel`.
    """

    def __init__(self) -> None:
        self.name = "tf-idf"
        self.fingerprint = f"char{SHORTEST}-{LONGEST}-{TFIDF_BINS}-idf"
        self._counter = _counter(TFIDF_BINS, signed=False)

    def fitted(self, task: EvalTask) -> LetterModel:
        """Return the model that knows how rare each n-gram is among the texts of a task."""
        text = need("sklearn.feature_extraction.text", extra="eval", purpose="weighting letters")
        weighting = text.TfidfTransformer(sublinear_tf=True)
        weighting.fit(self._counter.transform(list(dict.fromkeys(embedded_texts(task)))))

        def weighted(counts: Any) -> Vectors:
            return np.asarray(weighting.transform(counts).toarray(), dtype=np.float32)

        return LetterModel(self.name, self.fingerprint, weighted, self._counter)


def letters(bins: int = LETTER_BINS) -> LetterModel:
    """Return the floor of plain letters: square roots of counts, at unit length."""
    counter = _counter(bins, signed=True)  # n-grams that share a bin cancel on average
    return LetterModel("letters", f"char{SHORTEST}-{LONGEST}-{bins}", _square_roots, counter)


FLOORS: dict[str, Callable[[], LetterModel | TfIdf]] = {"letters": letters, "tf-idf": TfIdf}


def _square_roots(counts: Any) -> Vectors:
    rows = np.asarray(counts.toarray(), dtype=np.float32)
    rows = np.sign(rows) * np.sqrt(np.abs(rows))
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(length > 0, length, 1), dtype=np.float32)


def _counter(bins: int, *, signed: bool) -> Any:
    text = need("sklearn.feature_extraction.text", extra="eval", purpose="hashing letters")
    return text.HashingVectorizer(
        analyzer="char_wb",
        ngram_range=(SHORTEST, LONGEST),
        n_features=bins,
        alternate_sign=signed,
        norm=None,
    )
