"""Overlap of training texts with evaluation texts, by long runs and by equality."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from culet.data.prepare.chunks import Position, RowChunk
from culet.data.prepare.contamination import ContaminationConfig, Overlap, OverlapIndex
from culet.data.prepare.examine import REASONS, Examiner, RowTally
from culet.errors import RecipeError
from culet.evaluate.encoding import task_texts
from culet.evaluate.tasks import EvalTask, RetrievalData, TaskInfo

LONG = "a culet is the small facet at the pointed lower end of a cut gem stone here"
SHORT = "What is a culet, then?"


def index(*texts: tuple[str, str], words: int = 6) -> OverlapIndex:
    return OverlapIndex(texts, words=words, shortest=4)


def test_a_run_of_words_inside_another_text_is_found_whatever_its_punctuation() -> None:
    known = index(("gems/document", LONG))
    inside = "They say: A culet is the SMALL facet — at the pointed end of it"
    assert known.hits([inside]) == [Overlap(0, "gems/document", "run")]
    assert known.hits(["a culet is the large facet at the flat end"]) == []


def test_a_short_text_is_found_only_where_it_is_the_whole_text() -> None:
    known = index(("gems/query", SHORT), ("gems/query", "yes"))
    assert known.hits(["what is a culet then", "so what is a culet then", "Yes."]) == [
        Overlap(0, "gems/query", "equal")
    ]


def test_a_text_of_several_tasks_hits_them_all_and_each_once() -> None:
    known = index(("one", LONG), ("two", LONG), ("two", LONG + " and more"))
    assert known.hits(["nothing of it", LONG]) == [
        Overlap(1, "one", "equal"),
        Overlap(1, "two", "equal"),
    ]
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


def retrieval(titles: tuple[str, ...]) -> RetrievalData:
    names = tuple(map(str, range(len(titles))))
    texts = tuple(f"document {name}" for name in names)
    return RetrievalData(names, titles, texts, ("q",), (SHORT,), {"q": {"0": 1}})


def test_the_titles_of_evaluation_documents_are_texts_of_the_task() -> None:
    data = retrieval((LONG, "", "Gems", LONG, " "))
    task = EvalTask(TaskInfo("Gems", "retrieval", "ndcg_at_10", Path()), {"": data})
    found = list(task_texts(task))
    assert [text for role, text in found if role == "document"] == list(data.documents)
    assert [text for role, text in found if role == "title"] == [LONG, "Gems"]
    known = OverlapIndex(found, words=6, shortest=4)
    assert known.hits([LONG, "gems"]) == [Overlap(0, "title", "equal")]  # one word tells nothing


def examined(*rows: dict[str, Any]) -> list[str]:
    """Return the reason of each row, beside a task with one query and one document's title."""
    known = index(("gems\tquery", SHORT), ("gems\ttitle", LONG), ("gems\ttitle", "Gems"))
    examiner = Examiner(contamination=ContaminationConfig((Path("x"),)), overlap=known)
    raw = [json.dumps(row).encode() for row in rows]
    lines = list(range(1, len(raw) + 1))
    chunk = RowChunk(0, Path("a.jsonl"), 0, lines, raw, Position())
    facts = examiner(chunk, "a", RowTally())
    return [REASONS[verdict] for verdict in facts.verdicts.tolist()]


def test_titles_count_on_both_sides() -> None:
    pair = {"query": "a question of its own", "positive": "an answer of its own"}
    assert (
        examined(
            pair | {"title": SHORT},
            pair | {"query": LONG},
            pair | {"title": LONG},
            {"text": "a passage of its own", "title": SHORT},
            pair | {"title": "Gems"},
            pair | {"title": None},
            {"text": "a passage of its own", "title": [SHORT]},
        )
        == ["contaminated"] * 4 + ["kept"] * 3
    )
