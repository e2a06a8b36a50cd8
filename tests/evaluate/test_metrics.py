from __future__ import annotations

import math

import numpy as np
import pytest
import pytrec_eval
from mteb.abstasks.pair_classification import AbsTaskPairClassification
from scipy import stats
from sklearn import metrics as sk

from culet.evaluate import metrics


def test_ndcg_of_a_ranking_worked_out_by_hand() -> None:
    # Gains 1, 0, 2 at the ranks 1 to 3; the ideal order is 2, 1.
    expected = (1 + 2 / math.log2(4)) / (2 + 1 / math.log2(3))
    assert metrics.ndcg([1, 0, 2], [1, 2], k=10) == pytest.approx(expected)


def test_ndcg_counts_only_the_first_k_ranks() -> None:
    assert metrics.ndcg([0, 0, 1], [1], k=2) == 0.0
    assert metrics.ndcg([0, 0, 1], [1], k=3) == pytest.approx(0.5)


def test_negative_gains_count_as_nothing() -> None:
    assert metrics.ndcg([-1, 1], [-1, 1], k=2) == pytest.approx(1 / math.log2(3))
    assert metrics.recall([-1, 1], [-1, 1], k=1) == 0.0


def test_ranking_measures_worked_out_by_hand() -> None:
    gains, judged = [0, 1, 0, 1], [1, 1, 1]
    assert metrics.recall(gains, judged, k=2) == pytest.approx(1 / 3)
    assert metrics.precision(gains, k=10) == pytest.approx(2 / 10)
    assert metrics.ranked_average_precision(gains, judged, k=4) == pytest.approx(
        (1 / 2 + 2 / 4) / 3
    )
    assert metrics.reciprocal_rank(gains, k=4) == 0.5
    assert metrics.reciprocal_rank(gains, k=1) == 0.0
    assert (metrics.hit(gains, k=1), metrics.hit(gains, k=2)) == (0.0, 1.0)


def test_a_query_without_relevant_documents_scores_zero() -> None:
    assert metrics.ndcg([0, 0], [0], k=10) == 0.0
    assert metrics.recall([0, 0], [0], k=10) == 0.0
    assert metrics.ranked_average_precision([0, 0], [], k=10) == 0.0


def test_ranking_measures_equal_trec_eval() -> None:
    rng = np.random.default_rng(0)
    documents = [f"d{n:02}" for n in range(30)]
    for _ in range(20):
        order = rng.permutation(documents).tolist()
        qrels = {d: int(g) for d, g in zip(documents, rng.integers(-1, 4, 30), strict=True)}
        qrels = dict(list(qrels.items())[: int(rng.integers(1, 30))])
        names = {"ndcg_cut.5,100", "map_cut.5,100", "recall.5,100", "P.5,100", "success.5,100"}
        run = {d: 100.0 - rank for rank, d in enumerate(order)}
        theirs = pytrec_eval.RelevanceEvaluator({"q": qrels}, names).evaluate({"q": run})["q"]
        gains, judged = [qrels.get(d, 0) for d in order], list(qrels.values())
        for k in (5, 100):
            ours = {
                "ndcg_cut": metrics.ndcg(gains, judged, k=k),
                "map_cut": metrics.ranked_average_precision(gains, judged, k=k),
                "recall": metrics.recall(gains, judged, k=k),
                "P": metrics.precision(gains, k=k),
                "success": metrics.hit(gains, k=k),
            }
            for name, value in ours.items():
                assert value == pytest.approx(theirs[f"{name}_{k}"], abs=1e-9), (name, k)


def test_tied_values_share_their_mean_rank() -> None:
    assert metrics.mean_ranks([30, 10, 30, 20]).tolist() == [3.5, 1.0, 3.5, 2.0]


def test_spearman_sees_only_the_order() -> None:
    assert metrics.spearman([1, 2, 3], [1, 10, 1000]) == pytest.approx(1.0)
    assert metrics.spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)


