"""culet's scores against those of mteb's own tasks and evaluators, from the same vectors."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from evaluate_doubles import HashModel, gaussian, grid, sentences
from mteb import similarity_functions
from mteb.abstasks import AbsTaskClassification, AbsTaskClustering, AbsTaskRetrieval
from mteb.abstasks.pair_classification import AbsTaskPairClassification
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.abstasks.text.bitext_mining import AbsTaskBitextMining
from mteb.models.model_meta import ModelMeta
from sklearn.metrics.pairwise import paired_cosine_distances

from culet.evaluate import EvalTask, TaskInfo, evaluate
from culet.evaluate.tasks import (
    ClassificationData,
    LabelledTexts,
    Pairs,
    RerankingData,
    RetrievalData,
    SubsetData,
)

TOLERANCE = 1e-6
VECTORS = pytest.mark.parametrize("vector", [gaussian, grid], ids=["gaussian", "ties"])


class PlainEncoder:
    """The hash vectors behind mteb's protocol, with mteb's own similarities."""

    def __init__(self, vector: Any) -> None:
        self.vector = vector
        self.mteb_model_meta = ModelMeta.create_empty({"name": "test/hash", "revision": "1"})

    def encode(self, inputs: Any, **options: Any) -> np.ndarray:
        texts = [text for batch in inputs for text in batch["text"]]
        return np.stack([self.vector(text) for text in texts])

    def similarity(self, a: Any, b: Any) -> Any:
        return similarity_functions.cos_sim(a, b)

    def similarity_pairwise(self, a: Any, b: Any) -> Any:
        # The model's own similarity is the model's choice; a dot product would break the ties of
        # equal texts by rounding.
        return 1 - paired_cosine_distances(a, b)


def theirs(
    kind: type, task_type: str, datasets: dict[str, Any], vector: Any, **settings: Any
) -> Mapping[str, Mapping[str, Any]]:
    """Run an in-memory task through mteb.evaluate; return the scores of each subset."""
    metric = settings.pop("metric")
    several = list(datasets) != ["default"]
    metadata = TaskMetadata(
        name="InMemory",
        description="A task made for a test.",
        type=task_type,
        main_score=metric,
        eval_splits=["test"],
        eval_langs={name: ["eng-Latn"] for name in datasets} if several else ["eng-Latn"],
        dataset={"path": "none", "revision": "none"},
        category="t2t",
    )
    task = type("InMemory", (kind,), {"metadata": metadata, **settings})()
    task.dataset = datasets if several or kind is AbsTaskRetrieval else datasets["default"]
    task.data_loaded = True
    logging.getLogger("mteb").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = mteb.evaluate(PlainEncoder(vector), [task], cache=None, show_progress_bar=False)
    return {entry["hf_subset"]: entry for entry in results.task_results[0].scores["test"]}


def ours(
    task_type: str, data: dict[str, SubsetData], vector: Any, metric: str, **protocol: Any
) -> Mapping[str, Mapping[str, Any]]:
    info = TaskInfo("InMemory", task_type, metric, Path(), subsets=tuple(data), protocol=protocol)
    result = evaluate(HashModel(vector), EvalTask(info, data))
    assert result.main_score == pytest.approx(
        np.mean([scores["main_score"] for scores in result.subsets.values()])
    )
    return result.subsets


def assert_same(
    mine: Mapping[str, Mapping[str, Any]], other: Mapping[str, Mapping[str, Any]]
) -> None:
    """Every number culet reports stands in mteb's result with the same value."""
    assert list(mine) == list(other)
    for subset, scores in mine.items():
        compared = {key: value for key, value in scores.items() if isinstance(value, float)}
        assert "main_score" in compared
        for key, value in compared.items():
            assert value == pytest.approx(other[subset][key], abs=TOLERANCE), (subset, key)


def _pairs(count: int, seed: int) -> tuple[list[str], list[str]]:
    a, b = sentences(count, seed=seed), sentences(count, seed=seed + 1)
    b[:5] = a[:5]  # some pairs are the same text twice
    return a, b


@VECTORS
def test_sts_equals_mteb(vector: Any) -> None:
    mine: dict[str, SubsetData] = {}
    other = {}
    for subset, seed in (("one", 1), ("two", 5)):
        a, b = _pairs(60, seed)
        score = np.random.default_rng(seed).integers(0, 6, 60).astype(float).tolist()
        mine[subset] = Pairs(tuple(a), tuple(b), tuple(score))
        rows = Dataset.from_dict({"sentence1": a, "sentence2": b, "score": score})
        other[subset] = DatasetDict(test=rows)
    assert_same(
        ours("sts", mine, vector, "cosine_spearman"),
        theirs(AbsTaskSTS, "STS", other, vector, metric="cosine_spearman"),
    )


@VECTORS
@pytest.mark.parametrize("metric", ["max_ap", "max_accuracy"])
def test_pair_classification_equals_mteb(vector: Any, metric: str) -> None:
    a, b = _pairs(80, 2)
    label = np.random.default_rng(2).integers(0, 2, 80).tolist()
    data = Pairs(tuple(a), tuple(b), tuple(label))
    rows = Dataset.from_dict({"sentence1": a, "sentence2": b, "labels": label})
    assert_same(
        ours("pair_classification", {"default": data}, vector, metric),
        theirs(
            AbsTaskPairClassification,
            "PairClassification",
            {"default": DatasetDict(test=rows)},
            vector,
            metric=metric,
        ),
    )


