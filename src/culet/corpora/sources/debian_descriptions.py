"""Descriptions of Debian's packages in English and in translation, from the archive's indices.

An entry has a short line and paragraphs. Translations carry the MD5 of the English entry they
translate, which joins the languages; paragraphs at the same place are paired if both entries have
the same number of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from culet.corpora.corpus import Corpus
from culet.corpora.places.debian import stanzas
from culet.corpora.readers.packages import Package
from culet.corpora.rows import Aligned, Pair, Row
from culet.corpora.tidy import language

_LANGUAGES = (
    "en ca cs da de el eo es eu fi fr gl hr hu id it ja km ko ml nb nl pl pt pt_BR ro ru sk sr sv "
    "tr uk vi zh_CN zh_TW"
)
_NO_CONTENT = re.compile(
    r"transiti?on|dummy| - feature \"|debug(?:ging)? symbols|übergangspaket|platzhalter|"
    r"overgangspak|transizione|fittizio|överg[aå]ngs|přechod|przejściow|переход|перехідн|移行|"
    r"ダミー|过渡|過渡|전환",
    re.IGNORECASE,
)
_MIN_CHARS = 40
_ITEM = re.compile(r"[*+o·•-]\s+")


def _read(package: Package) -> Iterator[Row]:
    code = package.name.rpartition("Translation-")[2]
    field, lang = f"Description-{code}", language(code)
    seen = set()
    for path, name in package.files:
        for entry in stanzas(path, name, ("Package", "Description-md5", field)):
            identity, text = entry.get("Description-md5", ""), entry.get(field, "")
            if not identity or not text or identity in seen:
                continue
            seen.add(identity)  # the same description stands under several packages
            package.num_members += 1
            yield from _entry(entry.get("Package", ""), identity, text, lang)


def _entry(name: str, identity: str, text: str, lang: str) -> Iterator[Row]:
    short, _, rest = text.partition("\n")
    paragraphs = list(_paragraphs(rest))
    if _NO_CONTENT.search(short) or name.endswith(("-dbg", "-dbgsym")):
        return
    yield Aligned(f"{identity}#short", short, lang, "short-translation")
    for number, paragraph in enumerate(paragraphs):
        if len(paragraph) >= _MIN_CHARS // 2:
            key = f"{identity}#{len(paragraphs)}#{number}"
            yield Aligned(key, paragraph, lang, "paragraph-translation")
    body = "\n".join(paragraphs)
    if len(body) >= _MIN_CHARS:
        yield Pair(short, body, lang, "title-body")


def _paragraphs(text: str) -> Iterator[str]:
    """Yield paragraphs and items of lists as one line each."""
    lines: list[str] = []
    for line in text.split("\n"):
        plain = line.strip()
        begins_item = _ITEM.match(plain) is not None
        if (plain in ("", ".") or begins_item) and lines:
            yield " ".join(lines)
            lines = []
        if plain not in ("", "."):
            lines.append(_ITEM.sub("", plain, count=1) if begins_item else plain)
    if lines:
        yield " ".join(lines)


DEBIAN_DESCRIPTIONS = Corpus(
    name="debian-descriptions",
    about="What Debian's packages are, title to text, in English and 34 translations; parallel.",
    licence="the licence of each package, all free by Debian's guidelines",
    kind="index",
    packages=tuple(f"main/i18n/Translation-{code}" for code in _LANGUAGES.split()),
    read=_read,
    same_positive=2,
)
