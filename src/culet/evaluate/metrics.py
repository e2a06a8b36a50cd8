"""The measures of the seven task types, each defined as MTEB's own evaluators compute it.

Ranking measures follow trec_eval: linear gains, a discount of log2(rank + 1), a document is
relevant when its judged gain is above zero, and a query without relevant documents scores 0.
They all read `gains`, the judged gains of the ranked documents, best rank first (0 for a
document without a judgement), and most also `judged`, all judged gains of the query.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def ndcg(gains: ArrayLike, judged: ArrayLike, *, k: int) -> float:
    """Return the discounted gain of the first k ranks over that of the ideal ranking."""
    ideal = -np.sort(-_positive(judged))
    best = _discounted(ideal, k)
    return _discounted(_positive(gains), k) / best if best > 0 else 0.0


def recall(gains: ArrayLike, judged: ArrayLike, *, k: int) -> float:
    """Return the share of the relevant documents that are in the first k ranks."""
    relevant = np.count_nonzero(_positive(judged))
    return float(np.count_nonzero(_positive(gains)[:k]) / relevant) if relevant else 0.0


def precision(gains: ArrayLike, *, k: int) -> float:
    """Return the share of the first k ranks that are relevant; empty ranks count as wrong."""
    return float(np.count_nonzero(_positive(gains)[:k]) / k)


def ranked_average_precision(gains: ArrayLike, judged: ArrayLike, *, k: int) -> float:
    """Return the sum of the precision at each relevant rank up to k, per relevant document.

    Its mean over queries is MAP at k.
    """
    relevant = np.count_nonzero(_positive(judged))
    hits = _positive(gains)[:k] > 0
    at_rank = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(at_rank[hits].sum() / relevant) if relevant else 0.0


def reciprocal_rank(gains: ArrayLike, *, k: int) -> float:
    """Return one over the rank of the first relevant document, 0 beyond rank k."""
    hits = np.flatnonzero(_positive(gains)[:k])
    return 1.0 / float(hits[0] + 1) if len(hits) else 0.0


def hit(gains: ArrayLike, *, k: int) -> float:
    """Return 1 when a relevant document is in the first k ranks, else 0."""
    return float(np.any(_positive(gains)[:k] > 0))


def _positive(gains: ArrayLike) -> Floats:
    return np.maximum(np.asarray(gains, dtype=np.float64), 0.0)


def _discounted(gains: Floats, k: int) -> float:
    top = gains[:k]
    return float((top / np.log2(np.arange(2, len(top) + 2))).sum())


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Return the linear correlation of two series, NaN when one of them is constant."""
    a, b = (np.asarray(series, dtype=np.float64) for series in (x, y))
    if len(a) < 2 or np.all(a == a[0]) or np.all(b == b[0]):
        return float("nan")
    a, b = a - a.mean(), b - b.mean()
    return float(np.clip((a / np.linalg.norm(a)) @ (b / np.linalg.norm(b)), -1.0, 1.0))


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Return the correlation of the ranks of two series; tied values share their mean rank."""
    return pearson(mean_ranks(x), mean_ranks(y))


def mean_ranks(values: ArrayLike) -> Floats:
    """Return the rank of each value, from 1, ties sharing the mean of their ranks."""
    _, group, count = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return np.asarray((last - (count - 1) / 2.0)[group.ravel()], dtype=np.float64)


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Return the area under the precision-recall steps over every threshold.

    AP = sum over thresholds of (recall gained there) x (precision there); tied scores pass a
    threshold together. 0 when no label is positive.
    """
    true, passed = _per_threshold(scores, labels)
    if not len(true) or true[-1] == 0:
        return 0.0
    gained = np.diff(true, prepend=0) / true[-1]
    return float((gained * (true / passed)).sum())


def best_accuracy(scores: ArrayLike, labels: ArrayLike) -> float:
    """Return the accuracy of the best threshold that lies between two different scores."""
    true, passed = _per_threshold(scores, labels)
    if len(true) < 2:  # all scores are tied: no threshold separates anything
        return 0.0
    total, positives = passed[-1], true[-1]
    wrong = passed[:-1] - true[:-1]
    return float(((true[:-1] + (total - positives) - wrong) / total).max())


def best_f1(scores: ArrayLike, labels: ArrayLike) -> tuple[float, float, float]:
    """Return (F1, precision, recall) at the threshold, between two scores, of the best F1."""
    true, passed = _per_threshold(scores, labels)
    positives = true[-1] if len(true) else 0.0
    true, passed = true[:-1], passed[:-1]
    if not np.any(true > 0):
        return 0.0, 0.0, 0.0
    f1 = 2.0 * true / (passed + positives)
    best = int(np.argmax(f1))
    return float(f1[best]), float(true[best] / passed[best]), float(true[best] / positives)


def _per_threshold(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    """Return how many positives and rows pass each distinct score, from the highest down."""
    scored = np.asarray(scores, dtype=np.float64)
    order = np.argsort(-scored, kind="stable")
    ranked = scored[order]
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    positives = np.cumsum(np.asarray(labels)[order] == 1).astype(np.float64)
    return positives[ends], (ends + 1).astype(np.float64)


def matching(predicted: Sequence[int] | NDArray[np.integer]) -> dict[str, float]:
    """Score a bitext matching, where row i of one side belongs to row i of the other."""
    return {name: float(values.mean()) for name, values in matching_items(predicted).items()}


def matching_items(predicted: Sequence[int] | NDArray[np.integer]) -> dict[str, Floats]:
    """Return the measures of each row of a bitext matching.

    Precision, recall and F1 treat each row as a class of its own:
    a correct match claimed by n rows has precision 1 / n and F1 2 / (n + 1).
    """
    found = np.asarray(predicted)
    right = (found == np.arange(len(found))).astype(np.float64)
    claims = np.bincount(found, minlength=len(found))[: len(found)]
    return {
        "precision": right / np.maximum(claims, 1),
        "recall": right,
        "f1": 2.0 * right / (1 + claims),
        "accuracy": right,
    }


def macro_f1(truth: NDArray[np.integer], found: NDArray[np.integer]) -> float:
    """Return the mean F1 of the labels that occur in the truth or the predictions."""
    size = int(max(truth.max(), found.max())) + 1
    right = np.bincount(truth[truth == found], minlength=size)
    total = np.bincount(truth, minlength=size) + np.bincount(found, minlength=size)
    seen = total > 0
    return float((2.0 * right[seen] / total[seen]).mean())


def v_measure(labels: Sequence[str] | NDArray[np.str_], clusters: ArrayLike) -> float:
    """Return the harmonic mean of homogeneity and completeness (Rosenberg and Hirschberg 2007).

    With H the entropy in nats of the label and cluster counts, homogeneity is
    1 - H(label | cluster) / H(label) and completeness the same with the two swapped.
    """
    _, label = np.unique(np.asarray(labels), return_inverse=True)
    _, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    joint = _entropy(label.ravel() * (cluster.max() + 1) + cluster.ravel())
    of_label, of_cluster = _entropy(label.ravel()), _entropy(cluster.ravel())
    shared = of_label + of_cluster - joint
    homogeneity = shared / of_label if of_label > 0 else 1.0
    completeness = shared / of_cluster if of_cluster > 0 else 1.0
    total = homogeneity + completeness
    return float(2.0 * homogeneity * completeness / total) if total > 0 else 0.0


def _entropy(codes: NDArray[np.integer]) -> float:
    _, count = np.unique(codes, return_counts=True)
    share = count / count.sum()
    return float(-(share * np.log(share)).sum())
