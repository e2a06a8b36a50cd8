"""From the rows of many packages to the files of one corpus.

Texts with a key are joined over all packages (English with each other language), every row is
tidied and checked, duplicates are dropped, and three files are written. Only the English side of
the join and a hash of each kept row are held in memory.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from culet.corpora.corpus import Corpus
from culet.corpora.rows import ENGLISH, Aligned, Pair, Row, Text, Triple, from_line
from culet.corpora.tidy import MAX_CHARS, cut, fault_of_pair, fault_of_text, tidy
from culet.errors import InputError
from culet.files.atomic import new_file
from culet.files.fingerprint import of_texts
from culet.terminal.progress import Progress

RULES = 1  # raised whenever the same rows would be tidied, kept or dropped differently
FILES = {"pairs": "pairs.jsonl.gz", "text": "text.jsonl.gz", "triples": "triples.jsonl.gz"}
_MAX_TEXT_CHARS = 40_000
_MIN_TEXT_CHARS = 200
_MAX_NEGATIVES = 8
_LEVEL = 6  # of gzip


@dataclass(frozen=True)
class Part:
    """The rows of one package on disk.

    Attributes:
        id: The package.
        path: Its rows.
        licence: The licence that the package states.
        num_rows: How many there are.
        num_english: How many of them are the English side of a join.
    """

    id: str
    path: Path
    licence: str | None
    num_rows: int
    num_english: int


@dataclass
class Account:
    """Counts of what became of the rows.

    Attributes:
        kept: Rows written: "pairs", "text", "triples".
        dropped: Reason to number of rows.
        parts: Rule to number of pairs.
        languages: Language to number of pairs.
        packages: Package to rows written of it, by kind.
    """

    kept: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    parts: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    packages: dict[str, Counter[str]] = field(default_factory=dict)


def assemble(
    corpus: Corpus, parts: Sequence[Part], folder: Path, *, progress: bool | None = None
) -> Account:
    """Write the files of a corpus from its parts, each whole or not at all.

    A kind without rows has no file; one from before is removed.

    Raises:
        InputError: A part is damaged, or the folder cannot be written.
    """
    account, seen = Account(), _Seen(corpus)
    with ExitStack() as stack:
        writers = {kind: stack.enter_context(_Writer(folder / FILES[kind])) for kind in FILES}
        total = sum(part.num_rows for part in parts)
        bar = stack.enter_context(
            Progress(f"assembling {corpus.name}", total=total, unit="rows", show=progress)
        )
        english = _english(parts)
        for part in parts:
            mine = account.packages.setdefault(part.id, Counter())
            for number, row in enumerate(_rows(part)):
                if number % 1000 == 0:
                    bar.advance(min(1000, part.num_rows - number))
                joined = _joined(row, english) if isinstance(row, Aligned) else row
                if joined is None:
                    continue
                kind, fields, fault = _finished(corpus, joined, part.licence)
                fault = fault or seen.fault(joined, fields)
                if fault is not None:
                    account.dropped[fault] += 1
                    continue
                writers[kind].write(fields)
                account.kept[kind] += 1
                mine[kind] += 1
                if isinstance(joined, Pair):
                    account.parts[joined.part] += 1
                    account.languages[joined.lang] += 1
        for writer in writers.values():
            writer.empty = not account.kept[writer.kind]
    return account


def _rows(part: Part) -> Iterator[Row]:
    number = 0
    try:
        with gzip.open(part.path, "rb") as file:
            for line in file:
                yield from_line(line)
                number += 1
        if number != part.num_rows:  # an empty file is whole to gzip
            raise ValueError(f"{number:,} rows in place of {part.num_rows:,}")
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{part.path} is damaged ({error}); delete it, and its package is read again"
        ) from error


def _english(parts: Sequence[Part]) -> dict[bytes, str]:
    return {
        _digest(row.key): row.text
        for part in parts
        if part.num_english
        for row in _rows(part)
        if isinstance(row, Aligned) and row.lang == ENGLISH
    }


def _joined(row: Aligned, english: dict[bytes, str]) -> Pair | None:
    """Return the pair of a text with its English counterpart, if it has one."""
    if row.lang == ENGLISH or (other := english.get(_digest(row.key))) is None:
        return None
    return Pair(other, row.text, f"{ENGLISH}-{row.lang}", row.part)


def _finished(
    corpus: Corpus, row: Pair | Text | Triple, licence: str | None
) -> tuple[str, dict[str, Any], str | None]:
    """Return the kind of a row, its fields, and why it cannot be used, or None if it can."""
    if isinstance(row, Triple):
        triple = {"s": tidy(row.s), "r": tidy(row.r), "o": tidy(row.o)}
        return "triples", triple, None if all(triple.values()) else "empty"
    code = row.lang.startswith("code-")
    source = corpus.name
    if isinstance(row, Text):
        text = row.text if code else tidy(row.text)
        text = cut(text, _MAX_TEXT_CHARS)
        fault = "short" if len(text) < _MIN_TEXT_CHARS else fault_of_text(text, row.lang)
        return "text", {"text": text, "lang": row.lang, "source": source}, fault
    query = tidy(row.query)
    positive = cut(row.positive if code else tidy(row.positive), MAX_CHARS)
    fields: dict[str, Any] = {"query": query, "positive": positive}
    wrong = [cut(tidy(negative)) for negative in row.negatives]
    wrong = [text for text in dict.fromkeys(wrong) if text and text not in (positive, query)]
    if wrong:
        fields["negatives"] = wrong[:_MAX_NEGATIVES]
    fields |= {"lang": row.lang, "source": f"{source}/{row.part}"}
    if licence and corpus.only_free:  # packages differ; else the licences are in the manifest
        fields["licence"] = licence
    few = len(query.split()) < corpus.lowest_query
    return "pairs", fields, "few words" if few else fault_of_pair(query, positive, row.lang)


class _Seen:
    """Remembers eight bytes of each row, to drop duplicates."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._rows: set[bytes] = set()
        self._queries: Counter[bytes] = Counter()
        self._positives: Counter[bytes] = Counter()

    def fault(self, row: Row, fields: dict[str, Any]) -> str | None:
        if isinstance(row, Pair):
            names = (row.lang, fields["query"]), (row.lang, row.part, fields["positive"])
            query, positive = (_digest(*name) for name in names)
            max_query, max_positive = self._corpus.same_query, self._corpus.same_positive
            if max_query and self._queries[query] >= max_query:
                return "same query"
            if max_positive and self._positives[positive] >= max_positive:
                return "same positive"
            known = _digest(row.lang, fields["query"], fields["positive"])
        elif isinstance(row, Text):
            known = _digest(fields["text"])
        else:
            known = _digest(*fields.values())
        if known in self._rows:
            return "repeated"
        self._rows.add(known)
        if isinstance(row, Pair):
            if max_query:
                self._queries[query] += 1
            if max_positive:
                self._positives[positive] += 1
        return None


def _digest(*texts: str) -> bytes:
    return of_texts(*texts, size=8)


class _Writer:
    """A .jsonl.gz whose bytes follow from its rows alone; `empty` ones are removed at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kind = next(kind for kind, name in FILES.items() if name == path.name)
        self.empty = False
        self._stack = ExitStack()

    def __enter__(self) -> _Writer:
        aside = self._stack.enter_context(new_file(self.path))
        raw = self._stack.enter_context(aside.open("wb"))
        packed = self._stack.enter_context(
            gzip.GzipFile("", "wb", compresslevel=_LEVEL, fileobj=raw, mtime=0)
        )
        self._file = self._stack.enter_context(io.TextIOWrapper(packed, encoding="utf-8"))
        return self

    def write(self, fields: dict[str, Any]) -> None:
        self._file.write(json.dumps(fields, ensure_ascii=False) + "\n")

    def __exit__(self, *problem: Any) -> None:
        self._stack.__exit__(*problem)
        if self.empty and problem[0] is None:
            self.path.unlink(missing_ok=True)
