"""Hard negatives: exact search in blocks, what may not be a negative, and which ones to take.

Vectors in, numbers of documents out; texts and models stay with the stage. Memory is bounded by
one block of queries times one block of documents, whatever the number of either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from culet.errors import RecipeError, need
from culet.files.stores import RowSubset, VectorRows

Pick = Literal["hardest", "lowest", "random"]
RECIPROCAL_RANK_CONSTANT = 60.0  # of Cormack et al. 2009, who introduced the fusion


@dataclass(frozen=True)
class Rules:
    """Which of a query's nearest documents become its negatives.

    Attributes:
        number: Negatives per query, at most. Gemini Embedding reports that more than three
            overfit (arXiv 2503.07891, figure 3).
        skip: Nearest documents passed over; those known to be right do not count.
        depth: Nearest documents looked at.
        absolute_margin: A negative scores at most the positive's score minus this.
        relative_margin: A negative scores at most the positive's score times 1 minus this; 0.05 is
            the share that NV-Retriever found best (arXiv 2407.15831).
        min_score: A negative scores at least this: what is too easy teaches nothing.
        below_margins: Look for the nearest documents that the margins allow, instead of asking the
            margins of the nearest. With an embedder that is weak on the data, for which most of
            the nearest stand above the positive, every record still gets negatives.
        pick: "hardest" takes the first of those left, "lowest" the last (as Gemini Embedding
            does), "random" any, by the seed.
    """

    number: int = 3
    skip: int = 0
    depth: int = 50
    absolute_margin: float | None = None
    relative_margin: float | None = 0.05
    min_score: float | None = None
    below_margins: bool = False
    pick: Pick = "hardest"

    def __post_init__(self) -> None:
        if self.number < 1 or self.skip < 0 or self.depth <= self.skip:
            raise RecipeError(
                "number must be at least 1, skip not negative and depth above skip; got "
                f"{self.number}, {self.skip}, {self.depth}"
            )
        margins = [m for m in (self.absolute_margin, self.relative_margin) if m is not None]
        if any(not 0 <= margin < 2 for margin in margins):
            raise RecipeError(f"margins must be from 0 to below 2, got {margins}")


@dataclass(frozen=True)
class Banned:
    """Documents that may not be negatives of some queries, as pairs: Q queries of one block.

    Attributes:
        query: Row of the query in its block.
        document: Number of the document.
    """

    query: np.ndarray
    document: np.ndarray


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
        """Return the documents of so many groups, given the group of each document."""
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
    banned: Banned,
    query_groups: np.ndarray | None = None,
    groups: Groups | None = None,
    candidates: np.ndarray | None = None,
    ceiling: np.ndarray | None = None,
    block: int = 16_384,
    device: str = "cpu",
) -> Nearest:
    """Return the best documents of each query by exact search.

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
        settings = {"depth": depth, "candidates": candidates, "block": block, "device": device}
        settings["ceiling"] = ceiling
        return _nearest_within(queries, documents, banned, query_groups, groups, settings)
    best_scores = np.full((len(queries), depth), -np.inf, dtype=np.float32)
    best = np.full((len(queries), depth), -1, dtype=np.int64)
    top = np.full(len(queries), -np.inf, dtype=np.float32)
    product = _Product(queries, device)
    for first in range(0, len(documents), block):
        part = slice(first, first + block)
        scores = product(documents[part])
        here = (banned.document >= first) & (banned.document < first + block)
        scores[banned.query[here], banned.document[here] - first] = -np.inf
        if candidates is not None:
            scores[:, ~candidates[part]] = -np.inf
        if ceiling is not None:
            np.maximum(top, scores.max(axis=1), out=top)
            scores[scores > ceiling[:, None]] = -np.inf
        _merge(best_scores, best, scores, first)
    return Nearest(best_scores, best, best_scores[:, 0] if ceiling is None else top)


def _nearest_within(
    queries: np.ndarray,
    documents: VectorRows,
    banned: Banned,
    query_groups: np.ndarray,
    groups: Groups,
    settings: dict[str, Any],
) -> Nearest:
    """Search group by group: with many groups a small part of all the products."""
    depth = settings["depth"]
    candidates, ceiling = settings.pop("candidates"), settings.pop("ceiling")
    scores = np.full((len(queries), depth), -np.inf, dtype=np.float32)
    numbers = np.full((len(queries), depth), -1, dtype=np.int64)
    top = np.full(len(queries), -np.inf, dtype=np.float32)
    for group in np.unique(query_groups).tolist():
        members = groups.members(group)
        if candidates is not None:
            members = members[candidates[members]]
        rows = np.flatnonzero(query_groups == group)
        if not len(members):
            continue
        place = np.minimum(np.searchsorted(members, banned.document), len(members) - 1)
        here = (members[place] == banned.document) & (query_groups[banned.query] == group)
        own = Banned(np.searchsorted(rows, banned.query[here]), place[here])
        scores[rows], found, top[rows] = nearest(
            queries[rows],
            RowSubset(documents, members),
            banned=own,
            ceiling=None if ceiling is None else ceiling[rows],
            **settings,
        )
        numbers[rows] = np.where(found >= 0, members[found], -1)
    return Nearest(scores, numbers, top)


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


