"""Files of rows, read as a stream: JSONL, CSV, TSV, Parquet and plain text, gzipped or not.

Every row knows its origin, "file:line" or "file:row" of a table, and every failure names one.
Training data is JSONL or Parquet, in files or folders; a row of Parquet becomes the JSON that a
line would hold, so that all that follows knows one form.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from culet.errors import InputError, need
from culet.files.unique_json import parse_json, repeated
from culet.files.utf8_lines import utf8_lines

_DATA_SUFFIXES = (".jsonl", ".jsonl.gz", ".json.gz", ".parquet")
_PARQUET_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Row:
    """The fields of a row, and where it stands, for messages."""

    value: dict[str, Any]
    origin: str


class RawRow(NamedTuple):
    """A row as JSON, not yet parsed.

    Attributes:
        path: The file.
        line: Its line, or its row in a table, from 1.
        json: The bytes.
    """

    path: Path
    line: int
    json: bytes

    @property
    def origin(self) -> str:
        """Return "file:line"."""
        return f"{self.path}:{self.line}"

    def parsed(self) -> Row:
        """Return its fields; raise InputError if it is no JSON object."""
        return parse_row(self.json, self.origin)


def parse_row(raw: bytes, origin: str) -> Row:
    """Return the fields of a line of JSON.

    Raises:
        InputError: If it is no JSON object, naming the origin.
    """
    try:
        value = parse_json(raw)
    except (ValueError, RecursionError) as error:  # bytes that are not UTF-8 among them
        raise InputError(f"{origin}: expected a JSON object, got invalid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{origin}: expected a JSON object, got {value!r:.80}")
    return Row(value, origin)


def data_files(*paths: Path) -> list[Path]:
    """Return the files of training data behind some paths: files, or those of folders by name.

    A folder without any may hold folders of them, one a source, as stage `prepare` leaves it.

    Raises:
        InputError: If there is none behind a path, or a file's name has another ending.
    """
    return [file for path in paths for file in _files_behind(path)]


def _files_behind(path: Path) -> list[Path]:
    if path.is_dir():
        for pattern in ("*", "*/*"):
            found = (f for f in path.glob(pattern) if f.name.endswith(_DATA_SUFFIXES))
            if files := sorted(file for file in found if file.is_file()):
                return files
        raise InputError(f"{path} holds no file ending in {', '.join(_DATA_SUFFIXES)}")
    if not path.exists():
        raise InputError(f"training data {path} does not exist")
    if not path.name.endswith(_DATA_SUFFIXES):
        raise InputError(f"{path}: expected a file ending in {', '.join(_DATA_SUFFIXES)}")
    return [path]


def raw_rows(paths: Iterable[Path], *, columns: Container[str] | None = None) -> Iterator[RawRow]:
    """Yield the rows of training data as JSON, file by file.

    Args:
        paths: Files or folders, as for `data_files`.
        columns: What is read of a table; None for all of it. Lines come as they are.

    Raises:
        InputError: If a path or file cannot be read.
    """
    for file in data_files(*paths):
        if file.name.endswith(".parquet"):
            for number, value in enumerate(parquet_values(file, columns), start=1):
                known = {key: item for key, item in value.items() if item is not None}
                yield RawRow(file, number, _json(known).encode())
        else:
            yield from json_rows(file)


def read_rows(paths: Iterable[Path], *, columns: Container[str] | None = None) -> Iterator[Row]:
    """Yield the rows of training data; arguments and errors are those of `raw_rows`.

    Raises:
        InputError: If a line is no JSON object, too.
    """
    return (raw.parsed() for raw in raw_rows(paths, columns=columns))


def json_rows(path: Path) -> Iterator[RawRow]:
    """Yield the lines of one JSONL that are not blank."""
    for number, raw in numbered_lines(path):
        if stripped := raw.strip():
            yield RawRow(path, number, stripped)


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file with their numbers from 1."""
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as file:
            for number, raw in enumerate(utf8_lines(file, str(path)), start=1):
                yield number, raw
    except (EOFError, OSError, UnicodeError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"{path}:{number + 1}: cannot be read: {reason}") from error


def text_lines(lines: Iterable[tuple[int, bytes]], name: str) -> Iterator[tuple[str, str]]:
    """Yield "name:line" and the text of each line, its end included."""
    for number, raw in lines:
        origin = f"{name}:{number}"
        try:
            yield origin, raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{origin}: not UTF-8 ({error.reason} at byte {error.start}); convert it to UTF-8"
            ) from None


def format_of(path: Path) -> str:
    """Return the suffix that tells a file's format, looking through .gz."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix == ".gz" else suffix


def is_json_lines(path: Path) -> bool:
    """Return whether a file is a JSONL, by its name."""
    return format_of(path) in (".jsonl", ".ndjson")


def open_parquet(path: Path) -> Any:
    """Return an opened `pyarrow.parquet.ParquetFile`."""
    parquet = need("pyarrow.parquet", extra="parquet", purpose=f"reading {path}")
    try:
        return parquet.ParquetFile(path)
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        raise InputError(f"{path} cannot be read as Parquet: {error}") from None


def parquet_values(path: Path, columns: Container[str] | None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file, None where a value is missing.

    Args:
        path: The file.
        columns: Those that are read if they are there; None for all.

    Raises:
        InputError: If it is damaged, or one of the columns holds bytes.
    """
    file = open_parquet(path)
    schema = [f for f in file.schema_arrow if columns is None or f.name in columns]
    if (twice := repeated([field.name for field in schema])) is not None:
        raise InputError(f"{path} has the column {twice!r} twice; rename one")
    for field in schema:
        if _holds_bytes(field.type):
            raise InputError(
                f"{path}: the column {field.name} holds bytes, expected text, numbers or "
                "dates; write the file without it, or with it as text"
            )
    number = 0
    try:
        for batch in file.iter_batches(_PARQUET_ROWS, columns=[field.name for field in schema]):
            for value in batch.to_pylist():
                number += 1
                yield value
    except (OSError, ValueError, NotImplementedError) as error:  # what pyarrow raises
        raise InputError(
            f"{path}: row {number + 1}, or one soon after it, cannot be read: {error}"
        ) from error


def _holds_bytes(kind: Any) -> bool:
    """Return whether a type of pyarrow, or one inside it, is one of bytes."""
    parts = [kind.field(i).type for i in range(kind.num_fields)]
    # the names of types differ between versions, and all of these say "binary"
    return any(map(_holds_bytes, parts)) if parts else "binary" in str(kind)


def _json(value: dict[str, Any]) -> str:
    try:
        return json.dumps(value, default=_as_text, allow_nan=False)
    except ValueError:  # rare, so that only such rows are walked through
        return json.dumps(_finite(value), default=_as_text)


def _as_text(value: Any) -> str:
    """Return what JSON has no type for: ISO for dates and times, digits for decimals."""
    return str(value.isoformat() if hasattr(value, "isoformat") else value)


def _finite(value: Any) -> Any:
    """Return a value with None for NaN and the infinities, which are no JSON."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
