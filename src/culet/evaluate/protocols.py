"""The scoring protocol of each task type: data and vectors in, scores out.

Given the same vectors the scores equal those of MTEB's evaluators (mteb 2.26): the same draws from
the same seeds, the same similarities in float32, the same order of ties. Ranking scores are
rounded to five decimals, as MTEB rounds them. MTEB's abstention curves (nAUC) are left out.

Every function returns its measures under MTEB's names, and the one that `metric` names also under
`main_score`. Given the `name` of a task and subset it also returns `replicates`, the main score of
bootstrap samples of the items (`culet.evaluate.intervals`).
"""

from __future__ import annotations

import random
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from culet.errors import InputError, need
from culet.evaluate import intervals, metrics
from culet.evaluate.tasks import Pairs, RerankingData, RetrievalData
from culet.vectors import similarity
from culet.vectors.nearest import highest, rank_by_cosine
from culet.vectors.similarity import Vectors

Scores = dict[str, Any]
CUTS = (1, 3, 5, 10, 20, 100, 1000)
MAX_RANK = max(CUTS)


def retrieval(
    data: RetrievalData,
    query: Vectors,
    document: Vectors,
    *,
    metric: str = "ndcg_at_10",
    name: str = "",
) -> Scores:
    """Rank the whole corpus for each query by cosine and score the first thousand.

    Of documents with equal scores the one with the higher id comes first, as in trec_eval.

    Args:
        data: the corpus, queries and judgements.
        query: [Q, E], a row for each of data.queries.
        document: [P, E], a row for each of data.documents.
        metric: the main score, for instance ndcg_at_10 or recall_at_2.
        name: of the task and subset; the draws of the replicates follow from it.
    """
    _expect_rows("query", query, len(data.queries))
    _expect_rows("document", document, len(data.documents))
    preference = np.empty(len(data.document_ids), dtype=np.int64)
    by_id = sorted(range(len(preference)), key=data.document_ids.__getitem__, reverse=True)
    preference[by_id] = np.arange(len(preference))
    ranking = rank_by_cosine(query, document, k=MAX_RANK, preference=preference.tolist())
    found = []
    for query_id, rows in zip(data.query_ids, ranking, strict=True):
        gains = data.qrels[query_id]
        ranked = [gains.get(data.document_ids[row], 0) for row in rows]
        found.append((ranked, list(gains.values())))
    return _with_main(_ranking_scores(found, metric, name), metric)


def reranking(
    data: RerankingData,
    query: Vectors,
    candidate: Vectors,
    *,
    metric: str = "map_at_1000",
    name: str = "",
) -> Scores:
    """Rank each query's own candidates by cosine.

    Of candidates with equal scores a negative comes before a positive, and a later one before an
    earlier one: MTEB's ids sort that way.

    Args:
        data: queries with their candidates.
        query: [Q, E].
        candidate: [P, E], for each query in turn its positives, then its negatives.
        metric: the main score.
        name: of the task and subset; the draws of the replicates follow from it.
    """
    sizes = [len(p) + len(n) for p, n in zip(data.positives, data.negatives, strict=True)]
    _expect_rows("query", query, len(data.queries))
    _expect_rows("candidate", candidate, sum(sizes))
    query, candidate = similarity.unit_rows(query), similarity.unit_rows(candidate)
    found, start = [], 0
    for row, (size, grades) in enumerate(zip(sizes, data.grades, strict=True)):
        # Not a matrix product: its rounding depends on a row's position, and equal texts must tie.
        scores = np.einsum("e,pe->p", query[row], candidate[start : start + size])
        order = highest(scores[None], k=MAX_RANK, preference=np.arange(size)[::-1])[0]
        gains = [*grades, *[0] * (size - len(grades))]
        found.append(([gains[place] for place in order], gains))
        start += size
    return _with_main(_ranking_scores(found, metric, name), metric)


