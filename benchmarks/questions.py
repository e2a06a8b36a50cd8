"""Questions about facts, for closed-book answering: one hop, two hops, and entities kept apart.

A held-out entity is in no question of the training part, neither as what is asked about nor as
the middle of two hops, so that what a model answers about it can only come from the facts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from culet.data.triples import Fact
from culet.errors import InputError
from culet.files.atomic import new_file

ONE_HOP = "what is the {relation} of {subject}?"
TWO_HOPS = "what is the {second} of the {first} of {subject}?"


@dataclass(frozen=True)
class Question:
    """A question and everything that answers it.

    Attributes:
        text: The question.
        answers: Right answers; the first is the one to train on.
        entities: What it names or passes through on the way to the answer.
    """

    text: str
    answers: tuple[str, ...]
    entities: tuple[str, ...]


def one_hop(
    triples: Sequence[Fact], *, templates: Mapping[str, str] | None = None
) -> list[Question]:
    """Return a question for each (subject, relation), with every object as an answer.

    Args:
        triples: The facts.
        templates: Relation to a text with {subject}; "what is the … of …?" for the others.
    """
    answers = objects_of(triples)
    asked = dict.fromkeys((t.subject, t.relation) for t in triples)
    return [
        Question(
            (templates or {}).get(relation, ONE_HOP).format(subject=subject, relation=relation),
            answers(subject, relation),
            (subject,),
        )
        for subject, relation in asked
    ]


def two_hops(
    triples: Sequence[Fact],
    *,
    most: int | None = None,
    seed: int = 0,
    template: str = TWO_HOPS,
) -> list[Question]:
    """Return questions over two facts, the object of the first being the subject of the second.

    Ways that lead back to where they began are left out, and so are those through a first
    relation with more than one object, whose question would be unclear.

    Args:
        triples: The facts.
        most: Questions at most, drawn evenly.
        seed: Decides the draw.
        template: Text with {subject}, {first} and {second}.
    """
    answers = objects_of(triples)
    relations: dict[str, dict[str, None]] = {}
    for triple in triples:
        relations.setdefault(triple.subject, {})[triple.relation] = None
    questions = []
    for triple in triples:
        if len(answers(triple.subject, triple.relation)) > 1:
            continue
        for second in relations.get(triple.object, ()):
            objects = answers(triple.object, second)
            if triple.subject in objects:
                continue
            text = template.format(second=second, first=triple.relation, subject=triple.subject)
            questions.append(Question(text, objects, (triple.subject, triple.object)))
    if most is not None and len(questions) > most:
        chosen = np.random.default_rng(seed).choice(len(questions), most, replace=False)
        questions = [questions[i] for i in np.sort(chosen)]
    return questions


def split_by_entity(
    questions: Sequence[Question], *, held_out: float, seed: int
) -> tuple[list[Question], list[Question]]:
    """Return (training, test) questions such that no entity is in both.

    Entities are held out at random; a question of only held-out entities is a test question, one
    of none is a training question, and a mixed one is neither.

    Raises:
        InputError: If one of the parts comes out empty.
    """
    entities = list(dict.fromkeys(entity for q in questions for entity in q.entities))
    draws = np.random.default_rng(seed).random(len(entities))
    away = {entity for entity, draw in zip(entities, draws, strict=True) if draw < held_out}
    train = [q for q in questions if not away & set(q.entities)]
    test = [q for q in questions if away >= set(q.entities)]
    if not train or not test:
        raise InputError(
            f"holding out {held_out} of {len(entities)} entities leaves {len(train)} training and "
            f"{len(test)} test questions; both need some"
        )
    return train, test


def write_questions(path: Path, questions: Iterable[Question]) -> None:
    """Write questions as the seq2seq stage reads them: input, target, and all answers."""
    with new_file(path) as aside, aside.open("w", encoding="utf-8") as file:
        for q in questions:
            row = {"input": q.text, "target": q.answers[0], "answers": list(q.answers)}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def objects_of(triples: Sequence[Fact]) -> Callable[[str, str], tuple[str, ...]]:
    """Return a function from (subject, relation) to every object the triples give it."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for triple in triples:
        found.setdefault((triple.subject, triple.relation), {})[triple.object] = None
    return lambda subject, relation: tuple(found.get((subject, relation), ()))
