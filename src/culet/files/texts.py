"""Files of texts to embed or to complete, one text a row.

Plain text has one text a line, and a blank line is an empty text, so that row numbers agree with
line numbers. JSONL, CSV and Parquet name the field of the text.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from culet.errors import InputError
from culet.files.delimited import csv_rows, refuse, tsv_rows
from culet.files.fields import check_unicode
from culet.files.rows import (
    RawRow,
    Row,
    format_of,
    is_json_lines,
    json_rows,
    numbered_lines,
    open_parquet,
    parquet_values,
    text_lines,
)
from culet.files.utf8_lines import utf8_lines

From = TypeVar("From")
To = TypeVar("To")

READABLE = (".txt", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class TextRow:
    """One text with what came along with it.

    Attributes:
        text: The text.
        title: Its title, where a field for titles was named and this row has one.
        id: The value of the field "id", where there is one.
    """

    text: str
    title: str | None = None
    id: str | None = None


def read_texts(
    source: str | Path,
    *,
    field: str = "text",
    titles_field: str | None = None,
    on_bad: Callable[[InputError], None] = refuse,
) -> Iterator[TextRow]:
    """Yield the rows of a file, or of standard input for "-".

    Args:
        source: "-" or a .txt file (one text a line), .jsonl, .csv, .tsv (also with .gz), .parquet.
        field: The field or column of the text, where rows have fields.
        titles_field: The field or column of the title, if titles are wanted.
        on_bad: Called with the error of a row that is bad; what it does not raise leaves the row
            out.

    Raises:
        InputError: Unknown format, a field that is not there, a row that is bad; the message names
            file and row.
        MissingExtra: A Parquet file without pyarrow.
    """
    if str(source) == "-":
        if sys.stdin is None:
            raise InputError("standard input is closed; give texts to it, or name a file")
        lines = utf8_lines(sys.stdin.buffer, "standard input")
        return _plain(enumerate(lines, start=1), "standard input", on_bad)
    path = Path(source)
    kind = format_of(path)
    if not path.is_file():
        raise InputError(f"{path} is not a file; expected {', '.join(READABLE)}, or - for stdin")
    if kind == ".txt":
        return _plain(numbered_lines(path), str(path), on_bad)
    rows: Iterable[Row]
    if is_json_lines(path):
        rows = _each(RawRow.parsed, json_rows(path), on_bad)
    elif kind in (".csv", ".tsv"):
        rows = csv_rows(path, on_bad) if kind == ".csv" else tsv_rows(path, on_bad)
    elif kind == ".parquet":
        rows = _parquet_rows(path, field, titles_field)
    else:
        raise InputError(
            f"{path}: cannot read {kind or 'a file without a suffix'}; expected one of "
            f"{', '.join(READABLE)} (all but Parquet also with .gz), or - for stdin"
        )
    return _each(lambda row: text_row(row, field, titles_field), rows, on_bad)


def text_row(row: Row, field: str, titles_field: str | None) -> TextRow:
    """Return the text of a row, with its title if a field is named for it, and its id.

    A null is an empty text, as an empty cell of a CSV is, and no title.

    Raises:
        InputError: If a field is missing, no string, or not valid Unicode.
    """
    for wanted in (field, titles_field):
        if wanted is not None and wanted not in row.value:
            raise _missing(row.origin, wanted, row.value)
    text = "" if row.value[field] is None else row.value[field]
    title = row.value[titles_field] if titles_field is not None else None
    name = row.value.get("id")
    if not isinstance(text, str):
        raise InputError(
            f"{row.origin}: expected a string under {field!r}, got {type(text).__name__}"
        )
    if title is not None and not isinstance(title, str):
        raise InputError(
            f"{row.origin}: expected a string or null under {titles_field!r}, got "
            f"{type(title).__name__}"
        )
    for key, value in ((field, text), (titles_field, title), ("id", name)):
        if isinstance(value, str):
            check_unicode(value, str(key), row.origin)
    return TextRow(text, title, None if name is None else str(name))


def count_texts(source: str | Path) -> int | None:
    """Return how many rows `read_texts` will yield, or None where counting means reading it all."""
    path = Path(source)
    if str(source) == "-" or not path.is_file():
        return None
    kind = path.suffix.lower()
    if kind == ".parquet":
        return int(open_parquet(path).metadata.num_rows)
    if kind not in (".txt", ".jsonl", ".ndjson"):
        return None
    return sum(1 for _, line in numbered_lines(path) if kind == ".txt" or line.strip())


def _plain(
    lines: Iterable[tuple[int, bytes]], name: str, on_bad: Callable[[InputError], None]
) -> Iterator[TextRow]:
    def row(line: tuple[int, bytes]) -> TextRow:
        _, text = next(text_lines((line,), name))
        return TextRow(text.rstrip("\r\n"))

    return _each(row, lines, on_bad)


def _each(
    convert: Callable[[From], To], items: Iterable[From], on_bad: Callable[[InputError], None]
) -> Iterator[To]:
    """Yield what items become, without those that cannot be converted."""
    for item in items:
        try:
            converted = convert(item)
        except InputError as error:
            on_bad(error)
        else:
            yield converted


def _parquet_rows(path: Path, field: str, titles_field: str | None) -> Iterator[Row]:
    known = open_parquet(path).schema_arrow.names
    for wanted in (field, titles_field):
        if wanted is not None and wanted not in known:
            raise _missing(str(path), wanted, known)
    columns = [name for name in (field, titles_field, "id") if name is not None]
    for number, value in enumerate(parquet_values(path, columns), start=1):
        yield Row(value, f"{path}:{number}")


def _missing(origin: str, wanted: str, known: Iterable[str]) -> InputError:
    there = ", ".join(map(repr, known)) or "none"
    return InputError(f"{origin}: there is no field {wanted!r}; there are {there}")
