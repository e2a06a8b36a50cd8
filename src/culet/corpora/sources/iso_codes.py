"""iso-codes: names of countries, regions, languages, currencies and scripts, and what is known.

The tables are JSON, the translations of the names message catalogues.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from culet.corpora.corpus import Corpus
from culet.corpora.readers.gettext_mo import messages
from culet.corpora.readers.packages import Package
from culet.corpora.rows import ENGLISH, Pair, Row, Triple
from culet.corpora.tidy import language

_TABLES = "usr/share/iso-codes/json/"
# Table to what its entries are and what its fields are called as relations.
_WORDS: dict[str, tuple[str, dict[str, str]]] = {
    "iso_3166-1": (
        "country",
        {
            "alpha_2": "country two-letter code",
            "alpha_3": "country three-letter code",
            "numeric": "country numeric code",
            "official_name": "official name",
            "common_name": "common name",
            "flag": "flag",
        },
    ),
    "iso_3166-2": ("subdivision", {"code": "subdivision code"}),
    "iso_639-2": ("language", {"alpha_2": "language two-letter code"}),
    "iso_639-3": ("language", {"alpha_3": "language three-letter code"}),
    "iso_639-5": ("language family", {"alpha_3": "language family code"}),
    "iso_4217": (
        "currency",
        {"alpha_3": "currency code", "numeric": "currency numeric code"},
    ),
    "iso_15924": ("script", {"alpha_4": "script code", "numeric": "script numeric code"}),
}
# iso_639-3 is left to the facts: names of 7,000 languages, mostly the same in every language.
_TRANSLATED = ("iso_3166-1", "iso_3166-2", "iso_639-2", "iso_4217", "iso_15924")


def _wanted(name: str) -> bool:
    table, _, ending = name.rpartition("/")[2].rpartition(".")
    return (ending == "json" and name.startswith(_TABLES) and table in _WORDS) or (
        ending == "mo" and "/LC_MESSAGES/" in name and table in _TRANSLATED
    )


def _read(package: Package) -> Iterator[Row]:
    tables: dict[str, list[dict[str, Any]]] = {}
    for name, data in package.members(_wanted):
        table, _, ending = name.rpartition("/")[2].rpartition(".")
        if ending == "json":
            (tables[table],) = json.loads(data).values()
            continue
        lang = language(name.split("/")[-3])
        if lang.partition("-")[0] == ENGLISH:
            continue
        for english, translation in messages(data):
            yield Pair(english, translation, f"{ENGLISH}-{lang}", table)
    yield from _facts(tables)


def _facts(tables: dict[str, list[dict[str, Any]]]) -> Iterator[Triple]:
    countries = {entry["alpha_2"]: entry["name"] for entry in tables.get("iso_3166-1", ())}
    regions = {entry["code"]: entry["name"] for entry in tables.get("iso_3166-2", ())}
    for table, entries in sorted(tables.items()):
        what, relations = _WORDS[table]
        for entry in entries:
            name = entry["name"]
            kind = entry.get("type", what) if table == "iso_3166-2" else what
            yield Triple(name, "is a", str(kind).lower())
            for field, relation in relations.items():
                if value := entry.get(field):
                    yield Triple(name, relation, str(value))
            if table == "iso_3166-2":
                country = entry["code"].partition("-")[0]
                parent = entry.get("parent", "")
                # a parent is written with or without the country in front
                whole = regions.get(parent) or regions.get(f"{country}-{parent}")
                if whole := whole or countries.get(country):
                    yield Triple(name, "part of", whole)


ISO_CODES = Corpus(
    name="iso-codes",
    about="Names of countries, regions, languages, currencies and scripts in about 150 languages.",
    licence="LGPL-2.1+",
    kind="deb",
    packages=("iso-codes",),
    read=_read,
)
