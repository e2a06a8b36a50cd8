"""Floors that need no training, behind the two methods that an evaluated model has.

A model that is not above them has learnt nothing that letters do not give away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from culet.errors import InputError, need
from culet.evaluate.encoding import texts_by_role
from culet.evaluate.tasks import EvalTask

LETTER_BINS = 4096
TFIDF_BINS = 16_384
SHORTEST, LONGEST = 2, 5  # letters of an n-gram

Vectors = NDArray[np.float32]


class Letters:
    """Square roots of counts of 2- to 5-grams within words, hashed, at unit length: [B, bins].

    Attributes:
        name: For tables and for the folder of its results.
        fingerprint: Stands for the settings; there are no weights.
        dim: Number of bins.
    """

    def __init__(self, bins: int = LETTER_BINS) -> None:
        self.name = "letters"
        self.fingerprint = f"char{SHORTEST}-{LONGEST}-{bins}"
        self.dim = bins
        self._vectorizer = _vectorizer(bins, signed=True)

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
            InputError: If titles are given separately, or a width, which bins do not have.
        """
        _refuse(titles, truncate_to)
        counted = self._vectorizer.transform(texts)
        rows = np.asarray(counted.toarray(), dtype=np.float32)
        rows = np.sign(rows) * np.sqrt(np.abs(rows))
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.asarray(rows / np.where(length > 0, length, 1), dtype=np.float32)


class TfIdf:
    """The same n-grams weighted by rarity: (1 + ln tf) · idf, idf from the texts of each task.

    Attributes:
        name, fingerprint, dim: As for `Letters`.
    """

    def __init__(self, bins: int = TFIDF_BINS) -> None:
        self.name = "tf-idf"
        self.fingerprint = f"char{SHORTEST}-{LONGEST}-{bins}-idf"
        self.dim = bins
        self._vectorizer = _vectorizer(bins, signed=False)
        self._weighting: Any = None

    def fitted(self, task: EvalTask) -> TfIdf:
        """Return one that knows how rare each n-gram is among the texts of a task."""
        from sklearn.feature_extraction.text import TfidfTransformer

        own = TfIdf(self.dim)
        texts = list(dict.fromkeys(_texts(task)))
        own._weighting = TfidfTransformer(sublinear_tf=True)
        own._weighting.fit(self._vectorizer.transform(texts))
        return own

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
            InputError: If titles are given separately, or a width; or before `fitted`.
        """
        _refuse(titles, truncate_to)
        if self._weighting is None:
            raise InputError("TF-IDF needs the texts of a task first; call fitted(task)")
        counted = self._vectorizer.transform(texts)
        return np.asarray(self._weighting.transform(counted).toarray(), dtype=np.float32)


def _texts(task: EvalTask) -> Iterator[str]:
    """Yield every text of a task as a model is given it."""
    for data in task.subsets.values():
        queries, documents, _ = texts_by_role(data, "joined")
        for texts in queries.values():
            yield from texts
        yield from documents


FLOORS = {"letters": Letters, "tf-idf": TfIdf}


def _vectorizer(bins: int, *, signed: bool) -> Any:
    text = need("sklearn.feature_extraction.text", extra="eval", purpose="hashing letters")
    return text.HashingVectorizer(
        analyzer="char_wb",
        ngram_range=(SHORTEST, LONGEST),
        n_features=bins,
        alternate_sign=signed,  # what two n-grams of one bin add to a product is then 0 in the mean
        norm=None,
    )


def _refuse(titles: Sequence[str] | None, truncate_to: int | None) -> None:
    if titles is not None or truncate_to is not None:
        raise InputError(
            "letters have no separate titles and no trained widths; use titles = 'joined' and the "
            "full width"
        )
