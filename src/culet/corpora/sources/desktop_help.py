"""Help of desktop programs: GNOME's Mallard pages and KDE's DocBook manuals, in many languages.

A translation is paired with the English original where both documents have the same sequence of
blocks; where a translation lags behind, the sequences differ and nothing is paired.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from culet.corpora.corpus import Corpus
from culet.corpora.readers.markup import Block, Form, blocks
from culet.corpora.readers.packages import Package
from culet.corpora.rows import Aligned, Pair, Row, Text
from culet.corpora.tidy import language

_GENERAL = {"kde": "KDE", "Ctrl": "Ctrl", "Alt": "Alt", "Shift": "Shift", "Esc": "Esc"} | {
    "LMB": "left mouse button",
    "RMB": "right mouse button",
    "MMB": "middle mouse button",
    "Qt": "Qt",
    "plasma": "Plasma",
    "Enter": "Enter",
    "Tab": "Tab",
    "Linux": "Linux",
    "UNIX": "UNIX",
    "GNU": "GNU",
    "HTML": "HTML",
    "XML": "XML",
    "URL": "URL",
}
_SKIPPED = (
    "credit mal:credit copyright revision authorgroup legalnotice keywordset bookinfo articleinfo "
    "license screen programlisting code screenshot media mediaobject imageobject glossary index "
    "revhistory comment"
)
_BLOCKS = ["title", "desc", "p", "para", "simpara", "term", "subtitle"]
_ENTITY = re.compile(r"<!ENTITY\s+([\w.-]+)\s+(?:\"([^\"]{0,400})\"|'([^']{0,400})')")
_MIN_CHARS = 60  # of a section
_SECTIONS = frozenset(
    [
        "page",
        "section",
        "book",
        "article",
        "chapter",
        "sect1",
        "sect2",
        "sect3",
        "sect4",
        "preface",
        "appendix",
    ]
)
_PACKAGES = (
    "gnome-user-docs evince-common gedit-common aisleriot baobab cheese-common eog "
    "epiphany-browser-data evolution-common file-roller gnome-calculator gnome-clocks gnome-mines "
    "gnome-sudoku gnome-system-monitor gnome-terminal-data mate-user-guide orca rhythmbox-data "
    "seahorse shotwell-common simple-scan totem-common akregator cantor dolphin gwenview "
    "kalzium-data kate5-data kdeconnect kdenlive-data kig kmail kmplot kmymoney-common konsole "
    "korganizer okular khelpcenter ktouch-data systemsettings"
)


def _read(package: Package) -> Iterator[Row]:
    for name, data in package.members(_is_document):
        code, path = _place(name)
        lang = "en" if code in ("C", "en", "en_US") else language(code)
        if lang.startswith("en-"):
            continue  # British English is the original with other spelling
        source = data.decode("utf-8", "replace")
        own = {match[1]: match[2] or match[3] or "" for match in _ENTITY.finditer(source[:20_000])}
        plain = {key: re.sub(r"<[^>]*>", "", text) for key, text in own.items()}
        form = Form(
            frozenset(_BLOCKS), frozenset(_SKIPPED.split()), frozenset(), (), _GENERAL | plain
        )
        found = [block for block in blocks(source, form) if "info" not in block.within[:-1]]
        yield from _document(f"{package.name}/{path}", lang, found)


def _is_document(name: str) -> bool:
    return (name.startswith("usr/share/help/") and name.endswith((".page", "index.docbook"))) or (
        name.startswith("usr/share/doc/HTML/") and name.endswith(".docbook")
    )


def _place(name: str) -> tuple[str, str]:
    """Return the language of a document and its path within it."""
    prefix = "usr/share/help/" if name.startswith("usr/share/help/") else "usr/share/doc/HTML/"
    code, _, path = name.removeprefix(prefix).partition("/")
    return code, path


def _document(path: str, lang: str, found: list[Block]) -> Iterator[Row]:
    shape = " ".join(f"{'/'.join(block.within)}/{block.tag}" for block in found)
    signature = hashlib.sha256(shape.encode()).hexdigest()[:16]
    for number, block in enumerate(found):
        yield Aligned(f"{path}#{signature}#{number}", block.text, lang, "parallel")
    titles = [block for block in found if block.tag == "title"]
    texts = [block for block in found if block.tag not in ("title", "desc", "subtitle")]
    body = "\n".join(block.text for block in texts)
    if not titles or len(body) < _MIN_CHARS:
        return
    yield Text("\n".join(block.text for block in found if block.tag != "desc"), lang)
    summary = next((block.text for block in found if block.tag == "desc"), "")
    title = titles[0].text
    if len(summary) >= _MIN_CHARS // 2:
        yield Pair(summary, f"{title}\n{body}", lang, "summary-page")
    yield from _sections(found, title, lang)


def _sections(found: list[Block], page: str, lang: str) -> Iterator[Pair]:
    """Yield each title with the text up to the next one, other sections of the page beside it."""
    sections: list[tuple[str, list[str]]] = []
    for block in found:
        around = block.within[-1] if block.within else ""
        if block.tag == "title" and (around in _SECTIONS or not sections):
            sections.append((block.text, []))
        elif block.tag not in ("desc", "subtitle") and sections:
            sections[-1][1].append(block.text)
    bodies = [(title, "\n".join(lines)) for title, lines in sections]
    bodies = [(title, body) for title, body in bodies if len(body) >= _MIN_CHARS]
    for number, (title, body) in enumerate(bodies):
        query = title if title == page else f"{title} ({page})"
        nearby = [*bodies[max(0, number - 2) : number], *bodies[number + 1 : number + 3]]
        near = [body for _, body in nearby]
        yield Pair(query, body, lang, "title-body", tuple(near))


DESKTOP_HELP = Corpus(
    name="desktop-help",
    about="Help of GNOME, KDE and MATE programs in about 40 languages; parallel, titles to text.",
    licence="CC-BY-SA-3.0, GFDL-1.2+, GPL",
    kind="deb",
    packages=tuple(_PACKAGES.split()),
    read=_read,
    same_positive=2,
)
