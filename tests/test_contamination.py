"""Overlap of training texts with evaluation texts, by long runs and by equality."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from culet.data.contamination import ContaminationConfig, Hit, OverlapIndex
from culet.errors import RecipeError

LONG = "a culet is the small facet at the pointed lower end of a cut gem stone here"
SHORT = "What is a culet, then?"


def index(*texts: tuple[str, str], words: int = 6) -> OverlapIndex:
    return OverlapIndex(texts, words=words, shortest=4)


def test_a_run_of_words_inside_another_text_is_found_whatever_its_punctuation() -> None:
    known = index(("gems/document", LONG))
    inside = "They say: A culet is the SMALL facet — at the pointed end of it"
    assert known.hits([inside]) == [Hit(0, "gems/document", "run")]
    assert known.hits(["a culet is the large facet at the flat end"]) == []


def test_a_short_text_is_found_only_where_it_is_the_whole_text() -> None:
    known = index(("gems/query", SHORT), ("gems/query", "yes"))
    assert known.hits(["what is a culet then", "so what is a culet then", "Yes."]) == [
        Hit(0, "gems/query", "equal")
    ]


def test_a_text_of_several_tasks_hits_them_all_and_each_once() -> None:
    known = index(("one", LONG), ("two", LONG), ("two", LONG + " and more"))
    assert known.hits(["nothing of it", LONG]) == [Hit(1, "one", "equal"), Hit(1, "two", "equal")]
    assert known.texts == 3
    assert known.owners == ["one", "two"]


def test_nothing_is_found_in_nothing() -> None:
    assert index().hits([LONG, ""]) == []
    assert index(("one", LONG)).hits([]) == []
    assert index(("one", "")).hits(["", "  "]) == []


def test_hits_are_those_of_plain_python() -> None:
    rng = random.Random(0)
    draw = lambda: " ".join(rng.choices("abcdefg", k=rng.randrange(4, 14)))  # noqa: E731
    tasks = [(f"t{rng.randrange(3)}", draw()) for _ in range(300)]
    texts = [draw() for _ in range(300)]

    def runs(text: str) -> set[tuple[str, ...]]:
        words = text.split()
        return {tuple(words[i : i + 6]) for i in range(len(words) - 5)}

    expected = set()
    for number, text in enumerate(texts):
        for owner, known in tasks:
            if text == known or runs(text) & runs(known):
                expected.add((number, owner))
    found = index(*tasks).hits(texts)
    assert 10 < len(expected) < 900
    assert {(hit.text, hit.owner) for hit in found} == expected


def test_settings_that_find_nothing_or_all_are_refused() -> None:
    with pytest.raises(RecipeError, match="at least one folder of tasks"):
        ContaminationConfig(())
    with pytest.raises(RecipeError, match="words must be at least 2 and shortest 1, got 1 and 5"):
        ContaminationConfig((Path("x"),), words=1)
