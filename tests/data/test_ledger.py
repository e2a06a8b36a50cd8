"""The ledger: from the files beside the data to a table in a model card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from culet.data.ledger import (
    LedgerEntry,
    ledger_of,
    read_ledger,
    source_facts,
    write_ledger,
)
from culet.errors import InputError


def facts(folder: Path, file: str = "source.json", **values: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(json.dumps(values))
    return folder / "pairs.jsonl"


def test_a_source_says_what_it_is(tmp_path: Path) -> None:
    path = facts(
        tmp_path / "words", name="words", licence="MIT", packages=["a", "b", "c", "d", "e", "f"]
    )
    entry = LedgerEntry("words", "MIT", "a, b, c, d, e and 1 more")
    assert source_facts(path) == entry
    assert source_facts(path.parent) == entry


def test_a_manifest_of_a_built_corpus_counts_as_well(tmp_path: Path) -> None:
    path = facts(
        tmp_path / "x", "manifest.json", corpus="manuals", licence="GPL", packages=[{"id": "man"}]
    )
    assert source_facts(path) == LedgerEntry("manuals", "GPL", "man")


def test_a_source_without_a_word_has_no_licence(tmp_path: Path) -> None:
    assert source_facts(tmp_path / "pairs.jsonl") is None
    assert ledger_of([tmp_path / "pairs.jsonl"]) == [LedgerEntry("pairs.jsonl", "not stated")]


def test_a_ledger_follows_the_shards_of_its_sources(tmp_path: Path) -> None:
    entries = [LedgerEntry("one", "MIT", rows_read=3, rows_kept=2), LedgerEntry("two", "GPL")]
    write_ledger(tmp_path / "ledger.json", entries)
    shard = tmp_path / "data" / "one" / "00000.jsonl"
    shard.parent.mkdir(parents=True)
    assert read_ledger(tmp_path / "ledger.json") == entries
    assert ledger_of([shard]) == entries[:1]
    assert ledger_of([shard.parent, tmp_path / "data"]) == entries


def test_two_sources_of_one_name_do_not_hide_each_other(tmp_path: Path) -> None:
    paths = [facts(tmp_path / place, name="same", licence=place) for place in ("a", "b")]
    entries = ledger_of([*paths, *paths])
    assert [(entry.source, entry.licence) for entry in entries] == [
        ("same", "a"),
        ("same (2)", "b"),
    ]


@pytest.mark.parametrize("text", ["[", "[]", '{"sources": [{"licence": "x"}]}', "{}"])
def test_a_damaged_ledger_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ledger.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"ledger\.json: expected"):
        read_ledger(path)
