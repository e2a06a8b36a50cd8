"""Rows of any number of files in one order, a chunk of bounded size at a time.

A row is a training record ({"query", "positive", …}) or one text ({"text", …}). Its number is its
place among all rows of all files, bad ones included, so that what is found out about rows in one
pass can be looked up in the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from culet.data.field_names import record_rows
from culet.data.records import record_of
from culet.files.fields import check_unicode, text_of, wrong_field
from culet.files.rows import parse_row

MAX_ROWS, MAX_BYTES = 16_384, 4 << 20  # of a chunk; hashing takes some 30 times its bytes


@dataclass(frozen=True)
class Position:
    """Where a pass over files stands.

    Attributes:
        file: Number of the file.
        row: Rows of that file that are done.
        number: Rows of all files that are done.
    """

    file: int = 0
    row: int = 0
    number: int = 0


@dataclass(frozen=True)
class RowChunk:
    """Some rows of one file, in order.

    Attributes:
        file: Number of the file.
        path: The file.
        first: Number of the first row among all.
        lines: Line (or row of a table) of each, from 1.
        raw: JSON of each.
        after: Where the pass stands behind the chunk.
    """

    file: int
    path: Path
    first: int
    lines: Sequence[int]
    raw: Sequence[bytes]
    after: Position

    def origin(self, place: int) -> str:
        """Return "file:line" of the row at a place of the chunk."""
        return f"{self.path}:{self.lines[place]}"


@dataclass(frozen=True)
class PairOrText:
    """One row as the filters see it.

    Attributes:
        query: What is searched with; None where the row is one text.
        positive: The right document, or the one text.
        negatives: Wrong documents.
        lang: What it declares, or None.
        value: All of it.
        origin: "file:line".
    """

    query: str | None
    positive: str
    negatives: tuple[str, ...]
    lang: str | None
    value: dict[str, Any]
    origin: str

    @property
    def sides(self) -> tuple[str, ...]:
        """The query and the positive, or the one text."""
        return (self.positive,) if self.query is None else (self.query, self.positive)


def chunks(
    files: Sequence[Path],
    start: Position,
    *,
    max_rows: int = MAX_ROWS,
    max_bytes: int = MAX_BYTES,
) -> Iterator[RowChunk]:
    """Yield the rows of files from a position on, in chunks of one file each.

    Raises:
        InputError: If a file cannot be read to its end.
    """
    number = start.number
    for file in range(start.file, len(files)):
        done = start.row if file == start.file else 0
        lines: list[int] = []
        raw: list[bytes] = []
        size = 0
        for row in islice(record_rows([files[file]]), done, None):
            lines.append(row.line)
            raw.append(row.json)
            size += len(row.json)
            if len(raw) == max_rows or size >= max_bytes:
                done += len(raw)
                after = Position(file, done, number + len(raw))
                yield RowChunk(file, files[file], number, lines, raw, after)
                number, lines, raw, size = after.number, [], [], 0
        # also when nothing is left: the position moves to the next file
        after = Position(file + 1, 0, number + len(raw))
        yield RowChunk(file, files[file], number, lines, raw, after)
        number = after.number


def pair_or_text(raw: bytes, origin: str) -> PairOrText:
    """Return a row, checked.

    Raises:
        InputError: Naming the origin, if it is neither a record nor a text.
    """
    row = parse_row(raw, origin)
    value, lang = row.value, row.value.get("lang")
    if lang is not None:
        if not isinstance(lang, str):
            raise wrong_field(row, "lang", "a text")
        check_unicode(lang, "lang", origin)
    if "query" not in value and "positive" not in value and "text" in value:
        return PairOrText(None, text_of(row, "text"), (), lang, value, origin)
    record = record_of(row)
    return PairOrText(record.query, record.positive, record.negatives, lang, value, origin)
