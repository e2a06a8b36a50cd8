"""Questions whose answers are lines of files, and how early a search over the files finds one.

A search gives chunks, runs of whole lines. A chunk is right if it shares a line with an answer, and
a question counts by the rank of its first right chunk: whether it is among the first five, and
1 / rank. Means are given over all questions, by language, and over the questions that are not in
the language of the files, each with replicates for a paired bootstrap interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from culet.errors import InputError
from culet.evaluate.intervals import of_means
from culet.evaluate.report import Mean
from culet.files.fields import id_of, string_of, text_of, wrong_field
from culet.files.rows import Row, json_rows

FIRST = 5  # hits that a person looks at


@dataclass(frozen=True)
class Lines:
    """Lines of a file, counted from 1, the last one inclusive."""

    file: str
    first: int
    last: int


@dataclass(frozen=True)
class Question:
    """A question and the places that answer it, each of them alone.

    Attributes:
        id: its name in the set.
        language: its ISO 639-1 code.
        text: as a person asks it.
        answers: one or more.
    """

    id: str
    language: str
    text: str
    answers: tuple[Lines, ...]


class Passage(Protocol):
    """What a search finds: a run of lines of a file, such as `search.documents.Chunk`."""

    @property
    def path(self) -> str:
        """The file, relative to the folder."""

    @property
    def first_line(self) -> int:
        """Its first line, counted from 1."""

    @property
    def last_line(self) -> int:
        """Its last line, inclusive."""


def read_questions(path: Path) -> list[Question]:
    """Read a JSONL with the fields id, language, question and answers.

    An answer has the fields file, first_line and last_line; others are ignored.

    Raises:
        InputError: if a field is missing or wrong, an id is used twice, or there is no question.
    """
    questions: dict[str, Question] = {}
    for raw in json_rows(path):
        row = raw.parsed()
        name = id_of(row, "id", taken=questions)
        answers = tuple(_lines(row, value) for value in _list(row, "answers"))
        language = string_of(row, "language")
        questions[name] = Question(name, language, text_of(row, "question"), answers)
    if not questions:
        raise InputError(f"{path} has no questions")
    return list(questions.values())


def right_passages(questions: Sequence[Question], passages: Sequence[Passage]) -> NDArray[np.bool_]:
    """Return for each question which passages are right: [Q, P].

    Raises:
        InputError: if nothing is right for a question: its answers are not in these files.
    """
    by_file: dict[str, list[int]] = {}
    for i, passage in enumerate(passages):
        by_file.setdefault(passage.path, []).append(i)
    right = np.zeros((len(questions), len(passages)), dtype=bool)
    for row, question in zip(right, questions, strict=True):
        for answer in question.answers:
            for i in by_file.get(answer.file, ()):
                row[i] |= (
                    passages[i].first_line <= answer.last and answer.first <= passages[i].last_line
                )
        if not row.any():
            raise InputError(f"no passage holds an answer to {question.id} ({question.text})")
    return right


def first_right(scores: NDArray[Any], right: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return for each question the rank of its first right passage, from 1: [Q].

    Passages of equal score keep their order, as hits do.

    Args:
        scores: of each passage for each question, higher is better [Q, P].
        right: from `right_passages` [Q, P].
    """
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.asarray(np.take_along_axis(right, order, axis=1).argmax(axis=1) + 1)


def success(
    questions: Sequence[Question], ranks: NDArray[np.intp], *, corpus_language: str = "en"
) -> dict[str, Mean]:
    """Return the share of questions with a right passage among the first five, by group."""
    return _by_group(questions, ranks <= FIRST, corpus_language)


def reciprocal_rank(
    questions: Sequence[Question], ranks: NDArray[np.intp], *, corpus_language: str = "en"
) -> dict[str, Mean]:
    """Return the mean of 1 / rank of the first right passage, by group."""
    return _by_group(questions, 1 / ranks, corpus_language)


def _by_group(
    questions: Sequence[Question], values: NDArray[Any], corpus_language: str
) -> dict[str, Mean]:
    languages = np.array([question.language for question in questions])
    groups = {language: languages == language for language in dict.fromkeys(languages.tolist())}
    groups["cross-lingual"] = languages != corpus_language
    groups["all"] = np.ones(len(questions), dtype=bool)
    return {
        group: Mean(float(values[members].mean()), of_means(group, values[members]))
        for group, members in groups.items()
        if members.any()
    }


def _list(row: Row, key: str) -> list[Any]:
    value = row.value.get(key)
    if not isinstance(value, list) or not value:
        raise wrong_field(row, key, "a list of at least one answer")
    return value


def _lines(row: Row, value: Any) -> Lines:
    answer = Row(value if isinstance(value, dict) else {}, row.origin)
    first, last = (_line(answer, key) for key in ("first_line", "last_line"))
    if first > last:
        raise wrong_field(answer, "last_line", f"a line from {first} on")
    return Lines(string_of(answer, "file"), first, last)


def _line(row: Row, key: str) -> int:
    value = row.value.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise wrong_field(row, key, "the number of a line, from 1")
    return value
