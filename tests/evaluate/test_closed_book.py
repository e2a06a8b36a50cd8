"""Exact match as people compute it."""

from __future__ import annotations

import pytest

from culet.errors import InputError
from culet.evaluate.closed_book import exact_match, is_match, normalized


@pytest.mark.parametrize(
    ("written", "compared"),
    [
        ("The  Hague", "hague"),
        ("Palme d'Or!", "palme d or"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("２０２５", "2025"),
        ("The The", "the the"),
        ("anthem", "anthem"),
        (" ", ""),
    ],
)
def test_answers_are_compared_without_case_punctuation_and_articles(
    written: str, compared: str
) -> None:
    assert normalized(written) == compared


def test_any_alias_is_right_and_nothing_is_not() -> None:
    assert is_match("rome", ["Roma", "Rome"])
    assert not is_match("Rom", ["Roma", "Rome"])
    assert not is_match("", ["", "x"])


def test_the_score_is_the_share_of_matches() -> None:
    assert exact_match(["a cat", "dog", "eel", ""], [["cat"], ["cow"], ["x", "Eel"], ["y"]]) == 0.5


@pytest.mark.parametrize(("predictions", "answers"), [([], []), (["a"], [["a"], ["b"]])])
def test_questions_without_predictions_are_refused(
    predictions: list[str], answers: list[list[str]]
) -> None:
    with pytest.raises(InputError, match="one prediction for each question"):
        exact_match(predictions, answers)
