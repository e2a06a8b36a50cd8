"""What is done to a text before it may enter the bundled data.

- `normalise` is the identity two texts are compared by: letters and digits only, case folded
- `clip` shortens a text at a line or sentence boundary, never inside a word
- the `is_…` functions name the junk that extraction from manuals leaves behind
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import cache

CONTENTS_LINE = re.compile(r"^\s*(\d+|[A-Z])(\.\d+)+\.?\s")
SENTENCE_END = re.compile(r"(?<=[.!?;])\s|(?<=[。！？])|\n")
NAVIGATION = (
    "From cppreference.com",
    "Standard library headers",
    "Table of Contents",
    "Available Languages:",
    "Verfügbare Sprachen:",
    "Langues Disponibles",
    "Idiomas disponibles",
    "Mevcut Diller",
    "翻訳済み言語",
    "가능한 언어",
    "main help file",
    "modules |",
)
CREDITS = re.compile(
    r"copyright|licen[cs]e|colophon|kolophon|see also|siehe auch|voir aussi|"
    r"v[ée]ase tambi|vedere anche|"
    r"zie ook|zobacz te|смотрите также|см\. также|дивіться також|se også|se även|katso myös|"
    r"viz také|"
    r"関連項目|著者|authors?\b|autore?n?\b|auteurs?\b|autor(es)?\b|авторы?\b|traduct|übersetz|перевод|翻訳",
    re.IGNORECASE,
)
# Languages whose prose never goes far without an accent; pages that do have lost them.
ACCENTED = frozenset(
    (
        "fr",
        "es",
        "pt",
        "pt-BR",
        "de",
        "sv",
        "da",
        "nb",
        "fi",
        "hu",
        "cs",
        "sk",
        "pl",
        "tr",
        "vi",
        "ro",
    )
)
TABLE_REMAINS = ("T{", "lb lb", "allbox", "\\begin{eqnarray")


@cache
def normalise(text: str) -> str:
    """Return the text as lower-case words of letters and digits with single spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.sub(r"[\W_]+", " ", folded).split())


def stable_hash(*parts: str) -> int:
    """Return a 64-bit number that depends on nothing but the parts."""
    digest = hashlib.blake2b("\x1f".join(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def weight(text: str) -> int:
    """Return the length in Latin-letter equivalents; an ideograph or kana counts double."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def clip(text: str, limit: int) -> str:
    """Return the longest run of whole sentences or lines of at most `limit` letters."""
    text = text.strip()
    if weight(text) <= limit:
        return text
    used, cut = 0, len(text)
    for position, char in enumerate(text):
        used += weight(char)
        if used > limit:
            cut = position
            break
    head = text[:cut]
    ends = [match.end() for match in SENTENCE_END.finditer(head)]
    if ends and ends[-1] >= len(head) // 3:
        return head[: ends[-1]].strip()
    space = head.rfind(" ")
    return head[: space if space > len(head) // 2 else cut].strip()


def clip_code(text: str, limit: int) -> str:
    """Return the first whole lines of at most `limit` characters, trailing blanks removed."""
    kept: list[str] = []
    used = 0
    for line in text.splitlines():
        used += len(line) + 1
        if kept and used > limit:
            break
        kept.append(line.rstrip())
    return "\n".join(kept)[: 2 * limit].strip("\n")


def is_prose(text: str) -> bool:
    """Return whether most characters are letters, marks, digits or spaces."""
    if not text:
        return False
    good = sum(
        char.isspace() or unicodedata.category(char)[0] in "LMN" or char in ".,;:'()-"
        for char in text
    )
    return good / len(text) > 0.85


def is_contents(text: str) -> bool:
    """Return whether the text is a table of contents: most lines begin with a section number."""
    lines = text.splitlines()
    numbered = sum(bool(CONTENTS_LINE.match(line)) for line in lines)
    return len(lines) > 2 and numbered > len(lines) / 3


def is_navigation(text: str) -> bool:
    """Return whether the text holds page furniture or the remains of a typeset table."""
    return any(mark in text for mark in NAVIGATION + TABLE_REMAINS)


def is_credits(heading: str) -> bool:
    """Return whether a section only names authors, translators, licences or other pages."""
    return bool(CREDITS.search(heading))


def lost_accents(text: str, lang: str) -> bool:
    """Return whether a page's accented letters were dropped when it was read."""
    return lang in ACCENTED and len(text) > 100 and text.isascii()


def is_latin(text: str) -> bool:
    """Return whether nearly all letters are Latin; manuals hold pages in unmarked languages."""
    letters = [char for char in text if char.isalpha()]
    latin = sum(unicodedata.name(char, "").startswith("LATIN") for char in letters)
    return not letters or latin / len(letters) > 0.9


def passes(text: str, *, least: int) -> bool:
    """Return whether a documentation text is long enough and free of junk."""
    return (
        weight(text) >= least
        and is_prose(text)
        and not is_contents(text)
        and not is_navigation(text)
    )
