from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from evaluate_doubles import write_task

from culet.errors import InputError
from culet.evaluate import evaluate, evaluate_folder, read_task
from culet.evaluate.floors import TfIdf, letters


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_task(
        tmp_path / "tasks/Names",
        type="retrieval",
        metric="ndcg_at_10",
        files={
            "corpus.jsonl": [
                {"id": "a", "title": "", "text": "the garnet is a red stone"},
                {"id": "b", "title": "", "text": "the topaz is a blue stone"},
                {"id": "c", "title": "", "text": "the stone the stone the stone"},
            ],
            "queries.jsonl": [{"id": "q", "text": "the stone called topaz"}],
            "qrels.tsv": "query-id\tcorpus-id\tscore\nq\tb\t1\n",
        },
    )
    return tmp_path / "tasks"


def test_letters_are_unit_vectors_that_know_shared_spelling() -> None:
    near, same, far = letters().encode_document(["colour of a gem", "color of a gem", "µ-Opioid"])
    assert np.linalg.norm([near, same, far], axis=1) == pytest.approx(1.0)
    assert near @ same > 0.7 > 0.3 > near @ far
    assert np.array_equal(letters().encode_query(["gem"]), letters().encode_document(["gem"]))


def test_an_empty_text_is_zero_and_not_nan() -> None:
    assert np.array_equal(letters().encode_document([""]), np.zeros((1, 4096)))


def test_rare_words_weigh_more_in_tf_idf(folder: Path) -> None:
    task = read_task(folder / "Names")
    fitted = TfIdf().fitted(task)
    assert evaluate(fitted, task).main_score == 1.0
    query, right, wrong = fitted.encode_document(
        ["the stone called topaz", "the topaz is a blue stone", "the stone the stone the stone"]
    )
    assert query @ right > query @ wrong
    plain = letters().encode_document(["the stone called topaz", "the stone the stone the stone"])
    assert plain[0] @ plain[1] > query @ wrong


def test_a_folder_is_scored_with_frequencies_of_each_task(folder: Path, tmp_path: Path) -> None:
    model = TfIdf()
    done = evaluate_folder(
        model, folder, tmp_path / "out", name=model.name, revision=model.fingerprint
    )
    assert [result.main_score for result in done.results] == [1.0]
    assert done.failures == {}


def test_what_letters_do_not_have_is_refused() -> None:
    with pytest.raises(InputError, match="no separate titles and no trained widths"):
        letters().encode_document(["a"], titles=["b"])
    with pytest.raises(InputError, match="no separate titles and no trained widths"):
        letters().encode_query(["a"], truncate_to=8)
