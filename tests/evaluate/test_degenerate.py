"""Tasks whose score means nothing, and scores that are not numbers: named, and in no mean."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluate_doubles import HashModel, gaussian, write_task

from culet.errors import InputError
from culet.evaluate import evaluate_folder, print_report, read_task
from culet.evaluate.evaluation import evaluate, mean_main_score

RIGHT = {"sts": "cosine_spearman", "pair_classification": "max_ap", "bitext": "f1"}


def _pairs(kind: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": kind, "metric": RIGHT[kind], "files": {"pairs.jsonl": rows}}


def _retrieval(gain: int) -> dict[str, Any]:
    documents = [{"id": 1, "text": "a"}, {"id": 2, "text": "b"}]
    judged = f"query-id\tcorpus-id\tscore\n3\t1\t{gain}\n3\t2\t{gain}\n"
    files = {
        "corpus.jsonl": documents,
        "queries.jsonl": [{"id": 3, "text": "a"}],
        "qrels.tsv": judged,
    }
    return {"type": "retrieval", "metric": "ndcg_at_10", "files": files}


ROWS = [{"a": "x", "b": "y"}, {"a": "z", "b": "w"}]
LABELLED = [{"text": text, "label": "one"} for text in "abcd"]
NO_SCORE = {
    "constant gold scores": (_pairs("sts", [r | {"score": 1} for r in ROWS]), "have one score"),
    "one pair": (_pairs("sts", [ROWS[0] | {"score": 1}]), "there is one pair only"),
    "identical texts": (
        _pairs("sts", [{"a": "x", "b": "y", "score": n} for n in range(3)]),
        "all pairs are the same texts",
    ),
}
MEANINGLESS = {
    "one label of pairs": (
        _pairs("pair_classification", [r | {"label": 0} for r in ROWS]),
        "all pairs have one label",
    ),
    "one pair to match": (_pairs("bitext", ROWS[:1]), "there is one pair only"),
    "nothing relevant": (_retrieval(0), "no query has a document with a gain above zero"),
    "everything relevant": (_retrieval(1), "every document is right for every query"),
    "one label": (
        {"type": "clustering", "metric": "v_measure", "files": {"test.jsonl": LABELLED}},
        "all texts have one label",
    ),
    "one label of a test": (
        {
            "type": "classification",
            "metric": "accuracy",
            "files": {
                "train.jsonl": [*LABELLED, {"text": "e", "label": 2}],
                "test.jsonl": LABELLED,
            },
        },
        "all test texts have one label",
    ),
    "no wrong candidate": (
        {
            "type": "reranking",
            "metric": "map_at_1000",
            "files": {"test.jsonl": [{"query": "q", "positive": ["a"], "negative": []}]},
        },
        "no query has a wrong candidate",
    ),
}
GOOD = _pairs("sts", [{"a": a, "b": b, "score": n} for n, (a, b) in enumerate(["ab", "cd", "ee"])])


def _score(tmp_path: Path, task: dict[str, Any]) -> Any:
    write_task(tmp_path / "tasks" / "Bad", **task)
    write_task(tmp_path / "tasks" / "Good", **GOOD)
    out = tmp_path / "results"
    return evaluate_folder(
        HashModel(gaussian), tmp_path / "tasks", out, name="m", revision="r", widths=[None, 8]
    )


@pytest.mark.parametrize("name", NO_SCORE)
def test_a_score_that_is_not_a_number_is_a_named_failure(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    task, why = NO_SCORE[name]
    outcome = _score(tmp_path, task)
    assert sorted(outcome.failures) == ["Bad", "Bad (8d)"]
    for error in outcome.failures.values():
        assert error.startswith("its score is not a number, so it is left out of all means: ")
        assert why in error
    assert [result.info.name for result in outcome.results] == ["Good", "Good"]
    assert all(math.isfinite(result.main_score) for result in outcome.results)
    for path in (tmp_path / "results").rglob("*.json"):
        assert "NaN" not in path.read_text(encoding="utf-8")
    print_report({"m": outcome.results}, failures=outcome.failures)
    printed = capsys.readouterr().out
    assert "nan" not in printed.replace("not a number", "")
    assert "failed: Bad: " in printed
    with pytest.raises(InputError, match="Bad: its score is not a number"):
        mean_main_score([evaluate(HashModel(gaussian), read_task(tmp_path / "tasks" / "Bad"))])


def test_a_model_that_gives_all_pairs_one_similarity_has_no_score(tmp_path: Path) -> None:
    write_task(tmp_path / "tasks" / "Good", **GOOD)
    model = HashModel(lambda text: np.ones(64, dtype=np.float32) / 8)
    outcome = evaluate_folder(
        model, tmp_path / "tasks", tmp_path / "results", name="m", revision="r"
    )
    assert "the model's similarities are all equal" in outcome.failures["Good"]


@pytest.mark.parametrize("name", MEANINGLESS)
def test_a_score_that_means_nothing_says_so(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    task, why = MEANINGLESS[name]
    for _ in range(2):  # computed, then read back
        outcome = _score(tmp_path, task)
        assert outcome.failures == {}
        print_report({"m": outcome.results})
        assert f"the score of Bad means nothing: {why}\n" in capsys.readouterr().out
    assert json.loads(next((tmp_path / "results").rglob("Bad.json")).read_text())["culet"][
        "degenerate"
    ] == {"default": why}


def test_one_label_to_train_on_is_refused_in_words(tmp_path: Path) -> None:
    files = {"train.jsonl": LABELLED, "test.jsonl": LABELLED}
    task = {"type": "classification", "metric": "accuracy", "files": files}
    outcome = _score(tmp_path, task)
    assert (
        "Bad: expected training rows of two labels or more, got only 'one'"
        in (outcome.failures["Bad"])
    )
