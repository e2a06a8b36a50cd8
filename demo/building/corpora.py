"""The training corpora as rows that know their group and their entity.

A row's *entity* is what a split must not cut: the page, the package, the word's sense, the English
text behind a translation. All rows of one entity fall on the same side of the split, in whatever
language they are. A row's *group* names the kind of pair and later the file it may go to.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from building.text import (
    is_credits,
    is_latin,
    is_prose,
    lost_accents,
    normalise,
    passes,
    stable_hash,
    weight,
)

# Sources whose licence lets small extracts ship, and that anyone can rebuild from packages.
SOURCES = (
    "bio-ontologies",
    "cedict",
    "cloud-api-docs",
    "code-debian",
    "code-npm",
    "code-pypi",
    "debian-descriptions",
    "debian-manuals",
    "desktop-help",
    "dictionaries-en",
    "docs-hard-negatives",
    "freedict",
    "gettext-catalogues",
    "libreoffice-help",
    "manpages",
    "technical-docs",
    "thesauri",
    "ui-translations",
    "wordnet",
)
# A model of a few million weights cannot hold five hundred languages. Short strings and single
# words are taken from these; prose is taken in every language that has some.
LANGUAGES = frozenset(
    language
    for family in (
        "en de fr es it pt pt-BR nl sv da nb nn fi is et lv lt pl cs sk sl hr sr bs mk bg ru uk be",
        "ro hu el tr az kk ka hy ar fa he ur hi bn mr gu pa ta te kn ml th km my vi id ms fil tl",
        "ja zh zh-CN zh-TW ko mn sw af eu ca gl cy ga sq eo la",
    )
    for language in family.split()
)
MAX_TRANSLATION = 480  # letters; a longer pair is dropped, since clipping would misalign it
HEADING = re.compile(r"^(?P<heading>.+?)\s+\((?P<page>[^()]{3,})\)$")
PRONUNCIATION = re.compile(r"\s*/[^/]*/\s*$")
ETYMOLOGY = re.compile(r"^[^\[\]]{0,80}\]\s*")  # the end of a bracket whose beginning was cut
BRACKETS = re.compile(r"\[[^\[\]]{0,80}\]\s*")


@dataclass(frozen=True, slots=True)
class Row:
    """One pair of a corpus, with the texts as the corpus has them."""

    query: str
    positive: str
    negatives: tuple[str, ...]
    lang: str
    source: str
    group: str
    entity: str
    title: str | None = None

    def texts(self) -> Iterator[str]:
        """Yield every text of the row."""
        yield self.query
        yield self.positive
        yield from self.negatives
        if self.title:
            yield self.title

    def order(self) -> int:
        """Return the row's place in every draw: a hash, so that no reading order matters."""
        return stable_hash("order", self.query, self.positive)


def read_rows(folder: Path) -> list[Row]:
    """Return the usable pairs of every source below `folder`."""
    rows: list[Row] = []
    for source in SOURCES:
        for record in read_jsonl(folder / source / "pairs.jsonl.gz"):
            row = _to_row(source, record)
            if row is not None:
                rows.append(row)
    return rows


def split_heading(query: str) -> tuple[str, str | None]:
    """Return a heading and its page's title, where the corpus wrote "heading (page)"."""
    found = HEADING.match(query)
    return (found["heading"], found["page"]) if found else (query, None)


