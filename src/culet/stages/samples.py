"""Sizes of the texts that a stage would read, estimated from the beginning of each file."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from culet.data.field_names import own_names
from culet.errors import CuletError
from culet.files.rows import open_parquet, raw_rows

_READ_BYTES = 8 << 20  # of a file; the rest is assumed to be similar
_PARSED_ROWS = 200  # of a file, evenly spread over what is read
_BYTES_PER_TOKEN = 4.0  # UTF-8; 2.6 to 3.9 with 14,336 tokens on recipes/small.toml, more with more
_AROUND = 8  # tokens of a prompt, BOS and EOS


@dataclass(frozen=True)
class Texts:
    """The sizes of one row's texts, in bytes of UTF-8.

    Attributes:
        sides: Query and positive, or input and target, or the one text.
        negatives: Wrong documents.
        escaped: Bytes of all of them as JSON in ASCII, without those yet to be mined.
        to_come: How many of the last negatives are yet to be mined: documents of other rows.
    """

    sides: tuple[int, ...]
    negatives: tuple[int, ...] = ()
    escaped: int = 0
    to_come: int = 0

    @property
    def own(self) -> tuple[int, ...]:
        """Return the sizes of the texts that belong to this row alone."""
        return (*self.sides, *self.negatives[: len(self.negatives) - self.to_come])


@dataclass(frozen=True)
class Part:
    """An estimate of one file.

    Attributes:
        rows: About how many rows it has.
        row_bytes: Mean size of a row as JSON.
        packed_bytes: Mean size of a row in a gzipped file.
        sample: Some rows.
    """

    rows: float
    row_bytes: float
    packed_bytes: float
    sample: tuple[Texts, ...]

    def total(self, of: Callable[[Texts], float]) -> float:
        """Return the sum of a quantity over its rows."""
        return self.rows * sum(map(of, self.sample)) / len(self.sample)


@dataclass(frozen=True)
class Rows:
    """The rows behind a path, file by file."""

    parts: tuple[Part, ...]

    @property
    def count(self) -> float:
        """Return about how many there are."""
        return sum(part.rows for part in self.parts)

    @property
    def bytes(self) -> float:
        """Return their size as JSON."""
        return sum(part.rows * part.row_bytes for part in self.parts)

    @property
    def packed(self) -> float:
        """Return their size gzipped."""
        return sum(part.rows * part.packed_bytes for part in self.parts)

    def total(self, of: Callable[[Texts], float]) -> float:
        """Return the sum of a quantity over all rows, extrapolated from the sampled ones."""
        return sum(part.total(of) for part in self.parts)

    def mean(self, of: Callable[[Texts], float]) -> float:
        """Return the mean of a quantity over all rows."""
        return self.total(of) / self.count


def tokens(size: float, limit: float = float("inf")) -> float:
    """Return about how many tokens a text of `size` bytes has with its prompt, at most `limit`."""
    return min(limit, size / _BYTES_PER_TOKEN + _AROUND)


def joined(found: Iterable[Rows | None]) -> Rows | None:
    """Return all rows together; None if some are unknown, or there are none."""
    known = list(found)
    parts = [part for rows in known if rows is not None for part in rows.parts]
    return Rows(tuple(parts)) if parts and None not in known else None


def mined(rows: Rows, number: int, *, keep_given: bool) -> Rows:
    """Return rows with `number` mined negatives each, of the positives' mean length."""
    size = rows.mean(lambda texts: texts.sides[-1])

    def with_negatives(texts: Texts) -> Texts:
        given = texts.negatives if keep_given else ()
        return replace(texts, negatives=(*given, *[round(size)] * number), to_come=number)

    return Rows(
        tuple(
            replace(
                part,
                row_bytes=part.row_bytes + number * size,
                sample=tuple(with_negatives(texts) for texts in part.sample),
            )
            for part in rows.parts
        )
    )


def look_at(file: Path) -> Part | None:
    """Return an estimate of a file from its beginning; None if that holds no usable row."""
    try:
        lines, share = _table(file) if file.name.endswith(".parquet") else _lines(file)
    except (CuletError, OSError, EOFError, zlib.error):
        return None  # the stage reports what is wrong
    spread = lines[:: max(1, len(lines) // _PARSED_ROWS)]
    spread = [record for line in spread for record in own_names(line)]
    sample = tuple(texts for texts in map(texts_of, spread) if texts is not None)
    if not sample:
        return None
    mean = sum(map(len, spread)) / len(spread) + 1
    packed = len(zlib.compress(b"\n".join(spread), 5)) / len(spread)
    rows = len(lines) / share
    if file.name.endswith(".gz"):
        packed = file.stat().st_size / rows
    return Part(rows, mean, packed, sample)


def _lines(file: Path) -> tuple[list[bytes], float]:
    """Return the first lines of a file, and their share of the whole."""
    size = file.stat().st_size
    with file.open("rb") as raw:
        if file.name.endswith(".gz"):
            with gzip.GzipFile(fileobj=raw) as packed:
                text = packed.read(_READ_BYTES)
                share = 1.0 if not packed.peek(1) else raw.tell() / size
        else:
            text = raw.read(_READ_BYTES)
            share = len(text) / size if size else 1.0
    lines = text.split(b"\n")
    if share < 1 and len(lines) > 1:
        share *= 1 - len(lines.pop()) / len(text)
    return [line for line in lines if line.strip()], share


def _table(file: Path) -> tuple[list[bytes], float]:
    """Return the first rows of a table, and their share of the whole."""
    rows = [row.json for row in islice(raw_rows([file]), _PARSED_ROWS)]
    total = open_parquet(file).metadata.num_rows
    return rows, len(rows) / total if total else 1.0


def texts_of(line: bytes) -> Texts | None:
    """Return the sizes of a row's texts; None if it has no known form."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    for fields in (("query", "positive"), ("input", "target"), ("s", "r", "o"), ("text",)):
        sides = _strings(row.get(field) for field in fields)
        if len(sides) == len(fields):
            given = row.get("negatives")
            negatives = _strings(map(_text, given)) if isinstance(given, list) else []
            return Texts(
                tuple(map(_size, sides)),
                tuple(map(_size, negatives)),
                sum(len(json.dumps(text)) for text in (*sides, *negatives)),
            )
    return None


def _text(item: Any) -> Any:
    return item.get("text") if isinstance(item, dict) else item


def _strings(values: Iterable[Any]) -> list[str]:
    return [value for value in values if isinstance(value, str)]


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