def test_correlations_equal_scipy_with_ties() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 6, 200), rng.standard_normal(200).round(1)
    assert metrics.spearman(x, y) == pytest.approx(stats.spearmanr(x, y)[0], abs=1e-12)
    assert metrics.pearson(x, y) == pytest.approx(stats.pearsonr(x, y)[0], abs=1e-12)


def test_correlation_with_a_constant_is_undefined() -> None:
    assert math.isnan(metrics.spearman([1, 2, 3], [5, 5, 5]))


def test_average_precision_of_a_ranking_worked_out_by_hand() -> None:
    assert metrics.average_precision([0.9, 0.8, 0.7], [1, 0, 1]) == pytest.approx((1 + 2 / 3) / 2)


def test_average_precision_of_all_scores_tied_is_the_share_of_positives() -> None:
    assert metrics.average_precision([1, 1, 1, 1], [1, 0, 0, 0]) == pytest.approx(0.25)
    assert metrics.average_precision([1, 2], [0, 0]) == 0.0


def test_best_accuracy_of_scores_worked_out_by_hand() -> None:
    # Between 0.8 and 0.7: right are 0.9, 0.8 and 0.1; wrong is 0.7.
    assert metrics.best_accuracy([0.9, 0.8, 0.7, 0.1], [1, 1, 0, 0]) == 1.0
    assert metrics.best_accuracy([0.9, 0.8, 0.7, 0.1], [1, 0, 1, 0]) == 0.75


def test_no_threshold_splits_tied_scores() -> None:
    assert metrics.best_accuracy([0.5, 0.5], [1, 0]) == 0.0
    assert metrics.best_f1([0.5, 0.5], [1, 0]) == (0.0, 0.0, 0.0)


class _Pairs(AbsTaskPairClassification):
    """The threshold searches of mteb, without a task around them."""

    def __init__(self) -> None:
        pass


@pytest.mark.parametrize("decimals", [1, 8])
def test_threshold_measures_equal_mteb(decimals: int) -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        scores = rng.standard_normal(60).round(decimals)
        labels = rng.integers(0, 2, 60)
        theirs = _Pairs()._compute_metrics_values(scores.tolist(), labels, True)
        f1, precision, recall = metrics.best_f1(scores, labels)
        assert metrics.best_accuracy(scores, labels) == pytest.approx(theirs["accuracy"])
        assert (f1, precision, recall) == pytest.approx(
            (theirs["f1"], theirs["precision"], theirs["recall"])
        )
        assert metrics.average_precision(scores, labels) == pytest.approx(theirs["ap"])


def test_matching_worked_out_by_hand() -> None:
    # Row 0 is right but claimed twice: precision 1/2, F1 2/3. Row 2 is right and alone.
    scores = metrics.matching([0, 0, 2])
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["precision"] == pytest.approx((1 / 2 + 0 + 1) / 3)
    assert scores["f1"] == pytest.approx((2 / 3 + 0 + 1) / 3)


def test_matching_equals_the_weighted_measures_of_sklearn() -> None:
    found = np.random.default_rng(3).integers(0, 40, 40)
    found[::3] = np.arange(40)[::3]
    ours, truth = metrics.matching(found), np.arange(40)
    theirs = sk.precision_recall_fscore_support(truth, found, average="weighted", zero_division=0)
    assert (ours["precision"], ours["recall"], ours["f1"]) == pytest.approx(theirs[:3])


def test_v_measure_of_simple_clusterings() -> None:
    assert metrics.v_measure(["a", "a", "b", "b"], [1, 1, 0, 0]) == pytest.approx(1.0)
    assert metrics.v_measure(["a", "a", "b", "b"], [0, 1, 0, 1]) == pytest.approx(0.0)
    # One cluster a row: homogeneity 1, completeness 1/2.
    assert metrics.v_measure(["a", "a", "b", "b"], [0, 1, 2, 3]) == pytest.approx(2 / 3)


def test_v_measure_equals_sklearn() -> None:
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 7, 500).astype(str)
    clusters = rng.integers(0, 5, 500)
    assert metrics.v_measure(labels, clusters) == pytest.approx(
        sk.v_measure_score(labels, clusters), abs=1e-12
    )
