"""Files of texts, read as a stream of rows.

Plain text has one text a line, and a blank line is an empty text, so that row numbers agree with
line numbers. JSONL, CSV and Parquet name the field of the text. Every message names file and row.
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from culet.errors import InputError, need

READABLE = (".txt", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
_LONGEST_CSV_FIELD_CHARS = 1 << 27
_PARQUET_ROWS = 1024


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
    source: str | Path, *, field: str = "text", titles_field: str | None = None
) -> Iterator[TextRow]:
    """Yield the rows of a file, or of standard input for "-".

    Args:
        source: "-" or a .txt file (one text a line), .jsonl, .csv, .tsv (also with .gz), .parquet.
        field: The field or column of the text, where rows have fields.
        titles_field: The field or column of the title, if titles are wanted.

    Raises:
        InputError: Unknown kind of file, a field that is not there, a row that is bad; the message
            names file and row.
        MissingExtra: A Parquet file without pyarrow.
    """
    if str(source) == "-":
        return _plain_rows(enumerate(sys.stdin.buffer, start=1), "standard input")
    path = Path(source)
    kind = _suffix(path)
    if not path.is_file():
        raise InputError(f"{path} is not a file; expected {', '.join(READABLE)}, or - for stdin")
    if kind in (".jsonl", ".ndjson"):
        return _json_rows(path, field, titles_field)
    if kind in (".csv", ".tsv"):
        return _csv_rows(path, field, titles_field, "," if kind == ".csv" else "\t")
    if kind == ".parquet":
        return _parquet_rows(path, field, titles_field)
    if kind == ".txt":
        return _plain_rows(_lines(path), str(path))
    raise InputError(
        f"{path}: cannot read {kind or 'a file without a suffix'}; expected one of "
        f"{', '.join(READABLE)} (all but Parquet also with .gz), or - for stdin"
    )


def count_texts(source: str | Path) -> int | None:
    """Return how many rows `read_texts` will yield, or None where counting means reading it all."""
    path = Path(source)
    if str(source) == "-" or not path.is_file():
        return None
    kind = path.suffix.lower()
    if kind == ".parquet":
        return int(_parquet_file(path).metadata.num_rows)
    if kind not in (".txt", ".jsonl", ".ndjson"):
        return None
    return sum(1 for _, line in _lines(path) if kind == ".txt" or line.strip())


def is_json_lines(path: Path) -> bool:
    """Return whether a file is a JSONL, by its name."""
    return _suffix(path) in (".jsonl", ".ndjson")


def read_json_lines(
    path: Path, *, on_bad_line: Callable[[int, str], None] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of each line of a JSONL that is not blank.

    Args:
        path: Plain or gzipped.
        on_bad_line: Called with line number and reason in place of raising.

    Raises:
        InputError: A line is no JSON object, naming file and line, and nothing handles it.
    """
    for number, raw in _lines(path):
        if not raw.strip():
            continue
        try:
            record = json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
            if not isinstance(record, dict):
                raise ValueError(f"got {type(record).__name__}")
        except (ValueError, RecursionError) as error:  # among them what is not UTF-8 or not JSON
            reason = f"expected a JSON object on the line: {error}"
            if on_bad_line is None:
                raise InputError(f"{path}:{number}: {reason}") from None
            on_bad_line(number, reason)
            continue
        yield number, record


def check_unicode(text: str, place: str) -> None:
    """Raise InputError if a text holds half of a pair of surrogates, which no tokenizer reads.

    Args:
        text: The text. JSON can spell such a half, UTF-8 cannot.
        place: File and line, and what the text is, for the message.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{place} is not valid Unicode: a lone surrogate at character {error.start}; whatever "
            "wrote it cut a character in two: write it again, or put U+FFFD in its place"
        ) from None


def _plain_rows(lines: Iterable[tuple[int, bytes]], place: str) -> Iterator[TextRow]:
    for number, raw in lines:
        yield TextRow(_utf8(raw, number, place).rstrip("\r\n"))


def _json_rows(path: Path, field: str, titles_field: str | None) -> Iterator[TextRow]:
    for number, record in read_json_lines(path):
        yield _row(record, field, titles_field, f"{path}:{number}")


def _csv_rows(
    path: Path, field: str, titles_field: str | None, delimiter: str
) -> Iterator[TextRow]:
    csv.field_size_limit(_LONGEST_CSV_FIELD_CHARS)
    lines = (_utf8(raw, number, str(path)) for number, raw in _lines(path))
    reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
    try:
        for record in reader:
            place = f"{path}:{reader.line_num}"
            if None in record or None in record.values():
                raise InputError(
                    f"{place}: this row has another number of columns than the header "
                    f"({len(reader.fieldnames or ())}); put quotes around texts with commas"
                )
            yield _row(record, field, titles_field, place)
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num + 1}: cannot be read: {error}") from None


def _parquet_rows(path: Path, field: str, titles_field: str | None) -> Iterator[TextRow]:
    file = _parquet_file(path)
    known = file.schema_arrow.names
    for wanted in (field, titles_field):
        if wanted is not None and wanted not in known:
            raise InputError(_missing_field(str(path), wanted, known))
    wanted_ones = dict.fromkeys((field, titles_field, "id"))
    columns = [name for name in wanted_ones if name is not None and name in known]
    for number, record in _parquet_records(path, file, columns):
        yield _row(record, field, titles_field, f"{path}: row {number}")


def _parquet_records(
    path: Path, file: Any, columns: list[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    try:
        for batch in file.iter_batches(_PARQUET_ROWS, columns=columns):
            for record in batch.to_pylist():
                number += 1
                yield number, record
    except (OSError, ValueError, NotImplementedError) as error:  # what pyarrow raises
        raise InputError(
            f"{path}: row {number + 1}, or one soon after it, cannot be read: {error}"
        ) from error


def _parquet_file(path: Path) -> Any:
    parquet = need("pyarrow.parquet", extra="parquet", purpose="reading Parquet")
    try:
        return parquet.ParquetFile(path)
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        raise InputError(f"{path} cannot be read as Parquet: {error}") from None


def _row(record: dict[str, Any], field: str, titles_field: str | None, place: str) -> TextRow:
    for wanted in (field, titles_field):
        if wanted is not None and wanted not in record:
            raise InputError(_missing_field(place, wanted, list(record)))
    text = record[field]
    title = record[titles_field] if titles_field is not None else None
    name = record.get("id")
    if not isinstance(text, str):
        raise InputError(f"{place}: expected a string in {field!r}, got {type(text).__name__}")
    if title is not None and not isinstance(title, str):
        raise InputError(
            f"{place}: expected a string or null in {titles_field!r}, got {type(title).__name__}"
        )
    for what, value in ((field, text), (titles_field, title), ("id", name)):
        if isinstance(value, str):
            check_unicode(value, f"{place}: the field {what!r}")
    return TextRow(text, title, None if name is None else str(name))


def _missing_field(place: str, wanted: str, known: list[str]) -> str:
    return (
        f"{place}: there is no field {wanted!r}; there are {', '.join(map(repr, known)) or 'none'}"
    )


def _suffix(path: Path) -> str:
    """Return the suffix that tells the format, looking through .gz."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix == ".gz" else suffix


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file, gzipped or not, with their numbers; every failure names one."""
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                yield number, raw
    except (EOFError, OSError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"{path}:{number + 1}: cannot be read: {reason}") from error


def _utf8(raw: bytes, number: int, place: str) -> str:
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{place}:{number}: not UTF-8 ({error.reason} at byte {error.start}); convert it to "
            "UTF-8"
        ) from None