def test_bitext_equals_mteb() -> None:
    mine: dict[str, SubsetData] = {}
    other = {}
    for subset, seed in (("fra-eng", 3), ("deu-eng", 9)):
        b = list(dict.fromkeys(sentences(70, seed=seed, words=40)))
        a = [f"{text} indeed" if row % 2 else text for row, text in enumerate(b)]
        a[10] = a[12]  # two rows claim one match
        mine[subset] = Pairs(tuple(a), tuple(b))
        other[subset] = DatasetDict(test=Dataset.from_dict({"sentence1": a, "sentence2": b}))
    scores = ours("bitext", mine, gaussian, "f1")
    assert 0.3 < scores["fra-eng"]["f1"] < 0.9
    assert_same(scores, theirs(AbsTaskBitextMining, "BitextMining", other, gaussian, metric="f1"))


@VECTORS
@pytest.mark.parametrize("num_labels", [2, 5])
def test_classification_equals_mteb(vector: Any, num_labels: int) -> None:
    texts = sentences(260, words=num_labels, seed=4)
    labels = [int(text[5]) for text in texts]
    rng = np.random.default_rng(4)
    labels = [n if rng.random() < 0.8 else int(rng.integers(num_labels)) for n in labels]
    parts = {"train": slice(0, 180), "test": slice(180, None)}
    data = ClassificationData(
        *(
            LabelledTexts(tuple(texts[part]), tuple(map(str, labels[part])))
            for part in parts.values()
        )
    )
    rows = DatasetDict(
        {
            name: Dataset.from_dict({"text": texts[part], "label": labels[part]})
            for name, part in parts.items()
        }
    )
    scores = ours("classification", {"default": data}, vector, "accuracy", samples_per_label=8)
    assert len(scores["default"]["scores_per_experiment"]) == 10
    assert ("ap" in scores["default"]) == (num_labels == 2)
    assert_same(
        scores,
        theirs(
            AbsTaskClassification, "Classification", {"default": rows}, vector, metric="accuracy"
        ),
    )


def test_classification_with_few_rows_of_a_label_equals_mteb() -> None:
    texts = sentences(90, words=3, seed=5)
    labels = [0 if row % 30 == 0 else 1 + row % 2 for row in range(90)]
    rows = Dataset.from_dict({"text": texts, "label": labels})
    part = LabelledTexts(tuple(texts), tuple(map(str, labels)))
    data = ClassificationData(part, part)  # a task scored on its own training rows
    protocol = {"samples_per_label": 16, "n_experiments": 4}
    assert_same(
        ours("classification", {"default": data}, gaussian, "f1", **protocol),
        theirs(
            AbsTaskClassification,
            "Classification",
            {"default": DatasetDict(train=rows, test=rows)},
            gaussian,
            metric="f1",
            **protocol,
        ),
    )


@pytest.mark.parametrize(
    "embedded",
    [
        {"max_document_to_embed": 50, "max_fraction_of_documents_to_embed": None},
        {"max_document_to_embed": None, "max_fraction_of_documents_to_embed": 0.4},
        {"max_document_to_embed": None, "max_fraction_of_documents_to_embed": None},
    ],
    ids=["count", "fraction", "all"],
)
def test_clustering_equals_mteb(embedded: dict[str, Any]) -> None:
    protocol = embedded | {"max_documents_per_cluster": 200, "n_clusters": 3}
    protocol |= {"k_mean_batch_size": 64}
    mine: dict[str, SubsetData] = {}
    other = {}
    for subset, seed in (("one", 6), ("two", 7)):  # the second goes on in the first's draws
        texts = sentences(120, words=4, seed=seed)
        labels = [text.split()[0] for text in texts]
        mine[subset] = LabelledTexts(tuple(texts), tuple(labels))
        rows = Dataset.from_dict({"sentences": texts, "labels": labels})
        other[subset] = DatasetDict(test=rows)
    scores = ours("clustering", mine, gaussian, "v_measure", **protocol)
    assert 0.1 < scores["one"]["v_measure"] < 0.99
    assert_same(
        scores,
        theirs(AbsTaskClustering, "Clustering", other, gaussian, metric="v_measure", **protocol),
    )


