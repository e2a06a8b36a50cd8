"""Exact search: the nearest of all documents to each query, compared with every one of them.

Memory is bounded by one block of scores, whatever the number of documents; half-precision vectors
may stay in a file. Documents of equal score are in order of their numbers, or of a preference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from culet.errors import need
from culet.files.stores import RowSubset, VectorRows
from culet.vectors.similarity import Vectors, unit_rows

MAX_SCORES_PER_BLOCK = 2**25
"""How many float32 scores a ranking of all documents holds at once (128 MiB)."""


@dataclass(frozen=True)
class Banned:
    """Documents that may not be negatives of some queries, as pairs: Q queries of one block.

    Attributes:
        query: Row of the query in its block.
        document: Number of the document.
    """

    query: np.ndarray
    document: np.ndarray

    def among(self, queries: np.ndarray, documents: np.ndarray) -> Banned:
        """Return the pairs of some queries and documents, by their places among those.

        Args:
            queries: Rows, rising.
            documents: Numbers, rising; neither may be empty.
        """
        row = np.minimum(np.searchsorted(queries, self.query), len(queries) - 1)
        place = np.minimum(np.searchsorted(documents, self.document), len(documents) - 1)
        here = (queries[row] == self.query) & (documents[place] == self.document)
        return Banned(row[here], place[here])


class Nearest(NamedTuple):
    """What a search found, Q queries and depth K.

    Attributes:
        scores: float32 [Q, K], falling; −inf where there are fewer.
        numbers: Documents, int64 [Q, K]; −1 there.
        top: Score of each query's nearest document, one above the ceiling included, float32 [Q];
            −inf if there is none.
    """

    scores: np.ndarray
    numbers: np.ndarray
    top: np.ndarray


@dataclass(frozen=True)
class Groups:
    """Documents by group, each document in one.

    Attributes:
        order: Documents in order of their groups, and of their numbers in each [D].
        starts: Where each group begins in it [G + 1].
    """

    order: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, groups: np.ndarray, number: int) -> Groups:
        """Return the documents of `number` groups, given the group of each document."""
        starts = np.zeros(number + 1, dtype=np.int64)
        np.cumsum(np.bincount(groups, minlength=number), out=starts[1:])
        return cls(np.argsort(groups, kind="stable").astype(np.int32), starts)

    def members(self, group: int) -> np.ndarray:
        """Return the documents of a group, in order."""
        found: np.ndarray = self.order[self.starts[group] : self.starts[group + 1]]
        return found.astype(np.int64)


def nearest(
    queries: np.ndarray,
    documents: VectorRows,
    *,
    depth: int,
    banned: Banned | None = None,
    query_groups: np.ndarray | None = None,
    groups: Groups | None = None,
    candidates: np.ndarray | None = None,
    ceiling: np.ndarray | None = None,
    block: int = 16_384,
    device: str = "cpu",
) -> Nearest:
    """Return the best documents of each query.

    Equal scores are in order of the documents' numbers on the CPU, whatever the block.

    Args:
        queries: Unit vectors, float32 [Q, E].
        documents: Unit vectors, float16 or float32 [N, E], or what reads them from a file.
        depth: K, documents wanted.
        banned: Pairs to leave out.
        query_groups: Group of each query [Q]; with `groups`, only documents of the query's group
            are looked at.
        groups: The documents of each group.
        candidates: Which documents may be found at all, bool [N].
        ceiling: Highest score a document may have for each query [Q].
        block: Documents scored at once.
        device: Where the products are computed.
    """
    if query_groups is not None and groups is not None:
        return _nearest_in_groups(
            queries,
            documents,
            query_groups,
            groups,
            depth=depth,
            banned=banned,
            candidates=candidates,
            ceiling=ceiling,
            block=block,
            device=device,
        )
    best = _Best(len(queries), depth)
    top = np.full(len(queries), -np.inf, dtype=np.float32)
    for first, scores in _scored(queries, documents, banned, block=block, device=device):
        if candidates is not None:
            scores[:, ~candidates[first : first + block]] = -np.inf
        if ceiling is not None:
            np.maximum(top, scores.max(axis=1), out=top)
            scores[scores > ceiling[:, None]] = -np.inf
        best.add(scores, first)
    return Nearest(best.scores, best.numbers, best.scores[:, 0] if ceiling is None else top)


def _nearest_in_groups(
    queries: np.ndarray,
    documents: VectorRows,
    query_groups: np.ndarray,
    groups: Groups,
    *,
    depth: int,
    banned: Banned | None,
    candidates: np.ndarray | None,
    ceiling: np.ndarray | None,
    block: int,
    device: str,
) -> Nearest:
    """Search group by group: with many groups a small part of all the products."""
    best = _Best(len(queries), depth)
    top = np.full(len(queries), -np.inf, dtype=np.float32)
    for group in np.unique(query_groups).tolist():
        members = groups.members(group)
        if candidates is not None:
            members = members[candidates[members]]
        if not len(members):
            continue
        rows = np.flatnonzero(query_groups == group)
        found = nearest(
            queries[rows],
            RowSubset(documents, members),
            depth=depth,
            banned=None if banned is None else banned.among(rows, members),
            ceiling=None if ceiling is None else ceiling[rows],
            block=block,
            device=device,
        )
        best.scores[rows], top[rows] = found.scores, found.top
        best.numbers[rows] = np.where(found.numbers >= 0, members[found.numbers], -1)
    return Nearest(best.scores, best.numbers, top)


def count_above(
    queries: np.ndarray,
    documents: VectorRows,
    threshold: np.ndarray,
    *,
    banned: Banned | None = None,
    block: int = 16_384,
) -> np.ndarray:
    """Return how many documents score above each query's threshold [Q], int64 [Q]."""
    above = np.zeros(len(queries), dtype=np.int64)
    for _, scores in _scored(queries, documents, banned, block=block, device="cpu"):
        above += (scores > threshold[:, None]).sum(axis=1)
    return above


