"""The distinct queries and documents of some files of pairs, and who is right for whom.

Made in two passes over the files: the first keeps hashes, the second writes each distinct text to
disk once. In memory are, while it is made, some 40 bytes a text, and afterwards some 30 a record.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from culet.data.field_names import record_rows
from culet.data.records import Record, stream_records
from culet.errors import InputError
from culet.files.atomic import new_folder
from culet.files.fields import text_of
from culet.files.rows import Row
from culet.files.stores import TextStore, write_store
from culet.text.keys import key, normalised, numbered
from culet.text.prompts import SYMMETRIC_TASKS
from culet.vectors.nearest import Banned, Groups

_AT_ONCE = 1 << 20  # records that are looked up at a time


@dataclass(frozen=True)
class PairIndex:
    """What mining needs of its files; texts are on disk.

    Attributes:
        queries: [task, text] of each distinct query.
        documents: [task or None, title or None, text] of each distinct document; with a task it
            carries that task's query prompt, as both sides of symmetric tasks do.
        query: Number of each record's query [R].
        positive: Number of each record's positive [R].
        right: Documents known to be right for some query, or the same text as it, by query [P].
        right_starts: Where those of each query begin [Q + 1].
        query_groups: Group of each query.
        documents_by_group: Documents in order of their groups [D].
        group_starts: Where those of each group begin [G + 1].
        candidates: Which documents may become negatives; all, unless there is a corpus apart.
    """

    queries: TextStore
    documents: TextStore
    query: np.ndarray
    positive: np.ndarray
    right: np.ndarray
    right_starts: np.ndarray
    query_groups: np.ndarray
    documents_by_group: np.ndarray
    group_starts: np.ndarray
    candidates: np.ndarray

    def banned(self, queries: np.ndarray) -> Banned:
        """Return the documents that are right for some queries; rows count in their order."""
        first = self.right_starts[queries].astype(np.int64)
        counts = self.right_starts[queries + 1] - first
        rows = np.repeat(np.arange(len(queries)), counts)
        places = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return Banned(rows, self.right[np.repeat(first, counts) + places].astype(np.int64))

    @property
    def groups(self) -> Groups:
        """Return the documents of each group."""
        return Groups(self.documents_by_group, self.group_starts)


def open_index(folder: Path) -> PairIndex:
    """Return the index in a folder."""
    with np.load(folder / "numbers.npz") as numbers:
        return PairIndex(
            TextStore(folder / "queries"), TextStore(folder / "documents"), **dict(numbers)
        )


def build_index(
    folder: Path,
    paths: Sequence[Path],
    *,
    task: str,
    corpus: Sequence[Path] = (),
    within: Sequence[str] = (),
    skip_bad: bool = False,
    check: Callable[[Record], object] | None = None,
    skipped: list[str] | None = None,
) -> PairIndex:
    """Make the index of some files of records in a folder, whole or not at all, and return it.

    Texts that differ in case, white space or width of forms only are one text; the first counts.

    Args:
        folder: Where.
        paths: Files of records; their positives and negatives are documents.
        task: Task of records that name none.
        corpus: Files of documents (`text`, or the positives of pairs). If given, only these
            become negatives.
        within: Fields that a negative shares with the record, such as "lang".
        skip_bad: Leave bad lines out.
        check: Raises InputError for a record that cannot be embedded; that is then a bad line.
        skipped: Is given what was wrong with each line that is left out.

    Raises:
        InputError: At the first bad line, with file and line, unless `skip_bad`.
    """
    hashes = _Hashes(within)
    for record, row in stream_records(paths, skip_bad=skip_bad, check=check, skipped=skipped):
        hashes.add_record(record, row, task)
    if not hashes.queries:
        raise InputError(f"no usable record in {', '.join(map(str, paths))}")
    first = len(hashes.documents) if corpus else 0  # of those that may become negatives
    for text, _, row in _corpus(corpus):
        hashes.add_document(text, hashes.group(row))
    numbers, query_first, document_first = _numbers(hashes, first)
    with new_folder(folder) as aside:
        asks = (
            [record.task or task, record.query]
            for record, _ in stream_records(paths, skip_bad=skip_bad, check=check)
        )
        write_store(aside / "queries", compress(asks, query_first))
        texts = _documents(paths, corpus, task=task, skip_bad=skip_bad, check=check)
        write_store(aside / "documents", compress(texts, document_first))
        np.savez(aside / "numbers.npz", **numbers)
    return open_index(folder)


class _Hashes:
    """What the first pass keeps of the texts of records, and of further documents.

    Args:
        within: Fields that make a group.

    Attributes:
        queries: Hash of each record's query, with its task.
        as_documents: Hash of each record's query, as a document would have it.
        positives: Number of each record's positive among the documents.
        query_groups: Group of each record.
        documents: Hash of each document.
        document_groups: Group of each document.
    """

    def __init__(self, within: Sequence[str]) -> None:
        self.queries, self.as_documents, self.positives = array("q"), array("q"), array("q")
        self.documents = array("q")
        self.query_groups, self.document_groups = array("i"), array("i")
        self._within = within
        self._groups: dict[tuple[str, ...], int] = {}

    @property
    def num_groups(self) -> int:
        """Return the number of groups."""
        return len(self._groups)

    def group(self, row: Row) -> tuple[str, ...]:
        """Return the fields that make a row's group."""
        values = tuple(row.value.get(field) for field in self._within)
        if not all(isinstance(value, str) for value in values):
            names = ", ".join(self._within)
            raise InputError(f"{row.origin}: expected texts in {names}, got {list(values)}")
        return values  # type: ignore[return-value]

    def add_record(self, record: Record, row: Row, task: str) -> None:
        """Add a record's query and documents."""
        group, query = self.group(row), normalised(record.query)
        self.queries.append(key(record.task or task, *group, query))
        self.as_documents.append(key(*group, query))
        self.query_groups.append(self._groups.setdefault(group, len(self._groups)))
        self.positives.append(len(self.documents))
        for text in (record.positive, *record.negatives):
            self.add_document(text, group)

    def add_document(self, text: str, group: tuple[str, ...]) -> None:
        """Add a document of a group."""
        self.documents.append(key(*group, normalised(text)))
        self.document_groups.append(self._groups.setdefault(group, len(self._groups)))


