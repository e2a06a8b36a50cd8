"""What texts a stage would read, by a look at the beginning of each file.

The rows of stages `prepare` and `mine` are those that they read, but for what they take out or add:
in place of a stage that has not run, its own sources are looked at.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from culet.data.records import data_files, raw_rows
from culet.errors import CuletError, InputError
from culet.pipeline.stage import Stage

_LOOKED_AT = 8 << 20  # bytes of a file; what follows is taken to be alike
_PARSED = 200  # rows of a file, evenly spread over what is looked at
_BYTES_PER_TOKEN = 4.0  # UTF-8; 2.6 to 3.9 with 14,336 tokens on recipes/small.toml, more with more
_AROUND = 8  # tokens of a prompt, BOS and EOS


@dataclass(frozen=True)
class Texts:
    """The sizes of one row's texts, in bytes of UTF-8.

    Attributes:
        sides: Query and positive, or input and target, or the one text.
        negatives: Wrong documents.
        escaped: Bytes of all of them as JSON in ASCII, but for those that are to come.
        to_come: How many of the last negatives a search has yet to find: documents of other rows.
    """

    sides: tuple[int, ...]
    negatives: tuple[int, ...] = ()
    escaped: int = 0
    to_come: int = 0

    @property
    def own(self) -> tuple[int, ...]:
        """Return the sizes of the texts that are no other row's."""
        return (*self.sides, *self.negatives[: len(self.negatives) - self.to_come])


@dataclass(frozen=True)
class Part:
    """One file.

    Attributes:
        rows: How many rows it has, about.
        row_bytes: Of a row as JSON.
        packed_bytes: Of a row in a gzipped file.
        sample: Some rows.
    """

    rows: float
    row_bytes: float
    packed_bytes: float
    sample: tuple[Texts, ...]

    def total(self, of: Callable[[Texts], float]) -> float:
        """Return the sum over its rows."""
        return self.rows * sum(map(of, self.sample)) / len(self.sample)


@dataclass(frozen=True)
class Rows:
    """The rows behind a path, file by file."""

    parts: tuple[Part, ...]

    @property
    def count(self) -> float:
        """Return how many there are, about."""
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
        """Return the sum of something over all rows, by the sampled ones."""
        return sum(part.total(of) for part in self.parts)

    def mean(self, of: Callable[[Texts], float]) -> float:
        """Return the mean of something."""
        return self.total(of) / self.count


def tokens(size: float, most: float = float("inf")) -> float:
    """Return about how many tokens a text of so many bytes has, prompt included, cut at `most`."""
    return min(most, size / _BYTES_PER_TOKEN + _AROUND)


class Samples:
    """Looks at what paths hold, or will hold, each file once.

    Args:
        stages: The stages of the recipe.
        ready: Names of those whose output is taken as it lies.
    """

    def __init__(self, stages: Mapping[str, Stage], ready: Collection[str]) -> None:
        self._stages = stages
        self._ready = ready
        self._known: dict[Path, Part | None] = {}

    def rows(self, path: Path) -> Rows | None:
        """Return the rows behind a path; None if nothing can be said of them yet."""
        for stage in self._stages.values():
            if stage.name not in self._ready and path.is_relative_to(stage.folder):
                return self._to_come(stage, path.relative_to(stage.folder))
        try:
            files = data_files(path)
        except InputError:
            return None
        for file in files:
            if file not in self._known:
                self._known[file] = look_at(file)
        return _joined([self._known[file] for file in files])

    def all_of(self, paths: Iterable[Path]) -> Rows | None:
        """Return the rows behind some paths; None if nothing can be said of one of them."""
        found = [self.rows(path) for path in paths]
        return _joined([part for rows in found for part in (rows.parts if rows else [None])])

    def _to_come(self, stage: Stage, inside: Path) -> Rows | None:
        """Return about what a stage will leave at a place inside its folder."""
        own = passed_on(stage)
        if inside.parts[:1] != ("data",):
            return None
        wanted = list(own) if len(inside.parts) == 1 else [inside.parts[1]]
        if not wanted or not set(wanted) <= set(own):
            return None
        rows = self.all_of(own[name] for name in wanted)
        return _mined(rows, stage.config) if rows and stage.kind.name == "mine" else rows


def passed_on(stage: Stage) -> dict[str, Path]:
    """Return the rows that a stage passes on: the name they leave under, and their path."""
    if stage.kind.name == "prepare":
        return {source.called: source.path for source in stage.config.sources}
    if stage.kind.name == "mine":
        return {source.label: source.path for source in stage.config.sources}
    return {}


def _mined(rows: Rows, config: Any) -> Rows:
    """Return rows with as many negatives as a search gives at most, of the positives' length."""
    number = config.rules.number
    size = rows.mean(lambda texts: texts.sides[-1])

    def mined(texts: Texts) -> Texts:
        given = texts.negatives if config.keep_given else ()
        negatives = (*given, *[round(size)] * number)
        return replace(texts, negatives=negatives, to_come=number)

    return Rows(
        tuple(
            replace(
                part,
                row_bytes=part.row_bytes + number * size,
                sample=tuple(mined(texts) for texts in part.sample),
            )
            for part in rows.parts
        )
    )


def _joined(parts: list[Part | None]) -> Rows | None:
    known = [part for part in parts if part is not None]
    return Rows(tuple(known)) if known and len(known) == len(parts) else None


def look_at(file: Path) -> Part | None:
    """Return what the beginning of a file says of the whole; None if it holds nothing of use."""
    try:
        lines, share = _table(file) if file.name.endswith(".parquet") else _lines(file)
    except (CuletError, OSError, EOFError, zlib.error):
        return None  # the stage will say what is wrong
    spread = lines[:: max(1, len(lines) // _PARSED)]
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
    """Return the first lines of a file, and what share of it they are."""
    size = file.stat().st_size
    with file.open("rb") as raw:
        if file.name.endswith(".gz"):
            with gzip.GzipFile(fileobj=raw) as packed:
                text = packed.read(_LOOKED_AT)
                share = 1.0 if not packed.peek(1) else raw.tell() / size
        else:
            text = raw.read(_LOOKED_AT)
            share = len(text) / size if size else 1.0
    lines = text.split(b"\n")
    if share < 1 and len(lines) > 1:
        share *= 1 - len(lines.pop()) / len(text)
    return [line for line in lines if line.strip()], share


def _table(file: Path) -> tuple[list[bytes], float]:
    """Return the first rows of a table, and what share of it they are."""
    import pyarrow.parquet as pq

    rows = [raw for _, raw in islice(raw_rows(file, also=None), _PARSED)]
    total = pq.ParquetFile(file).metadata.num_rows
    return rows, len(rows) / total if total else 1.0


def texts_of(line: bytes) -> Texts | None:
    """Return the sizes of a row's texts; None if it is no row of any known form."""
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
            negatives = _strings(given) if isinstance(given, list) else []
            return Texts(
                tuple(map(_size, sides)),
                tuple(map(_size, negatives)),
                sum(len(json.dumps(text)) for text in (*sides, *negatives)),
            )
    return None


def _strings(values: Iterable[Any]) -> list[str]:
    return [value for value in values if isinstance(value, str)]


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
