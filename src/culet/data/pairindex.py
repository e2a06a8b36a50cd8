"""The distinct queries and documents of some files of pairs, and who is right for whom.

Made in two passes over the files: the first keeps 8 bytes of hash a text, the second writes each
distinct text to disk once. What stays in memory is a few numbers a record.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from culet.atomic import new_folder
from culet.data.mine import Banned
from culet.data.records import Record, data_files, parsed_row, raw_rows, stream_records, text_field
from culet.data.textstore import TextStore, key, normalized, numbered, write_store
from culet.errors import InputError
from culet.prompts import SYMMETRIC_TASKS


@dataclass(frozen=True)
class PairIndex:
    """What mining needs of its files; texts are on disk.

    Attributes:
        queries: [task, text] of each distinct query.
        documents: [task or None, title or None, text] of each distinct document; with a task it
            carries that task's query prompt, as both sides of symmetric tasks do.
        query: Number of each record's query [R].
        positive: Number of each record's positive [R].
        right: (query, document) pairs, int64 [P, 2], sorted: documents known to be right, or the
            same text as the query.
        query_groups: Group of each query.
        document_groups: Group of each document.
        candidates: Which documents may become negatives; all, unless there is a corpus apart.
    """

    queries: TextStore
    documents: TextStore
    query: np.ndarray
    positive: np.ndarray
    right: np.ndarray
    query_groups: np.ndarray
    document_groups: np.ndarray
    candidates: np.ndarray

    def banned(self, queries: np.ndarray) -> Banned:
        """Return the documents that are right for some queries; rows count in their order."""
        first = np.searchsorted(self.right[:, 0], queries, side="left")
        counts = np.searchsorted(self.right[:, 0], queries, side="right") - first
        rows = np.repeat(np.arange(len(queries)), counts)
        places = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return Banned(rows, self.right[np.repeat(first, counts) + places, 1])


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

    Raises:
        InputError: At the first bad line, with file and line, unless `skip_bad`.
    """
    queries, own, documents = array("q"), array("q"), array("q")
    query_groups, document_groups, positives = array("q"), array("q"), array("q")
    groups: dict[tuple[str, ...], int] = {}
    for record, row in stream_records(paths, skip_bad=skip_bad):
        fields = _group(row, within, record.origin)
        group = groups.setdefault(fields, len(groups))
        query_text = normalized(record.query)
        queries.append(key(record.task or task, *fields, query_text))
        own.append(key(*fields, query_text))
        query_groups.append(group)
        positives.append(len(documents))
        for passage in (record.positive, *record.negatives):
            documents.append(key(*fields, normalized(passage)))
            document_groups.append(group)
    if not queries:
        raise InputError(f"no usable record in {', '.join(map(str, paths))}")
    before = len(documents)
    for text, _, row, origin in _corpus(corpus):
        fields = _group(row, within, origin)
        documents.append(key(*fields, normalized(text)))
        document_groups.append(groups.setdefault(fields, len(groups)))

    keys = np.array(documents)
    document, document_first = numbered(keys)
    query, query_first = numbered(np.array(queries))
    candidates = np.zeros(int(document_first.sum()), dtype=bool)
    candidates[document[before:] if corpus else document] = True
    positive = document[np.array(positives)]
    # documents that say what the query says are no answer to it, and no wrong answer either
    known = np.sort(keys[document_first])
    order = np.argsort(keys[document_first])
    place = np.minimum(np.searchsorted(known, np.array(own)), len(known) - 1)
    same = known[place] == np.array(own)
    right = np.concatenate(
        [np.stack([query, positive], 1), np.stack([query, order[place]], 1)[same]]
    )
    with new_folder(folder) as aside:
        asks = (
            [record.task or task, record.query]
            for record, _ in stream_records(paths, skip_bad=skip_bad)
        )
        write_store(aside / "queries", compress(asks, query_first))
        texts = _documents(paths, corpus, task=task, skip_bad=skip_bad)
        write_store(aside / "documents", compress(texts, document_first))
        np.savez(
            aside / "numbers.npz",
            query=query,
            positive=positive,
            right=np.unique(right, axis=0),
            query_groups=np.array(query_groups)[query_first],
            document_groups=np.array(document_groups)[document_first],
            candidates=candidates,
        )
    return open_index(folder)


def _documents(
    paths: Sequence[Path], corpus: Sequence[Path], *, task: str, skip_bad: bool
) -> Iterator[list[str | None]]:
    """Yield (task or None, title or None, text) of every document, in the order of the hashes."""
    for record, _ in stream_records(paths, skip_bad=skip_bad):
        ask = _symmetric(record, task)
        yield [ask, record.title, record.positive]
        for text in record.negatives:
            yield [ask, None, text]
    for text, title, _, _ in _corpus(corpus):
        yield [task if task in SYMMETRIC_TASKS else None, title, text]


def _symmetric(record: Record, task: str) -> str | None:
    name = record.task or task
    return name if name in SYMMETRIC_TASKS else None


def _corpus(paths: Sequence[Path]) -> Iterator[tuple[str, str | None, dict[str, Any], str]]:
    """Yield text, title, row and origin of the documents of a corpus."""
    for file in (file for path in paths for file in data_files(path)):
        for line, raw in raw_rows(file, also=None):
            origin = f"{file}:{line}"
            row = parsed_row(raw, origin, fields="text or positive")
            text = text_field(row, "text" if "text" in row else "positive", origin)
            title = row.get("title")
            yield text, title if isinstance(title, str) and title.strip() else None, row, origin


def _group(row: dict[str, Any], fields: Sequence[str], origin: str) -> tuple[str, ...]:
    values = tuple(row.get(field) for field in fields)
    if not all(isinstance(value, str) for value in values):
        raise InputError(f"{origin}: expected texts in {', '.join(fields)}, got {list(values)}")
    return values  # type: ignore[return-value]
