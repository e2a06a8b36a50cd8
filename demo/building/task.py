"""What an evaluation task is, and the draws all kinds of tasks share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from building.corpora import Row
from building.text import normalise

BODY = 400  # letters of an evaluation document
ISO = {
    "en": "eng-Latn",
    "de": "deu-Latn",
    "es": "spa-Latn",
    "fr": "fra-Latn",
    "it": "ita-Latn",
    "pl": "pol-Latn",
    "vi": "vie-Latn",
    "ja": "jpn-Jpan",
    "ko": "kor-Hang",
    "zh-CN": "cmn-Hans",
    "ru": "rus-Cyrl",
    "uk": "ukr-Cyrl",
    "ar": "ara-Arab",
    "fa": "fas-Arab",
    "he": "heb-Hebr",
    "hi": "hin-Deva",
    "bn": "ben-Beng",
    "th": "tha-Thai",
}


@dataclass(frozen=True)
class Task:
    """One evaluation task: file name (below the task's folder, without ending) → records."""

    name: str
    type: str
    metric: str
    languages: tuple[str, ...]
    sources: tuple[str, ...]
    description: str
    files: dict[str, list[dict[str, Any]]]
    extra: dict[str, Any] = field(default_factory=dict)

    def texts(self) -> Iterator[str]:
        """Yield every text of the task."""
        for records in self.files.values():
            for record in records:
                for key, value in record.items():
                    if key in ("text", "title", "a", "b", "query") and value:
                        yield value
                    elif key in ("positive", "negative"):
                        yield from value


def distinct(rows: Iterable[Row], count: int | None = None) -> list[Row]:
    """Return the first rows of which no two share a query or a positive."""
    kept: list[Row] = []
    seen: set[str] = set()
    for row in rows:
        keys = {normalise(row.query), normalise(row.positive)}
        if "" not in keys and not keys & seen:
            seen |= keys
            kept.append(row)
    return kept[:count]


def row_sizes(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    sizes: dict[str, int] = defaultdict(int)
    for record in records:
        sizes[record["subset"]] += 1
    return [{"name": name, "n": size} for name, size in sizes.items()]
