"""What a reader of packages yields: pairs, texts, facts, and texts to be paired by a key.

Rows are kept per package, a JSON line each, so that packages can be read in any order and joined
at the end.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields

ENGLISH = "en"


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and the document that answers it.

    Attributes:
        query: The query.
        positive: The document.
        lang: "de" (both), "en-de" (query in one, positive in the other), or "code-python"
            (English query, code positive).
        part: Which rule made the pair, such as "title-body".
        negatives: Wrong documents for this query.
    """

    query: str
    positive: str
    lang: str
    part: str
    negatives: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Text:
    """Raw text.

    Attributes:
        text: The text; paragraphs are lines.
        lang: "de" or "code-python".
    """

    text: str
    lang: str


@dataclass(frozen=True, slots=True)
class Triple:
    """A fact: subject, relation, object."""

    s: str
    r: str
    o: str


@dataclass(frozen=True, slots=True)
class Aligned:
    """A text in one language, known by a key that its translations share.

    Attributes:
        key: The same for all languages, in all packages of the corpus.
        text: The text.
        lang: Its language. The English text is paired with each of the others.
        part: Which rule made it, such as "paragraph-translation".
    """

    key: str
    text: str
    lang: str
    part: str


Row = Pair | Text | Triple | Aligned
_KINDS: dict[str, type[Row]] = {"p": Pair, "x": Text, "t": Triple, "a": Aligned}
_FIELDS = {kind: tuple(field.name for field in fields(kind)) for kind in _KINDS.values()}
_LETTERS = {kind: letter for letter, kind in _KINDS.items()}


def to_line(row: Row) -> str:
    """Return a row as a line of JSON: a letter for what it is, then its fields in their order."""
    values = [getattr(row, name) for name in _FIELDS[type(row)]]
    return json.dumps([_LETTERS[type(row)], *values], ensure_ascii=False) + "\n"


def from_line(line: str | bytes) -> Row:
    """Return the row of a line that `to_line` made."""
    letter, *values = json.loads(line)
    if letter == "p":
        values[4] = tuple(values[4])
    return _KINDS[letter](*values)
