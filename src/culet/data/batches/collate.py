"""Records to a tokenized batch: prompts in front, equal texts once, teacher vectors beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from culet.data.records import Record
from culet.data.roles import role_texts
from culet.data.teacher_vectors import TeacherFolder
from culet.errors import InputError
from culet.text.keys import keys_of
from culet.text.prompts import SYMMETRIC_TASKS, Prompts
from culet.text.tokenizer import TextTokenizer


@dataclass(frozen=True)
class PairBatch:
    """B pairs from one source: distinct tokenized texts, and which of them each pair uses.

    Attributes:
        texts: Token ids of the distinct texts.
        query: Index of each pair's query.
        positive: Index of each pair's positive.
        negative: Indices of each pair's hard negatives, −1 where there are fewer than C.
        teacher: Role to teacher vectors [B, T] or [B, C, T]; NaN where there is none.
        source: Name of the source.
        origin: "file:line" of each record.
        truncated: Texts that were longer than the limit and were cut.
        keys: A 64-bit hash of each distinct text, prompt included: equal in every process, so that
            processes which hold a part of a batch each can tell equal texts. May be empty.
        tower: The tower that reads each distinct text, from 0; empty where one reads all of them.
    """

    texts: list[np.ndarray]
    query: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    teacher: dict[str, np.ndarray] = field(default_factory=dict)
    source: str = ""
    origin: tuple[str, ...] = ()
    truncated: int = 0
    keys: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    tower: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def num_tokens(self) -> int:
        """Return the number of tokens over the distinct texts."""
        return sum(len(text) for text in self.texts)


def collate(
    records: Sequence[Record],
    *,
    tokenizer: TextTokenizer,
    prompts: Prompts,
    task: str,
    num_negatives: int,
    source: str = "",
    teacher: TeacherFolder | None = None,
    seed: Sequence[int],
    first: int = 0,
    towers: Literal[1, 2] = 1,
) -> PairBatch:
    """Return the batch of some records.

    Args:
        records: The pairs of one batch, or one process's part of it; then there may be none.
        tokenizer: Its `max_length` cuts long texts.
        prompts: Prefixes by task.
        task: The task of records that name none.
        num_negatives: C, hard negatives per query; drawn anew each time where a record has more.
        source: Name of the source, for messages.
        teacher: Has a vector for every text.
        seed: Decides the draw of negatives, for each record by its place in the whole batch; so it
            does not matter among how many processes a batch is divided.
        first: Place of the first record in the whole batch.
        towers: 2 where one reads queries and another documents: then equal texts of both are two.

    Raises:
        InputError: If a record names an unknown task or the teacher has no vector for a text.
    """
    index: dict[tuple[int, str], int] = {}  # (tower, text) → row
    query, positive = [], []
    negative = np.full((len(records), num_negatives), -1, dtype=np.int64)
    drawn: list[np.ndarray] = []

    def place(text: str, *, tower: int = towers - 1) -> int:
        return index.setdefault((tower, text), len(index))

    for row, record in enumerate(records):
        ask, before, before_wrong = record_prompts(record, prompts=prompts, task=task)
        query.append(place(ask + record.query, tower=0))
        positive.append(place(before + record.positive))
        drawn.append(_drawn(record, num_negatives, (*seed, first + row)))
        for column, pick in enumerate(drawn[-1]):
            negative[row, column] = place(before_wrong[pick] + record.negatives[pick])
    tokenized = tokenizer.encode([text for _, text in index], on_long="truncate")
    used = int((negative >= 0).any(axis=0).sum())
    return PairBatch(
        texts=tokenized.ids,
        query=np.array(query, dtype=np.int64),
        positive=np.array(positive, dtype=np.int64),
        negative=negative[:, :used],
        teacher=_teacher(records, drawn, used, teacher, task),
        source=source,
        origin=tuple(record.origin for record in records),
        truncated=len(tokenized.overlong),
        keys=keys_of(text if tower == 0 else f"{tower} {text}" for tower, text in index),
        tower=np.array([tower for tower, _ in index] if towers > 1 else [], dtype=np.int64),
    )


def record_prompts(record: Record, *, prompts: Prompts, task: str) -> tuple[str, str, list[str]]:
    """Return what goes in front of a record's query, its positive and each of its negatives.

    Raises:
        InputError: If the task is unknown, or there is a title that the prompts have no place for.
    """
    name = record.task or task
    try:
        ask = prompts.query(name)
        if name in SYMMETRIC_TASKS:
            return ask, ask, [ask] * len(record.negatives)
        wrong = [prompts.document(title) for title, _ in record.titled_negatives]
        return ask, prompts.document(record.title), wrong
    except InputError as error:
        raise InputError(f"{record.origin}: {error}") from error


def _drawn(record: Record, number: int, seed: Sequence[int]) -> np.ndarray:
    """Return indices of some of the negatives that are not the positive, in random order."""
    wrong = [i for i, text in enumerate(record.negatives) if text != record.positive]
    candidates = np.array(wrong, dtype=np.int64)
    if len(candidates) > 1 and number:  # else there is nothing to draw, and no generator to make
        candidates = np.random.default_rng(list(seed)).permutation(candidates)
    return candidates[:number]


def _teacher(
    records: Sequence[Record],
    drawn: Sequence[np.ndarray],
    num_negatives: int,
    folder: TeacherFolder | None,
    task: str,
) -> dict[str, np.ndarray]:
    """Return teacher vectors by role, NaN where a record has fewer negatives."""
    if folder is None or not records:
        return {}
    query = np.empty((len(records), folder.width), dtype=np.float32)
    positive = np.empty_like(query)
    negative = np.full((len(records), num_negatives, folder.width), np.nan, dtype=np.float32)
    for row, (record, picks) in enumerate(zip(records, drawn, strict=True)):
        ask, right, wrong = role_texts(record, task)
        query[row] = folder.vector(ask, record.origin)
        positive[row] = folder.vector(right, record.origin)
        for column, pick in enumerate(picks):
            negative[row, column] = folder.vector(wrong[pick], record.origin)
    teacher = {"query": query, "positive": positive}
    return teacher | {"negative": negative} if num_negatives else teacher
