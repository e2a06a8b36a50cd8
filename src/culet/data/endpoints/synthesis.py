"""Questions that ask a language model for training data, and readers of its answers.

Three kinds, after Gemini Embedding (arXiv 2503.07891). Its prompts are not published; these are
ours.

queries         a document → queries that it answers, in its own language
grades          a pair → how well the document answers, from 0 to 4, asked in two ways
classification  labels → a long list of subjects → example texts for each label and subject
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from culet.data.batches.shuffle import check_seed
from culet.data.endpoints.chat import ChatEndpoint, Messages, without_surrogates
from culet.errors import RecipeError
from culet.files.settings import KNOWN_BY

By = Literal["relevance", "likelihood"]
BEST_GRADE = 4
_MAX_DOCUMENT = 6000  # characters of a document that are shown to the model

_SCALES: dict[By, str] = {
    "relevance": (
        "Grade how well the document answers the query.\n"
        "4: it answers it fully. 3: it answers most of it. 2: it answers a part. "
        "1: it is about the same thing and does not answer. 0: it is about something else."
    ),
    "likelihood": (
        "Grade how likely it is that someone who wants to find exactly this document would type "
        "this query.\n4: very likely. 3: likely. 2: possible. 1: unlikely. 0: they would not."
    ),
}


@dataclass(frozen=True)
class Shot:
    """An example that is shown to the model.

    Attributes:
        document: A document.
        query: A query that the document answers.
    """

    document: str
    query: str


@dataclass(frozen=True)
class GradesConfig:
    """Removal of pairs that a language model grades low.

    Attributes:
        endpoint: The language model.
        min_grade: Lowest grade, from 0 to 4, of a pair that is kept.
        sources: Names of the sources whose pairs are graded; empty grades all.
        cache: File of answers; beside the stage's folder if left out.
    """

    endpoint: ChatEndpoint = field(metadata={KNOWN_BY: ChatEndpoint.asked_with})
    min_grade: int = 3
    sources: tuple[str, ...] = ()
    cache: Path | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.min_grade <= BEST_GRADE:
            raise RecipeError(f"min_grade must be in 1 … {BEST_GRADE}, got {self.min_grade}")


@dataclass(frozen=True)
class QueriesConfig:
    """Queries for documents.

    Attributes:
        per_document: Number of queries for each document.
        about: The kind of query, in words: "questions a nurse would ask".
        shots: Examples; a few bring the queries much closer to what is wanted.
        min_grade: Queries that the same model grades lower are dropped; 0 grades nothing.
    """

    per_document: int = 1
    about: str = "a query that a person would type into a search engine"
    shots: tuple[Shot, ...] = ()
    min_grade: int = 0

    def __post_init__(self) -> None:
        if self.per_document < 1 or not 0 <= self.min_grade <= BEST_GRADE:
            raise RecipeError(
                f"per_document must be at least 1 and min_grade in 0 … {BEST_GRADE}, got "
                f"{self.per_document} and {self.min_grade}"
            )


@dataclass(frozen=True)
class ClassificationConfig:
    """Texts to classify, made in two stages so that they differ from each other.

    First the model writes a long list of subjects. Some are drawn from its tail, past those that a
    model always names first. Then it writes a text for each label and subject.

    Attributes:
        texts: What the texts are: "reviews of a film".
        labels: Their classes: "positive", "negative".
        subjects: What to list: "titles of films that never existed".
        language: Language of the texts, in words.
        list_length: Number of subjects in the list.
        tail: Share of the list, from its end, that subjects are drawn from.
        rows: Number of training rows.
        negatives: Texts of other labels in each row.
        seed: Seed of the draws of subjects and of the rows.
    """

    texts: str
    labels: tuple[str, ...]
    subjects: str
    language: str = "English"
    list_length: int = 100
    tail: float = 0.5
    rows: int = 100
    negatives: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if len(set(self.labels)) < 2 or len(set(self.labels)) < len(self.labels):
            raise RecipeError(f"labels must be two or more, all different, got {self.labels}")
        if not 0 < self.tail <= 1 or self.list_length < 1 or self.rows < 1 or self.negatives < 0:
            raise RecipeError(
                "tail must be in (0, 1], list_length and rows at least 1 and negatives 0, got "
                f"{self.tail}, {self.list_length}, {self.rows} and {self.negatives}"
            )


def query_question(document: str, config: QueriesConfig, *, lang: str | None) -> Messages:
    """Return the question that asks for queries of a document."""
    shots = "".join(
        f"\n\nDocument:\n{shot.document}\nAnswer: {_json({'queries': [shot.query]})}"
        for shot in config.shots
    )
    language = "the language of the document" if lang is None else f"the language {lang!r}"
    return _messages(
        f"Write {config.about}, which the document below answers, in {language}. Do not mention "
        f"the document. Write {config.per_document} of them, each about something else in it. "
        f'Answer in JSON: {{"queries": ["…"]}}.{shots}\n\nDocument:\n{_shortened(document)}'
    )


def read_queries(answer: str, config: QueriesConfig) -> list[str] | None:
    """Return the different queries of an answer, or None if it holds none."""
    value = read_json(answer)
    listed = value.get("queries") if isinstance(value, dict) else value
    if not isinstance(listed, list):
        return None
    return _texts(listed)[: config.per_document] or None


def grade_question(query: str, document: str, by: By = "relevance") -> Messages:
    """Return the question that asks for the grade of a pair."""
    return _messages(
        f'{_SCALES[by]}\nAnswer in JSON: {{"grade": 0 to {BEST_GRADE}}}.\n\n'
        f"Query:\n{_shortened(query)}\n\nDocument:\n{_shortened(document)}"
    )


def read_grade(answer: str) -> int | None:
    """Return the grade in an answer, or None if there is none from 0 to 4."""
    value = read_json(answer)
    grade = value.get("grade") if isinstance(value, dict) else value
    if isinstance(grade, str) and re.fullmatch(r"[0-9]{1,3}", grade.strip()):
        grade = int(grade)
    if isinstance(grade, bool) or not isinstance(grade, int | float):
        return None
    # membership, since NaN and Infinity, which Python reads as JSON, are no int
    return int(grade) if grade in range(BEST_GRADE + 1) else None


def list_question(config: ClassificationConfig) -> Messages:
    """Return the question that asks for subjects."""
    return _messages(
        f"List {config.list_length} different {config.subjects}. Go on past the obvious ones. "
        'Answer in JSON: {"list": ["…"]}.'
    )


def read_list(answer: str) -> list[str]:
    """Return the different entries of a list, in order."""
    value = read_json(answer)
    listed = value.get("list") if isinstance(value, dict) else value
    return _texts(listed) if isinstance(listed, list) else []


def drawn_examples(subjects: Sequence[str], config: ClassificationConfig) -> list[tuple[str, str]]:
    """Return label and subject of each text to ask for, enough for `config.rows`.

    Subjects come from the tail of the list; each label gets an equal share, at least two.
    """
    random = np.random.Generator(np.random.PCG64(config.seed))
    tail = subjects[-max(1, round(config.tail * len(subjects))) :]
    each = max(2, -(-2 * config.rows // len(config.labels)))
    return [
        (label, tail[place])
        for label in config.labels
        for place in _drawn(random, len(tail), each).tolist()
    ]


def example_question(
    label: str, subject: str, number: int, config: ClassificationConfig
) -> Messages:
    """Return the question that asks for a text; `number` makes repeated questions differ."""
    others = ", ".join(other for other in config.labels if other != label)
    return _messages(
        f"Write one of {config.texts}, in {config.language}, about: {subject}. A reader must class "
        f"it as {label!r} and not as one of {others}. "
        f"Do not use the word {label!r} itself. This is version {number}; make it unlike the "
        'others in length and tone. Answer in JSON: {"text": "…"}.'
    )


def read_example(answer: str) -> str | None:
    """Return the text of an answer, or None."""
    value = read_json(answer)
    text = value.get("text") if isinstance(value, dict) else None
    return next(iter(_texts([text])), None)


def classification_rows(
    texts: Sequence[tuple[str, str]], config: ClassificationConfig
) -> Iterator[dict[str, Any]]:
    """Yield training rows from (label, text): a text, another of its label, texts of other labels.

    Every row has a query of its own; its negatives have other labels.
    """
    random = np.random.Generator(np.random.PCG64([config.seed, 1]))
    by_label: dict[str, list[str]] = {}
    for label, text in texts:
        if text not in by_label.setdefault(label, []):
            by_label[label].append(text)
    made = 0
    for place in range(max(map(len, by_label.values()), default=0)):
        for label in config.labels:
            own = by_label.get(label, [])
            others = [t for other in by_label if other != label for t in by_label[other]]
            if place >= len(own) or len(own) < 2 or made == config.rows:
                continue
            partner = own[(place + int(random.integers(1, len(own)))) % len(own)]
            chosen = _drawn(random, len(others), min(config.negatives, len(others)))
            made += 1
            yield {
                "query": own[place],
                "positive": partner,
                "negatives": [others[i] for i in chosen.tolist()],
                "task": "classification",
                "label": label,
            }


def read_json(answer: str) -> Any:
    """Return the first JSON value in an answer, whatever words or fences are around it."""
    decoder = json.JSONDecoder()
    for match in re.finditer(r"[\[{]", answer):
        try:
            return decoder.raw_decode(answer, match.start())[0]
        except (ValueError, RecursionError):
            continue
    return answer.strip()


def _texts(values: Sequence[Any]) -> list[str]:
    """Return the distinct texts among JSON values; an escape may be half an emoji."""
    texts = (without_surrogates(value).strip() for value in values if isinstance(value, str))
    return list(dict.fromkeys(text for text in texts if text))


def _drawn(random: np.random.Generator, size: int, count: int) -> np.ndarray:
    """Return numbers below `size`, all different if there are enough."""
    rounds = [random.permutation(size) for _ in range(-(-count // size))] if size else []
    return np.concatenate([np.zeros(0, np.int64), *rounds])[:count].astype(np.int64)


def _shortened(document: str) -> str:
    if len(document) <= _MAX_DOCUMENT:
        return document
    return document[:_MAX_DOCUMENT] + "\n[…]"


def _messages(text: str) -> Messages:
    return [{"role": "user", "content": text}]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