_MEASURES: dict[str, Callable[[list[int], list[int], int], float]] = {
    "ndcg": lambda found, all_, k: metrics.ndcg(found, all_, k=k),
    "map": lambda found, all_, k: metrics.ranked_average_precision(found, all_, k=k),
    "recall": lambda found, all_, k: metrics.recall(found, all_, k=k),
    "precision": lambda found, _, k: metrics.precision(found, k=k),
    "hit_rate": lambda found, _, k: metrics.hit(found, k=k),
    "mrr": lambda found, _, k: metrics.reciprocal_rank(found, k=k),
}


def _ranking_scores(found: Sequence[tuple[list[int], list[int]]], metric: str, name: str) -> Scores:
    measure_name, _, cut = metric.rpartition("_at_")
    cuts = sorted({*CUTS, int(cut)} if cut.isdigit() and int(cut) > 0 else CUTS)
    scores: Scores = {}
    for kind, measure in _MEASURES.items():
        for k in cuts:
            values = [measure(got, all_, k) for got, all_ in found]
            # mrr is the one ranking measure that MTEB does not round
            scores[f"{kind}_at_{k}"] = float(np.mean(values)) if kind == "mrr" else _mean5(values)
    scores["accuracy"] = scores["recall_at_1"]
    if name and measure_name in _MEASURES:
        each = [_MEASURES[measure_name](got, all_, int(cut)) for got, all_ in found]
        scores["replicates"] = intervals.of_means(name, each)
    return scores


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _mean5(values: list[float]) -> float:
    return round(sum(values) / len(values), 5)


def sts(
    data: Pairs, a: Vectors, b: Vectors, *, metric: str = "cosine_spearman", name: str = ""
) -> Scores:
    """Correlate the similarity of each pair [B, E], [B, E] with its human score."""
    _expect_rows("a", a, len(data.a))
    _expect_rows("b", b, len(data.b))
    series = {
        "cosine": similarity.paired_cosine(a, b),
        "manhattan": -similarity.paired_manhattan(a, b),
        "euclidean": -similarity.paired_euclidean(a, b),
    }
    scores: Scores = {}
    for kind, values in series.items():
        scores[f"{kind}_pearson"] = metrics.pearson(data.target, values)
        scores[f"{kind}_spearman"] = metrics.spearman(data.target, values)
    scores["pearson"] = scores["cosine_pearson"]
    scores["spearman"] = scores["cosine_spearman"]
    kind, _, correlation = (metric if "_" in metric else f"cosine_{metric}").rpartition("_")
    if name and metric in scores:
        measure = metrics.pearson if correlation == "pearson" else metrics.spearman
        target, values = np.asarray(data.target), series[kind]
        scores["replicates"] = intervals.of_function(
            name, len(target), lambda rows: measure(target[rows], values[rows])
        )
    return _with_main(scores, metric)


def pair_classification(
    data: Pairs, a: Vectors, b: Vectors, *, metric: str = "max_ap", name: str = ""
) -> Scores:
    """Separate the pairs [B, E], [B, E] of label 1 from the others by a threshold on similarity."""
    _expect_rows("a", a, len(data.a))
    _expect_rows("b", b, len(data.b))
    cosine = similarity.paired_cosine(a, b)
    series = {
        "similarity": cosine,
        "cosine": cosine,
        "manhattan": -similarity.paired_manhattan(a, b),
        "euclidean": -similarity.paired_euclidean(a, b),
        "dot": similarity.paired_dot(a, b),
    }
    scores: Scores = {}
    for kind, values in series.items():
        for measure in _PAIR_MEASURES:
            scores[f"{kind}_{measure}"] = _PAIR_MEASURES[measure](values, data.target)
    for measure in _PAIR_MEASURES:
        scores[f"max_{measure}"] = max(scores[f"{kind}_{measure}"] for kind in series)
    kind, _, measure = metric.rpartition("_")
    if name and metric in scores:
        compared = list(series.values()) if kind == "max" else [series[kind]]
        target, score = np.asarray(data.target), _PAIR_MEASURES[measure]
        scores["replicates"] = intervals.of_function(
            name, len(target), lambda rows: max(score(v[rows], target[rows]) for v in compared)
        )
    return _with_main(scores, metric)


