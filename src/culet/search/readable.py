"""Web pages, notebooks and tables as lines of text, each with the line of the file it stands on."""

from __future__ import annotations

import csv
import json
from bisect import bisect_right
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any, NamedTuple

from culet.search.chunking import Kind

# What the readers raise: json and csv, notebooks of another form, declarations cut short in pages.
_DAMAGES = (
    *(ValueError, RecursionError, csv.Error),
    *(LookupError, TypeError, AttributeError, AssertionError),
)
_UNSEEN = {"script", "style", "template", "noscript", "svg", "head"}
_SOURCE = '"source":'
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_INLINE = frozenset(
    [
        *("a", "abbr", "b", "bdi", "bdo", "cite", "code", "data", "del", "dfn", "em", "font", "i"),
        *("ins", "kbd", "label", "mark", "q", "s", "samp", "small", "span", "strong", "sub"),
        *("sup", "time", "tt", "u", "var", "wbr"),
    ]
)
_VOID = frozenset(("area", "base", "col", "embed", "hr", "img", "input", "link", "meta", "source"))


class Readable(NamedTuple):
    """Lines of text made of a file, and for each the line of the file, from 1."""

    lines: list[str]
    numbers: list[int]
    kind: Kind


def readable(text: str, suffix: str) -> Readable | None:
    """Return the text of a web page, a notebook or a table; None for any other file.

    One that is damaged is None too: it is searched as it is written.
    """
    reader = _READERS.get(suffix)
    try:
        return None if reader is None else reader(text)
    except _DAMAGES:
        return None


class _Page(HTMLParser):
    """What a reader of a page sees, with headings as in Markdown."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[int, str]] = []
        self._unseen: list[str] = []
        self._pending: list[str] = []
        self._line = 1
        self._level = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "body":  # whatever was left open before it
            self._unseen.clear()
        elif self._unseen:
            if tag == self._unseen[-1]:
                self._unseen.append(tag)
        elif tag in _UNSEEN:
            self._end_block()
            self._unseen.append(tag)
        elif tag not in _INLINE:
            self._end_block()
            self._level = _HEADINGS.get(tag, 0)

    def handle_endtag(self, tag: str) -> None:
        if self._unseen:
            if tag == self._unseen[-1]:
                self._unseen.pop()
        elif tag not in _INLINE and tag not in _VOID:
            self._end_block()

    def handle_data(self, data: str) -> None:
        if self._unseen:
            return
        first = self.getpos()[0]
        for i, part in enumerate(data.split("\n")):
            if i and not self._level:  # a heading is one line, other text keeps its lines
                self._end_line()
            if part.strip() and not self._pending:
                self._line = first + i
            self._pending.append(part if i == 0 else f" {part}")

    def close(self) -> None:
        super().close()
        self._end_block()

    def _end_line(self) -> None:
        words = " ".join("".join(self._pending).split())
        self._pending = []
        if words:
            mark = "#" * self._level + " " if self._level else ""
            self.found.append((self._line, mark + words))

    def _end_block(self) -> None:
        before = len(self.found)
        self._end_line()
        if len(self.found) > before or (self.found and self.found[-1][1]):
            self.found.append((self._line, ""))
        self._level = 0


def _page(text: str) -> Readable:
    page = _Page()
    page.feed(text)
    page.close()
    return _of(page.found, "markdown")


def _notebook(text: str) -> Readable:
    """Return the cells of a notebook, code between fences; outputs are left out."""
    found: list[tuple[int, str]] = []
    places = _Places(text)
    for cell in json.loads(text)["cells"]:
        source = cell["source"]
        whole = source if isinstance(source, str) else "".join(source)
        lines = [(places.of(line), line.rstrip("\n")) for line in whole.splitlines(keepends=True)]
        if not lines:
            continue
        if cell["cell_type"] == "code":
            lines = [(lines[0][0], "```"), *lines, (lines[-1][0], "```")]
        found += [*lines, (lines[-1][0], "")]
    return _of(found, "markdown")


class _Places:
    """Where the lines of cells stand in a notebook, looked for one after the other."""

    def __init__(self, text: str) -> None:
        self._known: dict[str, list[int]] = {}
        self._last = 0
        inside = False
        for number, line in enumerate(text.split("\n"), start=1):
            words = line.strip().rstrip(",")
            if words.startswith(_SOURCE):
                inside = words.endswith("[")
                words = words.removeprefix(_SOURCE).strip()
            elif words == "]":
                inside = False
            elif not inside:
                continue
            if words.startswith('"'):
                self._known.setdefault(str(json.loads(words)).rstrip("\n"), []).append(number)

    def of(self, line: str) -> int:
        """Return the place of a line, below the last one; that of the last where it has none."""
        known = self._known.get(line.rstrip("\n"), [])
        after = bisect_right(known, self._last)
        self._last = known[after] if after < len(known) else max(self._last, 1)
        return self._last


def _csv(text: str) -> Readable:
    return _table(_csv_rows(text))


def _csv_rows(text: str) -> Iterator[tuple[int, list[str]]]:
    reader, line = csv.reader(text.splitlines(keepends=True), strict=True), 1
    for row in reader:
        yield line, row
        line = reader.line_num + 1


def _tsv(text: str) -> Readable:
    return _table((i, line.split("\t")) for i, line in enumerate(text.split("\n"), start=1))


def _table(rows: Iterator[tuple[int, list[str]]]) -> Readable:
    """Return each row as a paragraph, a cell a line with the name of its column."""
    _, header = next(rows, (1, []))
    found = []
    for number, row in rows:
        if not any(row):
            continue
        if len(row) != len(header):
            raise ValueError("a row of another length is no row of a table")
        cells = zip(header, row, strict=True)
        found += [(number, f"{name}: {' '.join(cell.split())}") for name, cell in cells if cell]
        found.append((number, ""))
    return _of(found, "text")


def _of(found: list[tuple[int, str]], kind: Kind) -> Readable:
    return Readable([line for _, line in found], [number for number, _ in found], kind)


_READERS: dict[str, Any] = {
    **dict.fromkeys((".html", ".htm", ".xhtml"), _page),
    ".ipynb": _notebook,
    ".csv": _csv,
    ".tsv": _tsv,
}