def read_jsonl(path: Path) -> Iterator[dict[str, object]]:
    """Yield the records of a gzip JSONL file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _to_row(source: str, record: dict) -> Row | None:
    part = record["source"].removeprefix(source).lstrip("/")
    row = Row(
        query=record["query"].strip(),
        positive=record["positive"].strip("\n"),
        negatives=tuple(record.get("negatives", ())),
        lang=record["lang"],
        source=source if not part or source == "gettext-catalogues" else f"{source}/{part}",
        group="",
        entity="",
    )
    group = _group(source, part, row)
    if group is None or normalise(row.query) == normalise(row.positive):
        return None
    clean = _CLEANERS[group](replace(row, group=group, entity=_entity(group, part, row)))
    if clean is not None and source == "gettext-catalogues":
        return replace(clean, source=f"gettext-catalogues/{part}")
    return clean


def _group(source: str, part: str, row: Row) -> str | None:
    if part in _DROPPED_PARTS:
        return None
    if part.endswith(("parallel", "paragraph-translation", "body-translation")):
        return "translations"
    if source in ("gettext-catalogues", "ui-translations") or part == "short-translation":
        return None if part == "mediawiki-message-doc" else "interface"
    if source in ("cedict", "freedict", "thesauri"):
        return "words"
    if row.lang.startswith("code-"):
        return "code"
    if source == "dictionaries-en" or part == "bioregistry":
        return "definitions"
    if source == "wordnet":
        return "wordnet" if row.negatives else "definitions"
    if source == "bio-ontologies":
        return "ontologies" if row.negatives else None
    if part == "aws-operation" and row.negatives:
        return "cloud"
    if source == "docs-hard-negatives":
        return "docs"
    if source == "technical-docs" and row.negatives:
        return "manuals"
    return "documents"


# Littré and vera are word lists of another century and of acronyms; vim's pages are one file each.
_DROPPED_PARTS = frozenset({"littre", "vera", "devil", "vim-doc", "aws-shape", "google-schema"})


def _entity(group: str, part: str, row: Row) -> str:
    if group in ("translations", "interface"):
        return normalise(row.query)  # the English side
    if part == "title-body" and row.source.startswith("debian-descriptions"):
        return normalise(row.query)  # a package's one-line summary
    if group in ("docs", "documents", "manuals"):
        return normalise(split_heading(row.query)[1] or row.query)
    if group == "wordnet" or part in ("definition", "reverse-dictionary", "example-sense"):
        gloss = row.query if part == "reverse-dictionary" else row.positive
        return normalise(gloss.split(": ", 1)[-1] if part == "example-sense" else gloss)
    if part.endswith("-synonym"):
        return normalise(row.positive)
    return normalise(row.query)


def _clean_prose(row: Row) -> Row | None:
    good = passes(row.positive, least=60) and 4 <= weight(row.query) <= 160
    if "(Method Details)" in row.query or row.query.startswith("Types ("):
        return None  # Java and Erlang reference: the heading does not say whose method or types
    if row.lang == "en":
        good = good and is_latin(row.query) and is_latin(row.positive)
    if not good or is_credits(row.query) or lost_accents(row.positive, row.lang):
        return None
    negatives = tuple(
        text
        for text in row.negatives
        if passes(text, least=60) and not lost_accents(text, row.lang)
    )
    if row.negatives and not negatives:
        return None
    return replace(row, negatives=negatives)


def _clean_translation(row: Row) -> Row | None:
    lengths = sorted((weight(row.query), weight(row.positive)))
    # A translation three times as long as its original is misaligned.
    if lengths[0] < 24 or lengths[1] > MAX_TRANSLATION or lengths[1] > 3 * lengths[0]:
        return None
    return row if is_prose(row.query) and is_prose(row.positive) else None


def _clean_interface(row: Row) -> Row | None:
    lengths = sorted((weight(row.query), weight(row.positive)))
    other = row.lang.removeprefix("en-")
    if other not in LANGUAGES or lengths[0] < 10 or lengths[1] > 240 or lengths[1] > 4 * lengths[0]:
        return None
    return row if is_prose(row.query) and is_prose(row.positive) else None


def _clean_words(row: Row) -> Row | None:
    if any(code not in LANGUAGES for code in re.split(r"-(?!BR|CN|TW)", row.lang)):
        return None
    query = PRONUNCIATION.sub("", row.query)
    if not query or weight(row.positive) > 120 or not row.positive[0].isalnum():
        return None
    return replace(row, query=query)


def _clean_definition(row: Row) -> Row | None:
    positive = row.positive
    if row.source.endswith("/gcide"):
        positive = BRACKETS.sub("", ETYMOLOGY.sub("", positive)).strip()
    if weight(positive) < 24 or not is_prose(positive) or positive.startswith("See "):
        return None
    return replace(row, positive=positive)


def _clean_negatives(row: Row) -> Row | None:
    positive = normalise(row.positive)
    kept = tuple(text for text in row.negatives if normalise(text) not in ("", positive))
    return replace(row, negatives=kept) if kept else None


def _clean_code(row: Row) -> Row | None:
    if not 12 <= weight(row.query) <= 300 or len(row.positive) < 40 or not is_latin(row.query):
        return None
    return row if is_prose(row.query) else None


_CLEANERS = {
    "documents": _clean_prose,
    "docs": _clean_prose,
    "manuals": _clean_prose,
    "cloud": _clean_prose,
    "translations": _clean_translation,
    "interface": _clean_interface,
    "words": _clean_words,
    "definitions": _clean_definition,
    "wordnet": _clean_negatives,
    "ontologies": _clean_negatives,
    "code": _clean_code,
}