_PAIR_MEASURES: dict[str, Callable[[Any, Any], float]] = {
    "accuracy": metrics.best_accuracy,
    "f1": lambda values, labels: metrics.best_f1(values, labels)[0],
    "precision": lambda values, labels: metrics.best_f1(values, labels)[1],
    "recall": lambda values, labels: metrics.best_f1(values, labels)[2],
    "ap": metrics.average_precision,
}


def bitext(data: Pairs, a: Vectors, b: Vectors, *, metric: str = "f1", name: str = "") -> Scores:
    """Match each row of a [B, E] with the nearest of all rows of b; row i belongs to row i."""
    _expect_rows("a", a, len(data.a))
    _expect_rows("b", b, len(data.b))
    nearest = [int(rows[0]) for rows in rank_by_cosine(a, b, k=1)]
    items = metrics.matching_items(nearest)
    scores: Scores = {kind: float(values.mean()) for kind, values in items.items()}
    if name and metric in items:
        scores["replicates"] = intervals.of_means(name, items[metric])
    return _with_main(scores, metric)


def draw_training_rows(
    labels: Sequence[str], *, samples_per_label: int, num_experiments: int, seed: int
) -> list[list[int]]:
    """Draw, for each experiment, the rows a classifier is trained on: as many of every label.

    Each time the order that the experiment before left is shuffled again with the same seed, as in
    MTEB, so that the rows are the same.
    """
    order = list(range(len(labels)))
    draws = []
    for _ in range(num_experiments):
        np.random.RandomState(seed).shuffle(order)
        taken: Counter[str] = Counter()
        draw = []
        for row in order:
            if taken[labels[row]] < samples_per_label:
                draw.append(row)
                taken[labels[row]] += 1
        draws.append(draw)
    return draws


def classification(
    train: Vectors,
    train_labels: Sequence[str],
    test: Vectors,
    test_labels: Sequence[str],
    *,
    draws: Sequence[Sequence[int]],
    seed: int = 42,
    metric: str = "accuracy",
    name: str = "",
) -> Scores:
    """Fit logistic regression on each draw of training rows and score the test rows.

    Args:
        train: [N, E]; draws index its rows.
        train_labels: N labels.
        test: [B, E].
        test_labels: B labels.
        draws: the training rows of each experiment, from draw_training_rows.
        seed: the random state of the regression.
        metric: the main score, accuracy or f1 (macro).
        name: of the task and subset; the draws of the replicates follow from it.

    Raises:
        MissingExtra: when scikit-learn is not installed.
    """
    _expect_rows("train", train, len(train_labels))
    _expect_rows("test", test, len(test_labels))
    need("sklearn.linear_model", extra="eval", purpose="scoring classification")
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    labels = sorted({*train_labels, *test_labels})
    code = {label: number for number, label in enumerate(labels)}
    known = np.array([code[label] for label in train_labels])
    truth = np.array([code[label] for label in test_labels])
    runs, predicted = [], []
    for draw in draws:
        rows = list(draw)
        regression = LogisticRegression(max_iter=100, random_state=seed)
        with warnings.catch_warnings():
            # A hundred iterations are the protocol, converged or not.
            warnings.simplefilter("ignore", ConvergenceWarning)
            regression.fit(train[rows], known[rows])
        predicted.append(regression.predict(test))
        runs.append(_label_scores(truth, predicted[-1]))
    scores: Scores = {kind: float(np.mean([run[kind] for run in runs])) for kind in runs[0]}
    if name and metric == "accuracy":
        scores["replicates"] = intervals.of_means(name, np.mean(np.array(predicted) == truth, 0))
    elif name and metric == "f1":
        scores["replicates"] = intervals.of_function(
            name,
            len(truth),
            lambda rows: float(
                np.mean([metrics.macro_f1(truth[rows], p[rows]) for p in predicted])
            ),
        )
    return _with_main(scores | {"scores_per_experiment": runs}, metric)


