"""Lines → spans of lines: where a text may be cut, and which neighbours belong together.

Three steps. Sections: headings, top-level definitions or the whole text. Merging: neighbours that
are small together become one. Division: a section that is too long is cut where a new paragraph
(or, in code, the least indented block) begins, or between sentences if it is one long line.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

Kind = Literal["markdown", "rst", "text", "code"]

_NO_START = 1_000  # the rank of a line at which no chunk should begin
_FENCED = 500  # a paragraph inside a fenced block: only as a last resort
_SMALL_SHARE = 4  # a section under a quarter of the target is merged with a neighbour

_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_UNDERLINE = re.compile(r"([=\-~^\"'`#*+.:_<>])\1{2,}[ \t]*$")
_CLOSER = re.compile(r"[\])}>]|end\b|fi\b|done\b|esac\b|else\b|\*/")
_SENTENCE = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])|(?<=[;:])\s+")


@dataclass(frozen=True)
class Span:
    """A run of lines, counted from 0, the last one inclusive.

    Attributes:
        first: Its first line.
        last: Its last line.
        heading: The headings above it ("Guide > Install"), or in code the first line of the
            definition it continues.
        text: Its text, without blank lines at either end.
    """

    first: int
    last: int
    heading: str | None
    text: str


@dataclass(frozen=True)
class _Section:
    first: int
    last: int
    headings: tuple[str, ...]


def divide(lines: Sequence[str], kind: Kind, target_chars: int) -> list[Span]:
    """Return spans that together hold every line that is not blank, in order."""
    fenced = _fenced(lines) if kind == "markdown" else [False] * len(lines)
    if kind == "code":
        sections = _definitions(lines)
        small = target_chars  # definitions have no common subject to lose
    else:
        sections = _headed(lines, kind, fenced)
        small = target_chars // _SMALL_SHARE
    ranks = _ranks(lines, kind, fenced)
    sizes = [0, *accumulate(len(line) + 1 for line in lines)]
    spans: list[Span] = []
    for section in _merged(sections, sizes, small, target_chars):
        pieces = [
            piece
            for first, last in _cuts(section.first, section.last, ranks, sizes, target_chars)
            for piece in _piece(lines, first, last, target_chars)
        ]
        spans += [_with_heading(piece, section, lines, kind) for piece in pieces]
    return spans


def _with_heading(piece: Span, section: _Section, lines: Sequence[str], kind: Kind) -> Span:
    heading = " > ".join(section.headings) or None
    if kind == "code":
        # The first line of a long definition is worth repeating above its later parts.
        starts = section.first
        heading = lines[starts].strip()[:120] if piece.first > starts else None
    return Span(piece.first, piece.last, heading, piece.text)


def _fenced(lines: Sequence[str]) -> list[bool]:
    """Return, for each line of Markdown, whether it lies in a fenced block."""
    inside: list[bool] = []
    fence: str | None = None
    for line in lines:
        match = _FENCE.match(line)
        inside.append(fence is not None or match is not None)
        if match and fence is None:
            fence = match[1]
        elif match and fence is not None and match[1].startswith(fence):
            fence = None
    return inside


def _headed(lines: Sequence[str], kind: Kind, fenced: Sequence[bool]) -> list[_Section]:
    """Return the sections between headings; one with no heading above it has an empty path."""
    sections: list[_Section] = []
    path: list[tuple[int, str]] = []
    first = 0
    for start, level, words in _headings(lines, kind, fenced):
        if start > first:
            sections.append(_Section(first, start - 1, tuple(name for _, name in path)))
        path = [(depth, name) for depth, name in path if depth < level]
        if words:
            path.append((level, words))
        first = start
    if first < len(lines):
        sections.append(_Section(first, len(lines) - 1, tuple(name for _, name in path)))
    return sections


def _headings(
    lines: Sequence[str], kind: Kind, fenced: Sequence[bool]
) -> Iterator[tuple[int, int, str]]:
    """Yield (line, level, words) of each heading; levels in reStructuredText by first use."""
    if kind == "text":
        return
    styles: list[str] = []
    for i, line in enumerate(lines):
        if fenced[i]:
            continue
        if kind == "markdown" and (match := _HEADING.match(line)):
            yield i, len(match[1]), (match[2] or "").strip()
            continue
        mark = _underline(lines, i, kind)
        if mark is None:
            continue
        over = kind == "rst" and i > 1 and lines[i - 2].strip() == line.strip()
        style = mark + ("over" if over else "")
        if style not in styles:
            styles.append(style)
        level = {"=": 1, "-": 2}[mark] if kind == "markdown" else styles.index(style) + 1
        yield i - 1 - over, level, lines[i - 1].strip()


def _underline(lines: Sequence[str], i: int, kind: Kind) -> str | None:
    """Return the mark with which line i underlines the line before it, or None."""
    match = _UNDERLINE.match(lines[i])
    if not match or i == 0 or not lines[i - 1].strip() or _UNDERLINE.match(lines[i - 1]):
        return None
    if kind == "markdown":
        # A row of dashes under a list, a table or a paragraph of several lines makes no heading.
        alone = i == 1 or not lines[i - 2].strip()
        heading = alone and match[1] in "=-" and not lines[i - 1].lstrip().startswith(tuple("-*|>"))
        return match[1] if heading else None
    return match[1] if len(lines[i].strip()) >= len(lines[i - 1].strip()) else None


def _definitions(lines: Sequence[str]) -> list[_Section]:
    """Return the blocks that begin at the left margin after a blank line."""
    starts = [
        i
        for i, line in enumerate(lines)
        if i > 0 and line[:1].strip() and not lines[i - 1].strip() and not _CLOSER.match(line)
    ]
    bounds = [0, *starts, len(lines)]
    return [_Section(first, end - 1, ()) for first, end in pairwise(bounds) if end > first]


def _merged(
    sections: Sequence[_Section], sizes: Sequence[int], small: int, target_chars: int
) -> list[_Section]:
    """Return the sections with small neighbours joined where the result fits the target."""
    merged: list[_Section] = []
    for section in sections:
        if merged:
            before = merged[-1]
            shorter = min(_size(before, sizes), _size(section, sizes))
            together = sizes[section.last + 1] - sizes[before.first]
            if shorter <= small and together <= target_chars:
                smaller, larger = sorted((before, section), key=lambda s: _size(s, sizes))
                headings = _joint(smaller.headings, larger.headings)
                merged[-1] = _Section(before.first, section.last, headings)
                continue
        merged.append(section)
    return merged


def _size(section: _Section, sizes: Sequence[int]) -> int:
    return sizes[section.last + 1] - sizes[section.first]


def _joint(smaller: tuple[str, ...], larger: tuple[str, ...]) -> tuple[str, ...]:
    """Return the headings two sections share, or the larger one's if one contains the other."""
    shared = 0
    for one, other in zip(smaller, larger, strict=False):
        if one != other:
            break
        shared += 1
    within = shared == min(len(smaller), len(larger))
    return larger or smaller if within else larger[:shared] or larger