def _numbers(hashes: _Hashes, first: int) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Return the arrays of an index, and which queries and documents are the first of their kind.

    Args:
        hashes: Of all texts.
        first: Number of the first document that may become a negative.
    """
    keys = np.frombuffer(hashes.documents, dtype=np.int64)
    document, document_first = numbered(keys)
    query, query_first = numbered(np.frombuffer(hashes.queries, dtype=np.int64))
    candidates = np.zeros(int(document_first.sum()), dtype=bool)
    candidates[document[first:]] = True
    positive = document[np.frombuffer(hashes.positives, dtype=np.int64)]
    del document
    right, right_starts = _right(query, positive, keys[document_first], hashes.as_documents)
    groups = np.frombuffer(hashes.document_groups, dtype=np.intc)[document_first]
    by_group = Groups.of(groups, hashes.num_groups)
    numbers = {
        "query": query,
        "positive": positive,
        "right": right,
        "right_starts": right_starts,
        "query_groups": np.frombuffer(hashes.query_groups, dtype=np.intc)[query_first],
        "documents_by_group": by_group.order,
        "group_starts": by_group.starts,
        "candidates": candidates,
    }
    return numbers, query_first, document_first


def _right(
    query: np.ndarray, positive: np.ndarray, documents: np.ndarray, own: array[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the documents that are no wrong answers to each query, and where each one's begin.

    Those are its positives, and documents with the text of the query: they are no answer to it,
    and no wrong answer either.

    Args:
        query: Number of each record's query.
        positive: Number of each record's positive.
        documents: Hash of each document.
        own: Hash of each record's query, as a document would have it.
    """
    order = np.argsort(documents)
    known, asked = documents[order], np.frombuffer(own, dtype=np.int64)
    codes = [query.astype(np.int64) * len(documents) + positive]
    for first in range(0, len(asked), _AT_ONCE):
        part, askers = asked[first : first + _AT_ONCE], query[first : first + _AT_ONCE]
        place = np.minimum(np.searchsorted(known, part), len(known) - 1)
        same = known[place] == part
        codes.append(askers[same].astype(np.int64) * len(documents) + order[place[same]])
    pairs = np.unique(np.concatenate(codes))
    queries = int(query.max()) + 1
    starts = np.zeros(queries + 1, dtype=np.int64)
    np.cumsum(np.bincount(pairs // len(documents), minlength=queries), out=starts[1:])
    return (pairs % len(documents)).astype(np.int32), starts


def _documents(
    paths: Sequence[Path],
    corpus: Sequence[Path],
    *,
    task: str,
    skip_bad: bool,
    check: Callable[[Record], object] | None,
) -> Iterator[list[str | None]]:
    """Yield (task or None, title or None, text) of every document, in the order of the hashes."""
    for record, _ in stream_records(paths, skip_bad=skip_bad, check=check):
        ask = _symmetric(record, task)
        yield [ask, record.title, record.positive]
        for title, text in record.titled_negatives:
            yield [ask, title, text]
    for text, title, _ in _corpus(corpus):
        yield [task if task in SYMMETRIC_TASKS else None, title, text]


def _symmetric(record: Record, task: str) -> str | None:
    name = record.task or task
    return name if name in SYMMETRIC_TASKS else None


def _corpus(paths: Sequence[Path]) -> Iterator[tuple[str, str | None, Row]]:
    """Yield text, title and row of the documents of a corpus."""
    for row in (raw.parsed() for raw in record_rows(paths)):
        text = text_of(row, "text" if "text" in row.value else "positive")
        title = row.value.get("title")
        yield text, title if isinstance(title, str) and title.strip() else None, row