def _label_scores(truth: NDArray[np.int64], found: NDArray[np.int64]) -> dict[str, float]:
    from sklearn.metrics import average_precision_score, precision_recall_fscore_support

    scores = {"accuracy": float((truth == found).mean())}
    for average, suffix in (("macro", ""), ("weighted", "_weighted")):
        precision, recall, f1, _ = precision_recall_fscore_support(
            truth, found, average=average, zero_division=0
        )
        scores[f"f1{suffix}"] = float(f1)
        scores[f"precision{suffix}"] = float(precision)
        scores[f"recall{suffix}"] = float(recall)
    present = np.unique(truth)
    if len(present) == 2:
        # Over the predicted labels, not scores: MTEB's definition.
        scores["ap"] = float(average_precision_score(truth == present[1], found))
        scores["ap_weighted"] = scores["ap"]
    return scores


def draw_documents(count: int, protocol: Mapping[str, Any], *, rng: random.Random) -> Sequence[int]:
    """Draw the rows of a clustering task that are embedded at all.

    Args:
        count: how many rows the task has.
        protocol: max_document_to_embed or max_fraction_of_documents_to_embed, or neither (all).
        rng: advanced by the draw; the clusterings keep drawing from it.
    """
    limit = protocol.get("max_document_to_embed")
    share = protocol.get("max_fraction_of_documents_to_embed")
    if limit is not None and share is not None:
        raise InputError(
            "expected max_document_to_embed or max_fraction_of_documents_to_embed, got both "
            f"({limit} and {share}); keep one"
        )
    if share is not None:
        limit = int(share * count)
    return range(count) if limit is None else rng.sample(range(count), k=min(count, limit))


def clustering(
    labels: Sequence[str],
    vectors: Vectors,
    *,
    rng: random.Random,
    num_draws: int = 10,
    rows_per_draw: int = 16_384,
    batch_size: int = 512,
    seed: int = 42,
    metric: str = "v_measure",
    name: str = "",
) -> Scores:
    """Cluster repeated draws of the vectors [B, E] and compare the clusters with the labels.

    Each draw takes rows with replacement, is clustered by mini-batch k-means into as many clusters
    as there are labels, and is scored by the V-measure; the scores are averaged.

    Raises:
        MissingExtra: when scikit-learn is not installed.
    """
    _expect_rows("vectors", vectors, len(labels))
    need("sklearn.cluster", extra="eval", purpose="scoring clustering")
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.metrics import adjusted_mutual_info_score

    names = np.array(labels)
    kmeans = MiniBatchKMeans(
        n_clusters=len(np.unique(names)),
        batch_size=batch_size,
        init="k-means++",
        n_init=1,
        random_state=seed,
    )
    measured, information = [], []
    for _ in range(num_draws):
        rows = rng.choices(range(len(names)), k=rows_per_draw)
        clusters = kmeans.fit_predict(vectors[rows])
        measured.append(metrics.v_measure(names[rows], clusters))
        information.append(float(adjusted_mutual_info_score(names[rows], clusters)))
    scores: Scores = {
        "v_measure": float(np.mean(measured)),
        "v_measure_std": float(np.std(measured)),
        "v_measures": {"Level 0": measured},
        "ami": float(np.mean(information)),
        "ami_std": float(np.std(information)),
        "ami_scores": {"Level 0": information},
    }
    draws_of = {"v_measure": measured, "ami": information}
    if name and metric in draws_of:
        scores["replicates"] = intervals.of_means(name, draws_of[metric])
    return _with_main(scores, metric)


def _with_main(scores: Scores, metric: str) -> Scores:
    if not isinstance(scores.get(metric), float):
        known = ", ".join(name for name, value in scores.items() if isinstance(value, float))
        raise InputError(f"unknown metric {metric!r}; this type of task has {known}")
    return scores | {"main_score": scores[metric]}


def _expect_rows(name: str, vectors: Vectors, count: int) -> None:
    if vectors.ndim != 2 or len(vectors) != count:
        raise InputError(
            f"expected {count} embeddings for {name!r}, one per row, got shape {vectors.shape}"
        )
