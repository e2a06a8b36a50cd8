"""Hard negatives: what may not be one, and which of those that may are taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from culet.errors import RecipeError

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


def highest_allowed(positive: np.ndarray, rules: Rules) -> np.ndarray:
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
    a sum a document would sink for each judge that does not rank it.

    Args:
        rankings: Scores of the same K documents by each judge, higher is nearer; NaN where a
            judge does not rank a document. One that no judge ranks is last.
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
