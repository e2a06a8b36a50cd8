"""The split between evaluation and training, and the proof that nothing leaks across it.

Three nets, from coarse to fine:
1. rows are split by a hash of their entity, never by row; titles that some corpus translates take
   the entity of their English original, so that a page is held out in all its languages at once
2. after the tasks are drawn, every text of theirs is blocked in training: whole, by its long lines
   and by its beginning
3. so is whatever a translation pair links to a blocked text, two links far (German, English, Thai)

The links are those the given corpora hold; a translation that no pair records cannot be seen.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace

from building.corpora import Row, split_heading
from building.text import normalise, stable_hash, weight

# Sources of one kind share a number: a page must not be held out in one and trained on in another.
DOCS = ("libreoffice-help", "desktop-help", "debian-manuals", "manpages", "docs-hard-negatives")
SHARES = dict.fromkeys((*DOCS, "technical-docs", "debian-descriptions"), 0.2) | dict.fromkeys(
    ("gettext-catalogues", "ui-translations"), 0.16
)
DEFAULT_SHARE = 0.1
CROSS_LINGUAL = ("libreoffice-help", "desktop-help", "debian-manuals")
LONG_LINE = 24  # Latin-letter equivalents; shorter lines do not identify a text
COMMON_LINE = 5  # a line that more documents hold is boilerplate and identifies none
BEGINNING = 100  # characters of the normalised text


def split(rows: Iterable[Row], *, seed: int) -> tuple[list[Row], list[Row]]:
    """Return the rows of held-out entities and the others."""
    rows = list(rows)
    originals = _english_titles(rows)
    wanted = {row.entity for row, _ in translated_sections(rows)}
    held: list[Row] = []
    rest: list[Row] = []
    for row in rows:
        entity = originals.get((row.lang, row.entity), row.entity)
        share = SHARES.get(row.source.split("/")[0], DEFAULT_SHARE)
        out = entity in wanted or stable_hash(str(seed), entity) % 10_000 < share * 10_000
        (held if out else rest).append(replace(row, entity=entity))
    return held, rest


def _english_titles(rows: list[Row]) -> dict[tuple[str, str], str]:
    """Return (language, title) → English title, as far as some pair translates the title."""
    return {
        (row.lang.removeprefix("en-"), normalise(row.positive)): row.entity
        for row in rows
        if row.group in ("translations", "interface") and len(row.positive) < 90
    }


def translated_sections(rows: Iterable[Row]) -> list[tuple[Row, list[Row]]]:
    """Return the English manual sections whose heading some pair translates, with those pairs.

    They are rare and make a cross-lingual task, so all of them are held out. A heading that two
    sections share names neither.
    """
    sections: dict[str, list[Row]] = defaultdict(list)
    translations: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.group == "documents" and row.lang == "en" and row.source.startswith(CROSS_LINGUAL):
            sections[normalise(split_heading(row.query)[0])].append(row)
        elif row.group == "translations" and row.source.startswith(CROSS_LINGUAL):
            translations[row.entity].append(row)
    return [
        (same[0], translations[heading])
        for heading, same in sections.items()
        if len(same) == 1 and heading in translations
    ]


def lines_of(text: str) -> list[str]:
    """Return the text's long lines, normalised."""
    return [key for line in text.splitlines() if weight(key := normalise(line)) >= LONG_LINE]


def beginning(text: str) -> str | None:
    """Return what a long text begins with, or None for a short one."""
    key = normalise(text)
    return key[:BEGINNING] if len(key) >= BEGINNING else None


class Blocklist:
    """The texts, lines and beginnings that training must not hold."""

    def __init__(self, eval_texts: Iterable[str], rows: list[Row]) -> None:
        texts = set(eval_texts)
        common = _common_lines(rows)
        seeds = {normalise(text) for text in texts}
        for text in texts:
            seeds.update(line for line in lines_of(text) if line not in common)
        self.blocked = seeds | _linked(seeds, rows, hops=2)
        self.blocked.discard("")
        self.beginnings = {start for text in texts if (start := beginning(text))}

    def blocks(self, text: str) -> bool:
        """Return whether the text, its beginning or one of its long lines is blocked."""
        return (
            normalise(text) in self.blocked
            or beginning(text) in self.beginnings
            or any(line in self.blocked for line in lines_of(text))
        )

    def clean(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield the rows free of blocked texts; a blocked negative only leaves its row."""
        for row in rows:
            heading, page = split_heading(row.query)
            if any(map(self.blocks, (row.query, heading, row.positive, page or ""))):
                continue
            negatives = tuple(text for text in row.negatives if not self.blocks(text))
            if row.negatives and not negatives:
                continue
            yield replace(row, negatives=negatives)


def _common_lines(rows: list[Row]) -> set[str]:
    counts: Counter[str] = Counter()
    for row in rows:
        if row.group == "documents":
            counts.update(set(lines_of(row.positive)))
    return {line for line, count in counts.items() if count > COMMON_LINE}


def _linked(seeds: set[str], rows: list[Row], *, hops: int) -> set[str]:
    links: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.group in ("translations", "interface"):
            query, positive = normalise(row.query), normalise(row.positive)
            links[query].append(positive)
            links[positive].append(query)
    reached: set[str] = set()
    frontier = seeds
    for _ in range(hops):
        frontier = {text for seed in frontier for text in links.get(seed, ())} - reached - seeds
        reached |= frontier
    return reached


def overlap(train_texts: Iterable[str], eval_texts: Iterable[str]) -> set[str]:
    """Return the normalised texts, and beginnings of long texts, that both sides hold."""
    return _signatures(train_texts) & _signatures(eval_texts)


def _signatures(texts: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for text in texts:
        found.add(normalise(text))
        start = beginning(text)
        if start:
            found.add(start)
    found.discard("")
    return found
