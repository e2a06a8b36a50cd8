"""LibreOffice help: one package a language; paragraphs have ids that all languages share."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from culet.corpora.corpus import Corpus
from culet.corpora.readers.markup import Block, Form, blocks
from culet.corpora.readers.packages import Package
from culet.corpora.rows import Aligned, Pair, Row, Text
from culet.corpora.tidy import language

_FORM = Form(
    blocks=frozenset(["h1", "h2", "h3", "h4", "h5", "h6", "p"]),
    skipped=frozenset(
        ["head", "header", "aside", "footer", "script", "style", "noscript", "pre", "nav"]
    ),
    alone=frozenset(["area", "base", "br", "col", "hr", "img", "input", "link", "meta"]),
    kept=frozenset(["meta"]),
)
_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
_MIN_CHARS = 40  # of a section
_MAX_KEYWORDS = 6
_LANGUAGES = (
    "en-us ca cs da de dz el es et eu fi fr gl hi hu id it ja km ko nl om pl pt pt-br ru sk sl sv "
    "tr vi zh-cn zh-tw"
)


def _read(package: Package) -> Iterator[Row]:
    for name, data in package.members(_is_page):
        # usr/share/libreoffice/help/LANG/text/…
        _, _, rest = name.partition("/help/")
        code, _, path = rest.partition("/")
        lang = "en" if code == "en-US" else language(code)
        found = list(blocks(data.decode("utf-8", "replace"), _FORM))
        yield from _page(path, lang, found)


def _is_page(name: str) -> bool:
    return "/help/" in name and "/text/" in name and name.endswith(".html")


def _page(path: str, lang: str, found: list[Block]) -> Iterator[Row]:
    keywords = [
        block.attributes.get("content", "").replace(";", " ")
        for block in found
        if block.tag == "meta" and block.attributes.get("itemprop") == "keywords"
    ]
    texts = [
        block
        for block in found
        if block.text and block.attributes.get("class") not in ("related", "embedded", "bug")
    ]
    for block in texts:
        identity = block.attributes.get("id", "")
        if identity.startswith(("par_id", "hd_id")) and " " in block.text.strip():
            yield Aligned(f"{path}#{identity}", block.text, lang, "paragraph-translation")
    title = next((block.text for block in texts if block.tag in _HEADINGS), "")
    yield from _sections(texts, title, lang)
    body = "\n".join(block.text for block in texts if block.tag not in _HEADINGS)
    if title and len(body) >= _MIN_CHARS:
        yield Text("\n".join(block.text for block in texts), lang)
        if keywords:
            query = ", ".join(dict.fromkeys(keywords[:_MAX_KEYWORDS]))
            yield Pair(query, f"{title}\n{body}", lang, "keywords-page")


def _sections(texts: list[Block], title: str, lang: str) -> Iterator[Pair]:
    """Yield each heading, with the title of its page, and the text below it."""
    sections: list[tuple[str, list[str]]] = []
    for block in texts:
        if block.tag in _HEADINGS:
            sections.append((block.text, []))
        elif sections:
            sections[-1][1].append(block.text)
    bodies = [(heading, "\n".join(lines)) for heading, lines in sections]
    bodies = [(heading, body) for heading, body in bodies if len(body) >= _MIN_CHARS]
    others: dict[str, tuple[str, ...]] = {}
    for heading, body in bodies:
        query = heading if heading == title else f"{heading} ({title})"
        if body not in others:
            others[body] = tuple(islice((other for _, other in bodies if other != body), 4))
        yield Pair(query, body, lang, "heading-section", others[body])


LIBREOFFICE_HELP = Corpus(
    name="libreoffice-help",
    about="LibreOffice's help in 32 languages: paragraph translations, headings to sections.",
    licence="MPL-2.0",
    kind="deb",
    packages=tuple(f"libreoffice-help-{code}" for code in _LANGUAGES.split()),
    read=_read,
    same_positive=2,
)
