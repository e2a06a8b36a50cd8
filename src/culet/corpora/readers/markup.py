"""HTML, Mallard and DocBook as a list of blocks, by a scanner that expands and loads nothing.

An XML parser would resolve entities; this scanner knows tags, text and a few names of characters.
What it does not understand stays text, and rows with left-over markup are dropped later.
"""

from __future__ import annotations

import html
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

_MAX_DEPTH = 500
# Possessive quantifiers: no input makes the scanner go back over what it has read.
_TOKEN = re.compile(
    r"<[?!][^<>]*+>|"
    r"<(?P<close>/?)(?P<tag>[A-Za-z][\w:.-]*+)"
    r"(?P<attributes>(?:[^<>\"']|\"[^\"]{0,4000}+\"|'[^']{0,4000}+')*+)>|"
    r"[^<]++|<",
)
_ATTRIBUTE = re.compile(r"(?<![\w:.-])([\w:.-]++)\s*+=\s*+(?:\"([^\"]*)\"|'([^']*)'|([^\s\"'>]+))")
_ENTITY = re.compile(r"&(#?[\w.-]+);")
_EMPTY = frozenset(
    [
        "area",
        "base",
        "br",
        "col",
        "embed",
        "hr",
        "img",
        "input",
        "link",
        "meta",
        "source",
        "track",
        "wbr",
    ]
)


@dataclass(frozen=True, slots=True)
class Form:
    """How a kind of markup is read.

    Attributes:
        blocks: Tags whose text is a block of its own.
        skipped: Tags whose content is left out.
        alone: Tags that are never closed.
        kept: Tags that are yielded, for their attributes, as blocks without text.
        entities: Names of entities beside those of HTML, and their texts.
    """

    blocks: Collection[str]
    skipped: Collection[str]
    alone: Collection[str] = _EMPTY
    kept: Collection[str] = ()
    entities: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Block:
    """A heading, a paragraph, an item of a list.

    Attributes:
        tag: Its tag.
        attributes: Its attributes.
        text: Its text on one line.
        within: The tags around it, from the outermost.
    """

    tag: str
    attributes: Mapping[str, str]
    text: str
    within: tuple[str, ...]


# Tag, attributes, pieces of text so far, tags around it, and its depth.
_OpenBlock = tuple[str, Mapping[str, str], list[str], tuple[str, ...], int]


def blocks(source: str, form: Form) -> Iterator[Block]:
    """Yield the blocks of a document in their order.

    The text of a block that holds another (a list item with a paragraph) is yielded before the
    inner one. Text outside of every block is left out.
    """
    open_tags: list[str] = []
    current: list[_OpenBlock] = []
    skipping: str | None = None
    closed, depth = "", 0
    for token in _TOKEN.finditer(_without_sections(source)):
        tag = token["tag"]
        if tag is None:
            closed = ""
            if skipping is None and current:
                text = token[0]
                if not text.startswith("<"):
                    current[-1][2].append(_unescaped(text, form.entities))
            continue
        tag = tag.lower()
        if skipping is not None:
            if tag == skipping and not token["attributes"].rstrip().endswith("/"):
                depth += -1 if token["close"] else 1
                skipping = skipping if depth else None
            continue
        alone = tag in form.alone or token["attributes"].rstrip().endswith("/")
        if token["close"]:
            closed = tag
            yield from _close(tag, open_tags, current)
            continue
        if tag in form.skipped and not alone:
            skipping, depth = tag, 1
            continue
        attributes = (
            _attributes(token["attributes"]) if tag in form.blocks or tag in form.kept else {}
        )
        if tag in form.kept:
            yield Block(tag, attributes, "", tuple(open_tags))
        if tag == closed and current:
            current[-1][2].append(" ")  # <gui>Edit</gui><gui>Copy</gui> are two words
        closed = ""
        if tag == "br" and current:
            current[-1][2].append(" ")
        if alone or len(open_tags) >= _MAX_DEPTH:
            continue
        if tag in form.blocks:
            if current and "".join(current[-1][2]).strip():
                yield from _closed(current[-1])
                current[-1][2].clear()
            if tag == "p" and open_tags and open_tags[-1] == "p":  # HTML lets it stay open
                open_tags.pop()
                current.pop()
            current.append((tag, attributes, [], tuple(open_tags), len(open_tags) + 1))
        open_tags.append(tag)
    while current:
        yield from _closed(current.pop(0))


def _without_sections(source: str) -> str:
    """Return markup without comments, and what stood in CDATA sections as text."""
    pieces, at = [], 0
    for opening in re.finditer(r"<!--|<!\[CDATA\[", source):
        if opening.start() < at:
            continue
        mark = "-->" if opening[0] == "<!--" else "]]>"
        end = source.find(mark, opening.end())
        if end < 0:  # it never closes, nor does any that follows
            break
        pieces.append(source[at : opening.start()])
        if mark == "]]>":
            pieces.append(html.escape(source[opening.end() : end]))
        at = end + 3
    return "".join([*pieces, source[at:]])


def _close(tag: str, open_tags: list[str], current: list[_OpenBlock]) -> Iterator[Block]:
    """Close a tag and those left open in it, and yield the blocks that end with it."""
    if tag not in open_tags:
        return
    while open_tags[-1] != tag:
        open_tags.pop()
    open_tags.pop()
    while current and current[-1][4] > len(open_tags):
        yield from _closed(current.pop())


def _closed(block: _OpenBlock) -> Iterator[Block]:
    tag, attributes, pieces, within, _ = block
    text = " ".join("".join(pieces).split())
    if text:
        yield Block(tag, attributes, re.sub(r" ([.,;:!?)](?: |$))", r"\1", text), within)


def _attributes(source: str) -> dict[str, str]:
    return {
        match[1].lower(): html.unescape(match[2] or match[3] or match[4] or "")
        for match in _ATTRIBUTE.finditer(source)
    }


def _unescaped(text: str, entities: Mapping[str, str]) -> str:
    if "&" not in text:
        return text

    def meaning(match: re.Match[str]) -> str:
        name = match[1]
        if name in entities:
            return entities[name]
        plain = html.unescape(match[0])
        # An undeclared entity: in manuals that is the name of a program (&dolphin;).
        return plain if plain != match[0] else name

    return _ENTITY.sub(meaning, text)
