"""Manual pages: the NAME line to the description, headings to sections, options to what they do.

Translations are not paired: pages lag behind one another, and where their numbers of paragraphs
agree by accident, paragraphs that do not belong together would become pairs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from culet.corpora.corpus import Corpus
from culet.corpora.readers.archives import ArchiveError, gunzip
from culet.corpora.readers.packages import Package
from culet.corpora.readers.troff import Item, read_page
from culet.corpora.rows import Pair, Row, Text
from culet.corpora.tidy import language

_PATH = re.compile(r"usr/share/man/(?:([^/]+)/)?man[1-8]/([^/]+)\.[1-8]\w*(?:\.gz)?")
_MIN_CHARS = 60
_MIN_OPTION_CHARS = 30
_LETTER = re.compile(r"[^\W\d_]{2}|-\w")
_DASH = re.compile(r"\s+(?:-|–|—|--|-)\s+")
# Headings of sections that are left out; "NAME" is always the first section.
_LEFT_OUT = re.compile(
    r"synopsis|übersicht|сводка|обзор|огляд|synopsis|sinossi|sinopsis|書式|概要|개요|摘要|総覧|"
    r"copyright|author|autor|autore|автор|作者|著者|see also|siehe auch|voir aussi|vedere anche|"
    r"v[ée]ase|colo[pf]|reporting|fehler melden|comunicar|bugs?$|history|geschichte|conforming|"
    r"standards?|korpor|translation|übersetzung|traduction|traduzione|traducc|tłumacz|関連項目|另見",
    re.IGNORECASE,
)
_LANGUAGES = "cs da de el es fi fr hu id it ja mk nb nl pl pt-br ro ru sr sv tr uk vi zh"

_FOR_PROGRAMMERS = "de es fr it ja nl pl pt-br ru uk"


def _read(package: Package) -> Iterator[Row]:
    for name, data in package.members(lambda path: _PATH.fullmatch(path) is not None):
        match = _PATH.fullmatch(name)
        assert match is not None
        lang = language(match[1] or "en")
        if name.endswith(".gz"):
            try:
                data = gunzip(data, 4 << 20)
            except ArchiveError:
                continue
        yield from _page(match[2], lang, list(read_page(_decoded(data))))


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        coding = re.search(rb"-\*-.*coding:\s*([\w-]+)", data[:200])
        try:
            return data.decode(coding[1].decode() if coding else "latin-1", "replace")
        except LookupError:
            return data.decode("latin-1")


def _page(name: str, lang: str, items: list[Item]) -> Iterator[Row]:
    sections: list[tuple[str, list[Item]]] = []
    for item in items:
        if item.kind == "heading":
            sections.append((item.text, []))
        elif sections:
            sections[-1][1].append(item)
    if not sections or not sections[0][1]:
        return
    title = sections[0][1][0].text
    names, *rest = _DASH.split(title, maxsplit=1)
    purpose = rest[0] if rest else ""
    bodies = [
        (heading, _text(items))
        for heading, items in sections[1:]
        if not _LEFT_OUT.search(heading) and len(_text(items)) >= _MIN_CHARS
    ]
    if purpose and bodies:
        yield Pair(f"{names}: {purpose}", bodies[0][1], lang, "name-description")
    for number, (heading, body) in enumerate(bodies):
        query = f"{name}: {heading}" + (f" ({purpose})" if purpose else "")
        nearby = [*bodies[max(0, number - 2) : number], *bodies[number + 1 : number + 3]]
        near = [body for _, body in nearby]
        yield Pair(query, body, lang, "section", tuple(near))
    for _, inner in sections[1:]:
        for item in inner:
            named = _LETTER.search(item.tag)  # a bullet or a number names nothing
            if item.kind == "tagged" and named and len(item.text) >= _MIN_OPTION_CHARS:
                yield Pair(f"{name} {item.tag}", item.text, lang, "option")
    whole = "\n".join(f"{heading}\n{_text(inner)}" for heading, inner in sections if inner)
    yield Text(whole, lang)


def _text(items: list[Item]) -> str:
    return "\n".join(f"{item.tag}: {item.text}" if item.tag else item.text for item in items)


MANPAGES = Corpus(
    name="manpages",
    about="Manual pages of Linux in 25 languages: purpose, sections and options to their text.",
    licence="GPL-2+, BSD, verbatim licences of single pages",
    kind="deb",
    packages=(
        "manpages",
        "manpages-dev",
        *(f"manpages-{code}" for code in _LANGUAGES.split()),
        *(f"manpages-{code}-dev" for code in _FOR_PROGRAMMERS.split()),
        "dpkg",
        "apt",
        "git-man",
    ),
    read=_read,
    same_positive=2,
)