def _ranks(lines: Sequence[str], kind: Kind, fenced: Sequence[bool]) -> list[int]:
    """Return how bad a place each line is for a chunk to begin."""
    ranks = []
    for i, line in enumerate(lines):
        if i == 0 or lines[i - 1].strip() or not line.strip():
            ranks.append(_NO_START)
        elif kind == "code":
            closer = bool(_CLOSER.match(line.lstrip()))
            ranks.append(_NO_START if closer else len(line) - len(line.lstrip()))
        else:
            ranks.append(_FENCED if fenced[i] else 0)
    return ranks


def _cuts(
    first: int, last: int, ranks: Sequence[int], sizes: Sequence[int], target_chars: int
) -> Iterator[tuple[int, int]]:
    """Yield the bounds of the pieces of a section, each near the target or a single long line."""
    while sizes[last + 1] - sizes[first] > target_chars * 3 // 2:
        end = first
        while end < last and sizes[end + 2] - sizes[first] <= target_chars:
            end += 1
        if end < last:
            # Prefer the best start of the next piece in the later half; among equals, the latest.
            half = first + (end - first) // 2
            end = min(range(half, end + 1), key=lambda i: (ranks[i + 1], -i))
            yield first, end
            first = end + 1
        else:
            break
    yield first, last


def _piece(lines: Sequence[str], first: int, last: int, target_chars: int) -> Iterator[Span]:
    """Yield the lines as one span without blank edges; a single overlong line, as several."""
    while first <= last and not lines[first].strip():
        first += 1
    while last >= first and not lines[last].strip():
        last -= 1
    if first > last:
        return
    if first == last and len(lines[first]) > target_chars * 3 // 2:
        for text in _sentences(lines[first], target_chars):
            yield Span(first, first, None, text)
    else:
        yield Span(first, last, None, "\n".join(lines[first : last + 1]))


def _sentences(line: str, target_chars: int) -> Iterator[str]:
    """Yield a long line in parts of at most the target, cut at sentences, words, or anywhere."""
    ends = [match.end() for match in _SENTENCE.finditer(line)]
    words = [match.end() for match in re.finditer(r"\s+", line)]
    start = 0
    while start < len(line):
        limit = start + target_chars
        if limit >= len(line):
            cut = len(line)
        else:
            earliest = start + target_chars // 2
            cut = (
                _last_within(ends, earliest, limit) or _last_within(words, earliest, limit) or limit
            )
        if part := line[start:cut].strip():
            yield part
        start = cut


def _last_within(places: Sequence[int], earliest: int, limit: int) -> int | None:
    index = bisect_right(places, limit) - 1
    return places[index] if index >= 0 and places[index] > earliest else None
