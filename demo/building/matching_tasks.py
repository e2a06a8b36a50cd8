"""Bitext mining and pair classification: two texts that mean the same, or do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from building.corpora import Row
from building.mining import nearest
from building.task import ISO, Task, distinct, row_sizes
from building.text import weight

BITEXT_LANGUAGES = ("de", "es", "fr", "ja", "ko", "pl", "ru", "zh-CN")
INTERFACE_LANGUAGES = ("ar", "bn", "fa", "he", "hi", "th", "uk", "vi")
# Not the package descriptions: their names and numbers give the translation away.
MANUALS = ("libreoffice-help", "desktop-help", "debian-manuals")
PAIR_LANGUAGES = ("de", "es", "ja", "ru", "zh-CN")


def docs_bitext(rows: Sequence[Row]) -> Task:
    """English paragraph ↔ its translation."""
    rows = [row for row in rows if weight(row.query) >= 60 and row.source.startswith(MANUALS)]
    records = _bitext(rows, BITEXT_LANGUAGES, each=80)
    return Task(
        "DocsBitext",
        "bitext",
        "f1",
        tuple(ISO[lang] for lang in ("en", *BITEXT_LANGUAGES)),
        MANUALS,
        "paragraph of a manual in English -> the same paragraph in another language",
        {"pairs": records},
        {"subsets": row_sizes(records)},
    )


def interface_bitext(rows: Sequence[Row]) -> Task:
    """English message ↔ its translation, in scripts the manuals lack."""
    rows = [row for row in rows if weight(row.query) >= 20 and "short-tr" not in row.source]
    records = _bitext(rows, INTERFACE_LANGUAGES, each=60)
    return Task(
        "InterfaceBitext",
        "bitext",
        "f1",
        tuple(ISO[lang] for lang in ("en", *INTERFACE_LANGUAGES)),
        ("gettext-catalogues", "ui-translations"),
        "message of a program in English -> its translation",
        {"pairs": records},
        {"subsets": row_sizes(records)},
    )


def translation_pairs(rows: Sequence[Row]) -> Task:
    """Paragraph with its translation, or with that of the English paragraph most like it."""
    records: list[dict[str, Any]] = []
    rows = [row for row in rows if row.source.startswith(MANUALS)]
    for lang in PAIR_LANGUAGES:
        # The bitext task took its pairs from the front; these come from the back.
        chosen = distinct(row for row in reversed(rows) if row.lang == f"en-{lang}")
        records += _true_and_false(chosen, nearest([row.query for row in chosen]), lang, each=40)
    return Task(
        "TranslationPairs",
        "pair_classification",
        "max_ap",
        tuple(ISO[lang] for lang in ("en", *PAIR_LANGUAGES)),
        MANUALS,
        "paragraph and its translation (1), or the translation of the English paragraph that "
        "shares its rarest words (0)",
        {"pairs": records},
        {"subsets": row_sizes(records)},
    )


def synonym_pairs(rows: Sequence[Row]) -> Task:
    """Synonym with its term, or with a sibling term."""
    chosen = [row for row in rows if row.source.endswith("-synonym")]
    records = []
    for row in distinct(chosen, 200):
        records.append({"a": row.query, "b": row.positive, "label": 1})
        records.append({"a": row.query, "b": row.negatives[0], "label": 0})
    return Task(
        "SynonymPairs",
        "pair_classification",
        "max_ap",
        ("eng-Latn",),
        ("bio-ontologies",),
        "a synonym and the term it stands for (1), or a sibling of that term (0)",
        {"pairs": records},
    )


def _bitext(rows: Sequence[Row], languages: Sequence[str], *, each: int) -> list[dict[str, Any]]:
    return [
        {"a": row.query, "b": row.positive, "subset": f"en-{lang}"}
        for lang in languages
        for row in distinct([row for row in rows if row.lang == f"en-{lang}"], each)
    ]


def _true_and_false(
    rows: Sequence[Row], neighbours: Sequence[int | None], lang: str, *, each: int
) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for row, other in zip(rows, neighbours, strict=True):
        if other is not None and len(records) < 2 * each:
            subset = f"en-{lang}"
            records.append({"a": row.query, "b": row.positive, "label": 1, "subset": subset})
            false = rows[other].positive
            records.append({"a": row.query, "b": false, "label": 0, "subset": subset})
    return records