def _retrieval(seed: int, documents: int, *, repeats: bool) -> tuple[RetrievalData, dict[str, Any]]:
    """A corpus with some titles, graded judgements and unjudged documents.

    Texts repeat only where sums are exact: else mteb's own order of equal texts is rounding.
    """
    rng = np.random.default_rng(seed)
    texts = sentences(documents, seed=seed, repeats=repeats)
    titles = [f"topic{n % 8}" if n % 3 == 0 else "" for n in range(documents)]
    ids = [f"d{n}" for n in rng.permutation(documents)]
    queries = sentences(25, seed=seed + 1)
    qrels = {
        f"q{n}": {
            str(document): int(rng.integers(0, 4))
            for document in rng.choice(ids, size=int(rng.integers(1, 9)), replace=False)
        }
        for n in range(len(queries))
    }
    data = RetrievalData(
        tuple(ids), tuple(titles), tuple(texts), tuple(qrels), tuple(queries), qrels
    )
    split = {
        "corpus": Dataset.from_dict({"id": ids, "title": titles, "text": texts}),
        "queries": Dataset.from_dict({"id": list(qrels), "text": queries}),
        "relevant_docs": {query: dict(gains) for query, gains in qrels.items()},
        "top_ranked": None,
    }
    return data, split


@VECTORS
@pytest.mark.parametrize("metric", ["ndcg_at_10", "recall_at_2"])
def test_retrieval_equals_mteb(vector: Any, metric: str) -> None:
    small, small_split = _retrieval(
        8, documents=9, repeats=vector is grid
    )  # fewer documents than k
    large, large_split = _retrieval(9, documents=300, repeats=vector is grid)
    k_values = (1, 2, 3, 5, 10, 20, 100, 1000)
    scores = ours("retrieval", {"small": small, "large": large}, vector, metric)
    assert_same(
        scores,
        theirs(
            AbsTaskRetrieval,
            "Retrieval",
            {"small": {"test": small_split}, "large": {"test": large_split}},
            vector,
            metric=metric,
            k_values=k_values,
        ),
    )
    assert scores["small"]["hit_rate_at_10"] > 0.8


@VECTORS
def test_reranking_equals_mteb(vector: Any) -> None:
    queries = sentences(20, seed=10)
    rng = np.random.default_rng(10)
    repeats = vector is grid
    positives = [
        tuple(sentences(int(rng.integers(1, 4)), seed=n, repeats=repeats)) for n in range(20)
    ]
    negatives = [
        tuple(sentences(int(rng.integers(0, 12)), seed=50 + n, repeats=repeats)) for n in range(20)
    ]
    if repeats:
        negatives[0] = positives[0]  # a right and a wrong candidate with the same text
    else:
        negatives = [tuple(f"{text} wrong" for text in texts) for texts in negatives]
    grades = tuple(tuple(int(g) for g in rng.integers(1, 4, len(p))) for p in positives)
    data = RerankingData(tuple(queries), tuple(positives), tuple(negatives), grades)
    corpus: dict[str, str] = {}
    relevant: dict[str, dict[str, int]] = {}
    candidates: dict[str, list[str]] = {}
    for n, (right, wrong) in enumerate(zip(positives, negatives, strict=True)):
        # The ids mteb makes when it turns rows of positives and negatives into a corpus.
        good = {f"apositive_test_query{n}_{i:05}": text for i, text in enumerate(right)}
        bad = {f"negative_test_query{n}_{i:05}": text for i, text in enumerate(wrong)}
        corpus |= good | bad
        candidates[f"q{n}"] = [*good, *bad]
        relevant[f"q{n}"] = dict(zip(good, grades[n], strict=True)) | dict.fromkeys(bad, 0)
    split = {
        "corpus": Dataset.from_dict({"id": list(corpus), "text": list(corpus.values())}),
        "queries": Dataset.from_dict({"id": list(relevant), "text": queries}),
        "relevant_docs": relevant,
        "top_ranked": candidates,
    }
    assert_same(
        ours("reranking", {"default": data}, vector, "map_at_1000"),
        theirs(
            AbsTaskRetrieval,
            "Reranking",
            {"default": {"test": split}},
            vector,
            metric="map_at_1000",
        ),
    )


def test_empty_texts_are_scored_as_mteb_scores_them() -> None:
    data, split = _retrieval(8, documents=40, repeats=True)
    texts = tuple("" if n % 3 == 0 else text for n, text in enumerate(data.documents))
    queries = ("", *data.queries[1:])
    split = split | {
        "corpus": split["corpus"].remove_columns("text").add_column("text", list(texts)),
        "queries": split["queries"].remove_columns("text").add_column("text", list(queries)),
    }
    data = replace(data, documents=texts, queries=queries)
    found = ours("retrieval", {"default": data}, grid, "ndcg_at_10")
    k_values = (1, 3, 5, 10, 20, 100, 1000)
    other = theirs(
        AbsTaskRetrieval,
        "Retrieval",
        {"default": {"test": split}},
        grid,
        metric="ndcg_at_10",
        k_values=k_values,
    )
    assert_same(found, other)


def test_pairs_with_empty_texts_are_scored_as_mteb_scores_them() -> None:
    a, b = _pairs(40, seed=3)
    a[7], b[9], a[11], b[11] = "", "", "", ""
    score = [float(n % 6) for n in range(40)]
    rows = Dataset.from_dict({"sentence1": a, "sentence2": b, "score": score})
    pairs = Pairs(tuple(a), tuple(b), tuple(score))
    other = {"default": DatasetDict(test=rows)}
    assert_same(
        ours("sts", {"default": pairs}, grid, "cosine_spearman"),
        theirs(AbsTaskSTS, "STS", other, grid, metric="cosine_spearman"),
    )