def rank_by_cosine(
    query: Vectors, document: Vectors, *, k: int, preference: Sequence[int] | None = None
) -> Iterator[NDArray[np.int64]]:
    """Yield, query by query, the rows of the k documents nearest by cosine, the best first.

    Equal documents get exactly equal scores, as evaluations need them.

    Args:
        query: [Q, E].
        document: [P, E].
        k: How many to return; all P when there are fewer.
        preference: One number a document; of documents with the same score, the one with the
            lower number comes first. None prefers the earlier row.
    """
    query, document = unit_rows(query), unit_rows(document)
    number = len(document)
    # A matrix product rounds by the place of a row, so equal documents would not tie in it.
    once, rows = _distinct(document)
    document = document[once] if len(once) < number else document
    block = max(1, MAX_SCORES_PER_BLOCK // max(1, number))
    for start in range(0, len(query), block):
        scores = query[start : start + block] @ document.T
        yield from highest(
            scores[:, rows] if len(once) < number else scores, k=k, preference=preference
        )


def highest(
    scores: Vectors, *, k: int, preference: Sequence[int] | NDArray[np.integer] | None = None
) -> NDArray[np.int64]:
    """Return the places of the k highest scores of each row [Q, P]: int64 [Q, min(k, P)].

    Args:
        scores: Finite numbers.
        k: How many are wanted.
        preference: As for `rank_by_cosine`.
    """
    best = _Best(len(scores), min(k, scores.shape[1]), preference)
    best.add(scores, 0)
    return best.numbers


class _Best:
    """The best documents so far of Q queries: scores and numbers, as in `Nearest`."""

    def __init__(
        self,
        num_queries: int,
        depth: int,
        preference: Sequence[int] | NDArray[np.integer] | None = None,
    ) -> None:
        self.scores = np.full((num_queries, depth), -np.inf, dtype=np.float32)
        self.numbers = np.full((num_queries, depth), -1, dtype=np.int64)
        self._preference = None if preference is None else np.asarray(preference)

    def add(self, scores: np.ndarray, first: int) -> None:
        """Bring in a block of scores [Q, P], of the documents from `first` on."""
        num_queries, depth = self.numbers.shape
        if not depth:
            return
        floor = self.scores[:, -1]
        if scores.shape[1] > depth and not np.isfinite(floor).all():
            # nothing to compare with yet: the block's own best bound what can matter
            own = np.partition(scores, scores.shape[1] - depth, axis=1)[:, scores.shape[1] - depth]
            floor = np.maximum(floor, own)
        # what ties with the last place stays in, so that order or preference decides
        rows, columns = np.nonzero((scores >= floor[:, None]) & (scores > -np.inf))
        if not len(rows):
            return
        values = np.concatenate([self.scores.ravel(), scores[rows, columns]])
        numbers = np.concatenate([self.numbers.ravel(), columns + first])
        rows = np.concatenate([np.repeat(np.arange(num_queries), depth), rows])
        rank = numbers if self._preference is None else self._preference[numbers]
        order = np.lexsort((rank, -values, rows))
        starts = np.searchsorted(rows[order], np.arange(num_queries))
        taken = order[starts[:, None] + np.arange(depth)]
        self.scores, self.numbers = values[taken], numbers[taken]


def _scored(
    queries: np.ndarray, documents: VectorRows, banned: Banned | None, *, block: int, device: str
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number of a block's first document and its scores [Q, block], −inf if banned."""
    product = _Product(queries, device)
    for first in range(0, len(documents), block):
        scores = product(documents[first : first + block])
        if banned is not None:
            here = (banned.document >= first) & (banned.document < first + block)
            scores[banned.query[here], banned.document[here] - first] = -np.inf
        yield first, scores


class _Product:
    """Queries times documents, on the CPU by numpy and elsewhere by PyTorch."""

    def __init__(self, queries: np.ndarray, device: str) -> None:
        self._device = device
        self._queries = queries
        if device == "cpu":
            return
        self._torch = need("torch", extra="torch", purpose=f"device {device!r}")
        self._on_device = self._torch.from_numpy(queries).to(device)

    def __call__(self, documents: np.ndarray) -> np.ndarray:
        if self._device == "cpu":
            scores: np.ndarray = self._queries @ documents.astype(np.float32).T
            return scores
        there = self._torch.from_numpy(np.array(documents)).to(self._device).float()
        return np.asarray((self._on_device @ there.T).cpu().numpy())


def _distinct(vectors: Vectors) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the places of the distinct rows, and for each row which of those it equals."""
    known: dict[int, list[int]] = {}
    once: list[int] = []
    rows = np.empty(len(vectors), dtype=np.intp)
    for row, vector in enumerate(vectors):
        alike = known.setdefault(hash(vector.tobytes()), [])
        same = [number for number in alike if np.array_equal(vectors[once[number]], vector)]
        if not same:
            alike.append(len(once))
            once.append(row)
        rows[row] = same[0] if same else len(once) - 1
    return np.array(once, dtype=np.intp), rows
