"""Rows of evaluation files, each knowing the file and line it came from, and its checked fields."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from culet.errors import InputError

Value = TypeVar("Value")


@dataclass(frozen=True)
class Row:
    """One JSON object and its place, for messages."""

    value: dict[str, Any]
    place: str


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (file:line, text) of each line of a UTF-8 file, gzipped if only `<path>.gz` exists.

    Raises:
        InputError: when neither file exists, or its bytes are damaged.
    """
    packed = path.with_name(path.name + ".gz")
    if not path.exists() and not packed.exists():
        raise InputError(f"{path}: no such file, nor {packed.name}; the task needs one of them")
    source = path if path.exists() else packed
    number = 0
    try:
        with gzip.open(source, "rb") if source == packed else source.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield f"{source}:{number}", line.decode("utf-8").rstrip("\r\n")
    except (EOFError, OSError, UnicodeDecodeError, zlib.error) as error:
        raise InputError(
            f"{source}:{number + 1}: expected whole lines of UTF-8, got {error}; fetch it again"
        ) from None


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the JSON object of each line.

    Raises:
        InputError: naming file and line, when a line is not a JSON object.
    """
    for place, line in read_lines(path):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place}: expected a JSON object, got {error}") from None
        if not isinstance(value, dict):
            raise InputError(f"{place}: expected a JSON object, got {type(value).__name__}")
        yield Row(value, place)


def read_qrels(
    path: Path, *, queries: Container[str], documents: Container[str]
) -> dict[str, dict[str, int]]:
    """Read tab-separated judgements (query-id, corpus-id, score) below one header line.

    Raises:
        InputError: naming file and line, for a wrong column count, a gain that is not a whole
            number, or an id that no query or document has.
    """
    qrels: dict[str, dict[str, int]] = {}
    lines = read_lines(path)
    next(lines, None)
    for place, line in lines:
        columns = line.split("\t")
        if len(columns) != 3:
            raise InputError(f"{place}: expected 3 tab-separated columns, got {len(columns)}")
        query, document, text = columns
        if query not in queries:
            raise InputError(f"{place}: expected the id of a query, got {query!r}")
        if document not in documents:
            raise InputError(f"{place}: expected the id of a document, got {document!r}")
        try:
            gain = float(text)
        except ValueError:
            gain = math.nan
        qrels.setdefault(query, {})[document] = _whole(gain, place)
    return qrels


def text_of(row: Row, key: str) -> str:
    """Return a text that is not empty."""
    value = row.value.get(key)
    if not isinstance(value, str) or not value:
        raise _wrong(row, key, "a non-empty string")
    return value


def texts_of(row: Row, key: str, *, least: int) -> tuple[str, ...]:
    """Return a list of at least so many texts."""
    value = row.value.get(key)
    if (
        not isinstance(value, list)
        or len(value) < least
        or not all(isinstance(text, str) and text for text in value)
    ):
        raise _wrong(row, key, f"a list of at least {least} non-empty strings")
    return tuple(value)


def label_of(row: Row, key: str) -> str:
    """Return a label as text; whole numbers are written out."""
    value = row.value.get(key)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise _wrong(row, key, "a label (a string or a whole number)")
    return str(value)


def ident_of(row: Row, key: str, *, unlike: Container[str]) -> str:
    """Return an id that none of the earlier rows has."""
    value = text_of(row, key)
    if value in unlike:
        raise _wrong(row, key, "an id of its own (an earlier row has it)")
    return value


def number_of(row: Row, key: str) -> float:
    """Return a finite number."""
    value = row.value.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _wrong(row, key, "a finite number")
    return float(value)


def numbers_of(row: Row, key: str, *, like: Sequence[str]) -> tuple[int, ...]:
    """Return one whole gain above zero for each text of `like`; all 1 when the key is absent."""
    value = row.value.get(key)
    if value is None:
        return (1,) * len(like)
    if not isinstance(value, list) or len(value) != len(like):
        raise _wrong(row, key, f"a list of {len(like)} gains, one for each positive")
    gains = tuple(_whole(float(gain), row.place) for gain in value)
    if min(gains) < 1:
        raise _wrong(row, key, "gains above zero")
    return gains


def choice_of(row: Row, key: str, known: Sequence[Value]) -> Value:
    """Return a value that is among the known ones."""
    value = row.value.get(key)
    if isinstance(value, bool) or value not in known:
        listed = ", ".join(map(str, known[:10])) + (" ..." if len(known) > 10 else "")
        raise _wrong(row, key, f"one of {listed}")
    return known[known.index(value)]


def _whole(gain: float, place: str) -> int:
    if not math.isfinite(gain) or gain != int(gain):
        raise InputError(f"{place}: expected a whole number as gain, got {gain}")
    return int(gain)


def _wrong(row: Row, key: str, expected: str) -> InputError:
    found = repr(row.value.get(key)) if key in row.value else "nothing"
    return InputError(
        f"{row.place}: expected {expected} under {key!r}, got {found[:80]}; correct the line"
    )
