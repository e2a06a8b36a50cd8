"""Training records from JSONL and Parquet files, checked once, kept compactly.

A record is one line or row:

    query      text                                     required
    positive   text of the right document               required
    negatives  list of texts of wrong documents, or of
               {"text", "title"}                        optional
    task       a task of culet.text.prompts                  optional, the source's task otherwise
    title      title of the positive document           optional

The usual names of other tools are read too, see `culet.data.field_names`. Other fields are ignored,
but for vectors of a teacher, which come from stage teach. Every line is
parsed and checked before training begins, so that a bad one is reported with its file and line in
the first second and not in the third hour.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from culet.data.field_names import names_expected, record_rows
from culet.data.reading import Reading
from culet.errors import InputError
from culet.files.fields import optional_text_of, text_of, wrong_field
from culet.files.rows import RawRow, Row

_NO_FIELDS = ("teacher_query", "teacher_positive", "teacher_negatives")
_FIELDS = ("task", "title", *_NO_FIELDS)  # beside the texts of the pair


@dataclass(frozen=True)
class Record:
    """One training pair with its hard negatives.

    Attributes:
        query: What is searched with.
        positive: The right document.
        negatives: Wrong documents for this query.
        negative_titles: Title of each negative, or None; empty if none has one.
        task: A task name, or None for the source's.
        title: Title of the positive, or None.
        origin: "file:line", for messages.
    """

    query: str
    positive: str
    negatives: tuple[str, ...] = ()
    task: str | None = None
    title: str | None = None
    origin: str = ""
    negative_titles: tuple[str | None, ...] = ()

    @property
    def titled_negatives(self) -> list[tuple[str | None, str]]:
        """Return title and text of each negative."""
        titles = self.negative_titles or (None,) * len(self.negatives)
        return list(zip(titles, self.negatives, strict=True))


class Records(Sequence[Record]):
    """Many records in one block of bytes; a record is parsed when it is asked for."""

    def __init__(self, files: list[str], blob: bytes, spans: np.ndarray, lines: np.ndarray) -> None:
        self._files = files
        self._blob = blob
        self._spans = spans  # R 2, int64: start and stop in the blob
        self._lines = lines  # R 2, int64: file and line (or row) number from 1
        self.skipped: tuple[str, ...] = ()
        self.groups = np.zeros(len(spans), dtype=np.int64)  # R: number of each record's group
        self.reading = Reading()

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        start, stop = self._spans[index]
        file, line = self._lines[index]
        return record_of(Row(json.loads(self._blob[start:stop]), f"{self._files[file]}:{line}"))


def read_records(
    paths: Sequence[Path],
    *,
    skip_bad: bool = False,
    check: Callable[[Record], object] | None = None,
    group_by: Sequence[str] = (),
) -> Records:
    """Return all records of some files, in order.

    Args:
        paths: Files (.jsonl, .jsonl.gz, .parquet) or folders of such files.
        skip_bad: Leave bad lines out and list them in `Records.skipped` instead of raising.
        check: Raises InputError for a record that cannot be used for a reason of the caller's,
            such as a task its model does not know; that record is then a bad line.
        group_by: Text fields; records that agree in all of them form a group, numbered in
            `Records.groups`. A record without one of them is a bad line.

    Raises:
        InputError: If a path does not exist or holds no record, or a line is bad; the message
            names the file, the line and what was expected.
    """
    skipped: list[str] = []
    blobs, spans, lines, groups, position = [], [], [], [], 0
    files: dict[Path, int] = {}
    numbers: dict[tuple[str, ...], int] = {}
    reading = Reading((*_FIELDS, *group_by))
    rows = record_rows(paths, reading=reading)
    for raw, row, record in _usable(rows, skipped if skip_bad else None, check, group_by):
        group = tuple(row.value[name] for name in group_by)
        right = (record.title or "") + "\n" + record.positive
        wrong = [text for text in record.negatives if text != record.positive]
        reading.count(row.value, (record.query, right), wrong, group)
        blobs.append(raw.json)
        groups.append(numbers.setdefault(group, len(numbers)))
        spans.append((position, position + len(raw.json)))
        lines.append((files.setdefault(raw.path, len(files)), raw.line))
        position += len(raw.json)
    if not spans:
        first = f"; the first row: {skipped[0]}" if skipped else ""
        raise InputError(f"no usable record in {', '.join(map(str, paths))}{first}")
    records = Records(list(map(str, files)), b"".join(blobs), np.array(spans), np.array(lines))
    records.skipped = tuple(skipped)
    records.groups = np.array(groups)
    records.reading = reading
    return records


def stream_records(
    paths: Sequence[Path],
    *,
    skip_bad: bool = False,
    check: Callable[[Record], object] | None = None,
    skipped: list[str] | None = None,
) -> Iterator[tuple[Record, Row]]:
    """Yield each record of some files with all fields of its row, one at a time.

    For stages that write records again and keep what they do not know. Bad lines raise
    InputError as in `read_records`, or are left out with `skip_bad`.

    Args:
        paths: As in `read_records`; `skip_bad` and `check` too.
        skip_bad: Leave bad lines out instead of raising.
        check: Raises InputError for a record that the caller cannot use.
        skipped: Is given what was wrong with each line that is left out.
    """
    bad = (skipped if skipped is not None else []) if skip_bad else None
    for _, row, record in _usable(record_rows(paths), bad, check):
        yield record, row


def _usable(
    rows: Iterator[RawRow],
    skipped: list[str] | None,
    check: Callable[[Record], object] | None,
    texts: Sequence[str] = (),
) -> Iterator[tuple[RawRow, Row, Record]]:
    """Yield the rows that are records, pass the check, and have some more fields of text.

    What is wrong with the others goes to `skipped`, or is raised where that is None.
    """
    for raw in rows:
        try:
            row = raw.parsed()
            record = record_of(row)
            for name in texts:
                text_of(row, name)
            if check is not None:
                check(record)
        except InputError as error:
            if skipped is None:
                raise
            skipped.append(str(error))
            continue
        yield raw, row, record


def record_of(row: Row) -> Record:
    """Return the record of a row.

    Raises:
        InputError: If a field is missing or wrong, naming the origin.
    """
    for name in _NO_FIELDS:
        if row.value.get(name) is not None:
            raise InputError(
                f"{row.origin}: {name} is not read; let stage teach embed the texts, and name its "
                "folder as the source's `teacher`"
            )
    query, positive = _side(row, "query"), _side(row, "positive")
    negatives, titles = _negatives(row)
    return Record(
        query=query,
        positive=positive,
        negatives=negatives,
        task=optional_text_of(row, "task"),
        title=_title(row),
        origin=row.origin,
        negative_titles=titles if any(titles) else (),
    )


def _side(row: Row, name: str) -> str:
    if row.value.get(name) is None:
        missing = wrong_field(row, name, "a text that is not blank")
        raise InputError(f"{missing}; {names_expected(row.value)}")
    return text_of(row, name)


def _negatives(row: Row) -> tuple[tuple[str, ...], tuple[str | None, ...]]:
    """Return the texts of the wrong documents, and the title of each."""
    value = row.value.get("negatives")
    if not isinstance(value, list | None):
        raise wrong_field(row, "negatives", "a list of texts")
    texts: list[str] = []
    titles: list[str | None] = []
    for item in value or ():
        titled = isinstance(item, dict) and "text" in item
        texts.append(
            text_of(Row({"negatives": item["text"] if titled else item}, row.origin), "negatives")
        )
        titles.append(_title(Row(item, row.origin)) if titled else None)
    return tuple(texts), tuple(titles)


def _title(row: Row) -> str | None:
    title = row.value.get("title")
    blank = isinstance(title, str) and not title.strip()
    return None if blank else optional_text_of(row, "title")
