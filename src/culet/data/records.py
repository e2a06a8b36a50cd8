"""Training records from JSONL and Parquet files, checked once, kept compactly.

A record is one line or row:

    query      text                                     required
    positive   text of the right document               required
    negatives  list of texts of wrong documents         optional
    task       a task of culet.text.prompts                  optional, the source's task otherwise
    title      title of the positive document           optional
    teacher_query, teacher_positive, teacher_negatives  optional: vectors (lists of numbers), or
               keys (strings) into the source's teacher file

Other fields are ignored. Every line is parsed and checked before training begins, so that a bad
one is reported with its file and line in the first second and not in the third hour.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from culet.errors import InputError, need

_SUFFIXES = (".jsonl", ".jsonl.gz", ".json.gz", ".parquet")
_ROLES = ("query", "positive", "negatives")
_FIELDS = (*_ROLES, "task", "title", *(f"teacher_{role}" for role in _ROLES))


@dataclass(frozen=True)
class Record:
    """One training pair with its hard negatives.

    Attributes:
        query: What is searched with.
        positive: The right document.
        negatives: Wrong documents for this query.
        task: A task name, or None for the source's.
        title: Title of the positive, or None.
        teacher: Role ("query", "positive", "negatives") to a vector or key, or a list of them.
        origin: "file:line", for messages.
    """

    query: str
    positive: str
    negatives: tuple[str, ...] = ()
    task: str | None = None
    title: str | None = None
    teacher: dict[str, Any] | None = None
    origin: str = ""


class Records(Sequence[Record]):
    """Many records in one block of bytes; a record is parsed when it is asked for."""

    def __init__(self, files: list[str], blob: bytes, spans: np.ndarray, lines: np.ndarray) -> None:
        self._files = files
        self._blob = blob
        self._spans = spans  # R 2, int64: start and stop in the blob
        self._lines = lines  # R 2, int64: file and line (or row) number from 1
        self.skipped: tuple[str, ...] = ()
        self.groups = np.zeros(len(spans), dtype=np.int64)  # R: number of each record's group

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        start, stop = self._spans[index]
        file, line = self._lines[index]
        return record_of(json.loads(self._blob[start:stop]), f"{self._files[file]}:{line}")


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
    files = [file for path in paths for file in data_files(path)]
    blobs, spans, lines, skipped, position = [], [], [], [], 0
    groups, numbers = [], {}  # type: list[int], dict[tuple[str, ...], int]
    for number, file in enumerate(files):
        for line, raw in raw_rows(file, also=group_by):
            origin = f"{file}:{line}"
            try:
                row = parsed_row(raw, origin)
                record = record_of(row, origin)
                group = tuple(text_field(row, name, origin) for name in group_by)
                if check is not None:
                    check(record)
            except InputError as error:
                if not skip_bad:
                    raise
                skipped.append(str(error))
                continue
            blobs.append(raw)
            groups.append(numbers.setdefault(group, len(numbers)))
            spans.append((position, position + len(raw)))
            lines.append((number, line))
            position += len(raw)
    if not spans:
        raise InputError(f"no usable record in {', '.join(map(str, paths))}")
    records = Records(
        [str(file) for file in files], b"".join(blobs), np.array(spans), np.array(lines)
    )
    records.skipped = tuple(skipped)
    records.groups = np.array(groups)
    return records


def stream_records(
    paths: Sequence[Path],
    *,
    skip_bad: bool = False,
    check: Callable[[Record], object] | None = None,
    skipped: list[str] | None = None,
) -> Iterator[tuple[Record, dict[str, Any]]]:
    """Yield each record of some files with all fields of its line, one at a time.

    For stages that write records again and keep what they do not know. Bad lines raise
    InputError as in `read_records`, or are left out with `skip_bad`.

    Args:
        paths: As in `read_records`; `skip_bad` and `check` too.
        skip_bad: Leave bad lines out instead of raising.
        check: Raises InputError for a record that the caller cannot use.
        skipped: Is given what was wrong with each line that is left out.
    """
    for file in (file for path in paths for file in data_files(path)):
        for line, raw in raw_rows(file, also=None):
            origin = f"{file}:{line}"
            try:
                row = parsed_row(raw, origin)
                record = record_of(row, origin)
                if check is not None:
                    check(record)
            except InputError as error:
                if not skip_bad:
                    raise
                if skipped is not None:
                    skipped.append(str(error))
                continue
            yield record, row


def data_files(path: Path) -> list[Path]:
    """Return the file, or the training files of the folder, sorted by name.

    A folder without any may hold folders of them, one a source.

    Raises:
        InputError: If there is none, or its name ends in none of the known ways.
    """
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.name.endswith(_SUFFIXES) and f.is_file())
        if not files:  # a folder of sources, as the stage `prepare` leaves it
            files = sorted(
                f for f in path.glob("*/*") if f.name.endswith(_SUFFIXES) and f.is_file()
            )
        if not files:
            raise InputError(f"{path} holds no file ending in {', '.join(_SUFFIXES)}")
        return files
    if not path.exists():
        raise InputError(f"training data {path} does not exist")
    if not path.name.endswith(_SUFFIXES):
        raise InputError(f"{path}: expected a file ending in {', '.join(_SUFFIXES)}")
    return [path]


def raw_rows(path: Path, *, also: Sequence[str] | None) -> Iterator[tuple[int, bytes]]:
    """Yield (line or row number from 1, JSON bytes), of a table with `also` or with all columns."""
    if path.name.endswith(".parquet"):
        yield from _parquet_rows(path, also)
        return
    try:
        with gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if stripped := raw.strip():
                    yield number, stripped
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read {path} to its end: {error}") from error


def _parquet_rows(path: Path, also: Sequence[str] | None) -> Iterator[tuple[int, bytes]]:
    pq = need("pyarrow.parquet", extra="parquet", purpose=f"reading {path}")
    number = 0
    try:
        file = pq.ParquetFile(path)
        columns = file.schema_arrow.names
        if also is not None:
            columns = [name for name in columns if name in (*_FIELDS, *also)]
        for field in file.schema_arrow:
            if field.name in columns and _holds_bytes(field.type):
                raise InputError(
                    f"{path}: the column {field.name} holds bytes, expected text, numbers or "
                    "dates; write the file without it, or with it as text"
                )
        for batch in file.iter_batches(batch_size=4096, columns=columns):
            for row in batch.to_pylist():
                number += 1
                kept = {key: value for key, value in row.items() if value is not None}
                yield number, _json(kept).encode()
    except InputError:
        raise
    except Exception as error:  # pyarrow raises its own kinds
        raise InputError(
            f"{path} is not a readable Parquet file after row {number}: {error}"
        ) from error


def _holds_bytes(kind: Any) -> bool:
    """Return whether a type of pyarrow, or one inside it, is one of bytes."""
    parts = [kind.field(i).type for i in range(kind.num_fields)]
    # the names of types differ between versions, and all of these say "binary"
    return any(map(_holds_bytes, parts)) if parts else "binary" in str(kind)


def _json(row: dict[str, Any]) -> str:
    try:
        return json.dumps(row, default=_plain, allow_nan=False)
    except ValueError:  # rare, so that only such rows are walked through
        return json.dumps(_finite(row), default=_plain)


def _plain(value: Any) -> str:
    """Return as text what JSON has no way to say: ISO for dates and times, digits for decimals."""
    return str(value.isoformat() if hasattr(value, "isoformat") else value)


def _finite(value: Any) -> Any:
    """Return a value with None for NaN and the infinities, which are no JSON."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def parsed_row(raw: bytes, origin: str, *, fields: str = "query and positive") -> dict[str, Any]:
    """Return the object of a line; `fields` says in a message what it should hold."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{origin}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{origin}: expected an object with {fields}, got {value!r:.80}")
    return value


def record_of(row: dict[str, Any], origin: str) -> Record:
    """Return the record of a parsed row.

    Raises:
        InputError: If a field is missing or wrong, naming the origin.
    """
    negatives = row.get("negatives")
    negatives = [] if negatives is None else negatives
    if not isinstance(negatives, list):
        raise InputError(f"{origin}: negatives must be a list of texts, got {negatives!r:.80}")
    teacher = {
        role: row[f"teacher_{role}"] for role in _ROLES if row.get(f"teacher_{role}") is not None
    }
    theirs = teacher.get("negatives", negatives)
    if not isinstance(theirs, list):
        raise InputError(f"{origin}: teacher_negatives must be a list, got {theirs!r:.80}")
    if len(theirs) != len(negatives):
        raise InputError(
            f"{origin}: teacher_negatives has {len(theirs)} entries for {len(negatives)} negatives"
        )
    title = row.get("title")
    blank = title is None or (isinstance(title, str) and not title.strip())
    return Record(
        query=text_field(row, "query", origin),
        positive=text_field(row, "positive", origin),
        negatives=tuple(text_field({"negatives": n}, "negatives", origin) for n in negatives),
        task=text_field(row, "task", origin) if row.get("task") is not None else None,
        title=None if blank else text_field(row, "title", origin),
        teacher=teacher or None,
        origin=origin,
    )


def text_field(row: dict[str, Any], key: str, origin: str) -> str:
    """Return a text of a row; raise InputError if it is missing, empty or no valid Unicode."""
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{origin}: {key} must be a text that is not empty, got {value!r:.80}")
    check_unicode(value, key, origin)
    return value


def check_unicode(text: str, key: str, origin: str) -> None:
    """Raise InputError if a text holds half of a surrogate pair, which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{origin}: {key} is not valid Unicode: {error}") from error
