from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from culet.errors import InputError
from culet.evaluate.answers import (
    Lines,
    Question,
    first_right,
    read_questions,
    reciprocal_rank,
    right_passages,
    success,
)


class Piece(NamedTuple):
    path: str
    first_line: int
    last_line: int


PIECES = [Piece("a.py", 1, 9), Piece("a.py", 10, 20), Piece("b.py", 1, 9), Piece("b.py", 11, 12)]


def asked(*answers: Lines, language: str = "en") -> Question:
    return Question("q", language, "how?", answers)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (Lines("a.py", 9, 9), [True, False, False, False]),
        (Lines("a.py", 9, 10), [True, True, False, False]),
        (Lines("a.py", 12, 13), [False, True, False, False]),
        (Lines("b.py", 1, 40), [False, False, True, True]),
        (Lines("b.py", 9, 10), [False, False, True, False]),
    ],
)
def test_a_passage_is_right_if_it_shares_a_line_with_an_answer(
    answer: Lines, right: list[bool]
) -> None:
    assert right_passages([asked(answer)], PIECES).tolist() == [right]


def test_each_answer_counts_alone() -> None:
    question = asked(Lines("a.py", 1, 1), Lines("b.py", 12, 12))
    assert right_passages([question], PIECES).tolist() == [[True, False, False, True]]


@pytest.mark.parametrize("answer", [Lines("b.py", 10, 10), Lines("c.py", 1, 9)])
def test_an_answer_outside_of_the_files_is_named(answer: Lines) -> None:
    with pytest.raises(InputError, match=r"no passage holds an answer to q \(how\?\)"):
        right_passages([asked(answer)], PIECES)


def test_the_rank_is_that_of_the_best_right_passage() -> None:
    document = np.array([[1, 0], [0, 1], [0.6, 0.8], [0.8, 0.6]])
    query = np.array([[1, 0], [0, 1], [0.8, 0.6]])
    right = np.array([[0, 1, 1, 0], [0, 1, 0, 0], [1, 1, 0, 0]], dtype=bool)
    # By cosine: 1 0 .6 .8; 0 1 .8 .6; .8 .6 .96 1.
    assert first_right(query @ document.T, right).tolist() == [3, 1, 3]


def test_passages_of_equal_score_keep_their_order() -> None:
    right = np.array([[False, True, False], [False, False, True]])
    assert first_right(np.zeros((2, 3)), right).tolist() == [2, 3]


def test_means_are_given_by_language_and_over_those_that_are_not_of_the_files() -> None:
    questions = [asked(language=language) for language in ("en", "en", "de", "fr")]
    ranks = np.array([1, 6, 5, 4])
    found = success(questions, ranks)
    assert {group: mean.score for group, mean in found.items()} == {
        "en": 0.5, "de": 1.0, "fr": 1.0, "cross-lingual": 1.0, "all": 0.75,
    }  # fmt: skip
    reciprocal = reciprocal_rank(questions, ranks)
    assert reciprocal["en"].score == pytest.approx((1 + 1 / 6) / 2)
    assert reciprocal["cross-lingual"].score == pytest.approx((1 / 5 + 1 / 4) / 2)
    assert "cross-lingual" not in success(questions[:2], ranks[:2])


def test_two_searches_meet_the_same_draws() -> None:
    questions = [asked(language=language) for language in ("en", "de") * 20]
    better, worse = np.tile([1, 2], 20), np.tile([1, 9], 20)
    found = success(questions, better)["all"], success(questions, worse)["all"]
    assert found[0].less(found[1]).score == 0.5
    assert found[0].less(found[0]).signed() == "+0.00 [+0.0, +0.0]"
    assert success(questions, better)["de"].less(success(questions, worse)["de"]).signed() == (
        "+100.00 [+100.0, +100.0]"
    )


def row(**changes: object) -> dict[str, object]:
    answer = {"file": "a.py", "first_line": 3, "last_line": 4, "phrase": "not read"}
    return {"id": "en-01", "language": "en", "question": "how?", "answers": [answer]} | changes


def write(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return path


def test_questions_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", row())
    assert read_questions(path) == [Question("en-01", "en", "how?", (Lines("a.py", 3, 4),))]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": " "}, r"q.jsonl:1: expected a text that is not blank under 'question'"),
        ({"answers": []}, "expected a list of at least one answer under 'answers'"),
        ({"answers": ["a.py:3"]}, "the number of a line, from 1 under 'first_line', got nothing"),
        ({"answers": [{"first_line": 0}]}, "the number of a line, from 1 under 'first_line'"),
        (
            {"answers": [{"file": "a.py", "first_line": 3, "last_line": 2}]},
            "a line from 3 on under 'last_line', got 2",
        ),
        ({"answers": [{"first_line": 3, "last_line": 3}]}, "under 'file', got nothing"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_questions(write(tmp_path / "q.jsonl", row(**changes)))


def test_ids_are_distinct_and_a_set_has_questions(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"q.jsonl:2: expected an id of its own"):
        read_questions(write(tmp_path / "q.jsonl", row(), row()))
    with pytest.raises(InputError, match="has no questions"):
        read_questions(write(tmp_path / "q.jsonl"))
