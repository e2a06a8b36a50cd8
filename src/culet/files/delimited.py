"""Tables in text: CSV with quotes as in RFC 4180, and TSV without any, both with a header line."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

from culet.errors import InputError
from culet.files.rows import Row, numbered_lines, text_lines
from culet.files.unique_json import repeated

_LONGEST_CSV_FIELD_CHARS = 1 << 27


def refuse(error: InputError) -> None:
    """Raise the error of a bad row: what is done with one unless it may be left out."""
    raise error


def csv_rows(path: Path, on_bad: Callable[[InputError], None] = refuse) -> Iterator[Row]:
    """Yield the rows of a CSV with a header line, texts in quotes over several lines allowed."""
    csv.field_size_limit(_LONGEST_CSV_FIELD_CHARS)
    lines = (line for _, line in text_lines(numbered_lines(path), str(path)))
    reader = csv.reader(lines, strict=True)

    def cells() -> Iterator[tuple[str, list[str]]]:
        try:
            for row in reader:
                if row:
                    yield f"{path}:{reader.line_num}", row
        except csv.Error as error:
            raise InputError(f"{path}:{reader.line_num + 1}: cannot be read: {error}") from None

    return _table(cells(), on_bad, "put quotes around texts with commas")


def tsv_rows(path: Path, on_bad: Callable[[InputError], None] = refuse) -> Iterator[Row]:
    """Yield the rows of a TSV with a header line: a row a line, and a quote is only a quote."""
    lines = text_lines(numbered_lines(path), str(path))
    texts = ((origin, text.rstrip("\r\n")) for origin, text in lines)
    cells = ((origin, text.split("\t")) for origin, text in texts if text)
    advice = "a text in a TSV has no tabs and no line ends: use CSV or JSONL for such"
    return _table(cells, on_bad, advice)


def _table(
    cells: Iterator[tuple[str, list[str]]], on_bad: Callable[[InputError], None], advice: str
) -> Iterator[Row]:
    """Yield the rows below a header, given the cells of each with its origin."""
    origin, header = next(cells, ("", []))
    if (twice := repeated(header)) is not None:
        raise InputError(f"{origin}: the header names the column {twice!r} twice; rename one")
    for origin, row in cells:
        if len(row) != len(header):
            on_bad(
                InputError(
                    f"{origin}: this row has another number of columns than the header "
                    f"({len(header)}); {advice}"
                )
            )
            continue
        yield Row(dict(zip(header, row, strict=True)), origin)
