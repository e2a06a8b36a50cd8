"""The ledger: from the files beside the data to a table in a model card."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from training_doubles import checkpoint, toy_rows, write_lines

from culet.architecture.embedding_config import tiny
from culet.data.batches.sources import SourceConfig
from culet.data.ledger import (
    LedgerEntry,
    card_section,
    ledger_of,
    read_ledger,
    source_facts,
    training_papers,
    write_ledger,
)
from culet.errors import InputError
from culet.stages import merge, prepare, tune
from culet.stages.merge import MergeConfig
from culet.stages.prepare import DataSourceConfig, PrepareConfig
from culet.stages.tune import TuneConfig


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


def test_the_card_has_a_row_for_each_source() -> None:
    text = card_section(
        [
            LedgerEntry("one", "CC-BY-4.0", "deb|a", "Jo", rows_read=9, rows_kept=1234),
            LedgerEntry("two", made_by="a-model"),
        ]
    )
    assert "| one | CC-BY-4.0 | 1,234 | deb\\|a; by Jo |" in text
    assert "| two | not stated |  | written by a-model |" in text


def test_a_model_carries_what_it_and_its_parents_were_trained_on(tmp_path: Path) -> None:
    one = facts(tmp_path / "one", name="one", licence="MIT")
    two = facts(tmp_path / "two", name="two", licence="GPL")
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, parents, data in ((first, [], [one]), (second, [first], [one, two])):
        folder.mkdir()
        for name, text in training_papers(tiny(), parents, data).items():
            (folder / name).write_text(text)
    assert [entry.source for entry in read_ledger(second / "ledger.json")] == ["one", "two"]
    card = (second / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: sentence-transformers\n")
    assert "| one | MIT |  |  |\n| two | GPL |  |  |\n" in card
    assert "Training data" not in training_papers(tiny(), [], [])["README.md"]


def test_prepared_rows_a_tuned_and_a_merged_model_name_the_same_sources(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    raw = write_lines(tmp_path / "raw" / "toy.jsonl", toy_rows())
    (tmp_path / "raw" / "source.json").write_text('{"name": "toys", "licence": "CC0-1.0"}')
    prepared = prepare.run(PrepareConfig((DataSourceConfig(raw),)), out=tmp_path / "prepare")
    source = SourceConfig(prepared / "toy")
    start = checkpoint(tmp_path / "start")
    config = TuneConfig(steps=1, sources=(source,), batch_size=4, max_tokens=32)
    tuned = [
        tune.run(replace(config, seed=seed), init=start, out=tmp_path / str(seed), name="finetune")
        for seed in (0, 1)
    ]
    soup = merge.run(MergeConfig(), models=tuned, out=tmp_path / "merge")
    kept = json.loads((tmp_path / "prepare" / "done.json").read_text())["kept"]
    for folder in (tuned[0], soup):
        assert f"| toy | CC0-1.0 | {kept} |" in (folder / "README.md").read_text()
        (entry,) = read_ledger(folder / "ledger.json")
        assert (entry.source, entry.rows_kept) == ("toy", kept)


@pytest.mark.parametrize("text", ["[", "[]", '{"sources": [{"licence": "x"}]}', "{}"])
def test_a_damaged_ledger_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ledger.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"ledger\.json: expected"):
        read_ledger(path)