def _merge(best_scores: np.ndarray, best: np.ndarray, scores: np.ndarray, first: int) -> None:
    """Bring a block of scores into the best so far, in place."""
    num_queries, depth = best.shape
    floor = best_scores[:, -1]
    if scores.shape[1] > depth and not np.isfinite(floor).all():
        # nothing to compare with yet: the block's own best bound what can matter
        own = np.partition(scores, scores.shape[1] - depth, axis=1)[:, scores.shape[1] - depth]
        floor = np.maximum(floor, own)
    rows, columns = np.nonzero((scores >= floor[:, None]) & (scores > -np.inf))
    if not len(rows):
        return
    rows = np.concatenate([np.repeat(np.arange(num_queries), depth), rows])
    values = np.concatenate([best_scores.ravel(), scores[rows[num_queries * depth :], columns]])
    numbers = np.concatenate([best.ravel(), columns + first])
    order = np.lexsort((numbers, -values, rows))
    starts = np.searchsorted(rows[order], np.arange(num_queries))
    taken = order[starts[:, None] + np.arange(depth)]
    best_scores[:], best[:] = values[taken], numbers[taken]


def highest(positive: np.ndarray, rules: Rules) -> np.ndarray:
    """Return the highest score that a negative may have beside each positive."""
    bound = np.full(positive.shape, np.inf)
    for margin in _bounds(positive, rules).values():
        bound = np.minimum(bound, margin)
    return bound


def _bounds(positive: np.ndarray, rules: Rules) -> dict[str, np.ndarray]:
    """Return the highest score that each margin allows beside each positive."""
    bounds = {}
    if rules.absolute_margin is not None:
        bounds["absolute_margin"] = positive - rules.absolute_margin
    if rules.relative_margin is not None:
        bounds["relative_margin"] = positive - rules.relative_margin * np.abs(positive)
    return bounds


def within_margins(
    scores: np.ndarray, numbers: np.ndarray, positive: np.ndarray, rules: Rules
) -> np.ndarray:
    """Return which documents of `nearest` may be negatives, bool [R, K].

    Args:
        scores: [R, K], of R rows of records.
        numbers: [R, K].
        positive: Score of each row's positive [R].
        rules: Window and margins.
    """
    keep: np.ndarray = numbers >= 0
    for against in excluded(scores, positive, rules).values():
        keep = keep & ~against
    return keep


def excluded(scores: np.ndarray, positive: np.ndarray, rules: Rules) -> dict[str, np.ndarray]:
    """Return which documents of `nearest` each rule is against, bool [R, K], by its name."""
    against = {
        name: ~(scores <= bound[:, None]) for name, bound in _bounds(positive, rules).items()
    }
    if rules.skip:
        against["skip"] = np.broadcast_to(np.arange(scores.shape[1]) < rules.skip, scores.shape)
    if rules.min_score is not None:
        against["min_score"] = ~(scores >= rules.min_score)
    return against


def fuse(rankings: Sequence[np.ndarray]) -> np.ndarray:
    """Return the order of K documents, best first, by reciprocal rank fusion.

    The score of a document is the mean of 1 / (60 + its rank) over the rankings that know it, which
    where all do is the order of their sum; Gemini Embedding fuses the grades of two prompts so. In
    a sum a document would sink for each judge that says nothing of it.

    Args:
        rankings: Scores of the same K documents by each judge, higher is nearer; NaN where a
            judge says nothing of a document. One that no judge knows is last.
    """
    total, terms = np.zeros(len(rankings[0])), np.zeros(len(rankings[0]))
    for scores in rankings:
        known = ~np.isnan(scores)
        # equal scores share the better rank, so that a judge of few grades is not arbitrary
        rank = 1 + np.searchsorted(np.sort(-scores[known]), -scores[known], side="left")
        total[known] += 1.0 / (RECIPROCAL_RANK_CONSTANT + rank)
        terms += known
    # means times the number of judges: exactly the sums where all of them know a document
    return np.argsort(-total * (len(rankings) / np.maximum(terms, 1)), kind="stable")


def choose(numbers: np.ndarray, rules: Rules, rng: np.random.Generator) -> np.ndarray:
    """Return the documents that become negatives, out of those left, given best first."""
    if rules.pick == "random":
        places = np.sort(rng.permutation(len(numbers))[: rules.number])
        return numbers[places]
    return numbers[: rules.number] if rules.pick == "hardest" else numbers[-rules.number :]
