"""A trained model carries where it comes from: its ledger, and the table in its card."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from training_doubles import checkpoint, toy_rows, write_lines

from culet.architecture.embedding_config import tiny
from culet.data.batches.sources import SourceConfig
from culet.data.ledger import LedgerEntry, read_ledger
from culet.stages import merge, prepare, tune
from culet.stages.contract import run_stage
from culet.stages.merge import MergeConfig
from culet.stages.prepare import DataSourceConfig, PrepareConfig
from culet.stages.provenance import card_and_ledger, card_section
from culet.stages.tune_settings import TuneConfig


def facts(folder: Path, file: str = "source.json", **values: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(json.dumps(values))
    return folder / "pairs.jsonl"


def test_the_card_has_a_row_for_each_source() -> None:
    text = card_section(
        [
            LedgerEntry("one", "CC-BY-4.0", "deb|a", "Jo", rows_read=9, rows_kept=1234),
            LedgerEntry("two", made_by="a-model"),
        ]
    )
    assert "| one | CC-BY-4.0 | 1,234 | deb\\|a; by Jo |" in text
    assert "| two | not stated |  | written by a-model |" in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a_name-1.0 (deb:a, npm:@b/c) & more", "a_name-1.0 (deb:a, npm:@b/c) &amp; more"),
        ("<script>alert('x')</script>", "&lt;script&gt;alert('x')&lt;/script&gt;"),
        ("![a](http://b/c.svg)", r"!\[a\](http://b/c.svg)"),
        ("*a* _b_ __c__ `d` ~~e~~ $f$ g_h", r"\*a\* \_b\_ \_\_c\_\_ \`d\` \~\~e\~\~ \$f\$ g_h"),
        (r"a\|b", r"a\\\|b"),
        ("one\ntwo\r\n| three | four", r"one two \| three \| four"),
        ("see\x1b[31m\u202enothing\u2066", r"see\[31mnothing"),
    ],
)
def test_what_files_beside_data_say_is_shown_in_a_card_as_it_is(
    tmp_path: Path, text: str, shown: str
) -> None:
    data = facts(tmp_path / "data", "manifest.json", corpus=text, licence=text, packages=[text])
    card = card_and_ledger(tiny(), [], [data])["README.md"]
    assert card.endswith(f"| {shown} | {shown} |  | {shown} |\n")


def test_a_model_carries_what_it_and_its_parents_were_trained_on(tmp_path: Path) -> None:
    one = facts(tmp_path / "one", name="one", licence="MIT")
    two = facts(tmp_path / "two", name="two", licence="GPL")
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, parents, data in ((first, [], [one]), (second, [first], [one, two])):
        folder.mkdir()
        for name, text in card_and_ledger(tiny(), parents, data).items():
            (folder / name).write_text(text)
    assert [entry.source for entry in read_ledger(second / "ledger.json")] == ["one", "two"]
    card = (second / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: sentence-transformers\n")
    assert "| one | MIT |  |  |\n| two | GPL |  |  |\n" in card
    assert "Training data" not in card_and_ledger(tiny(), [], [])["README.md"]


def test_prepared_rows_a_tuned_and_a_merged_model_name_the_same_sources(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    raw = write_lines(tmp_path / "raw" / "toy.jsonl", toy_rows())
    (tmp_path / "raw" / "source.json").write_text('{"name": "toys", "licence": "CC0-1.0"}')
    prepared = run_stage(
        prepare.STAGE, PrepareConfig((DataSourceConfig(raw),)), out=tmp_path / "prepare"
    )
    source = SourceConfig(prepared / "toy")
    start = checkpoint(tmp_path / "start")
    config = TuneConfig(steps=1, sources=(source,), batch_size=4, max_tokens=32)
    tuned = [
        run_stage(
            tune.STAGE,
            replace(config, seed=seed),
            init=start,
            out=tmp_path / str(seed),
            name="finetune",
        )
        for seed in (0, 1)
    ]
    soup = run_stage(merge.STAGE, MergeConfig(), models=tuned, out=tmp_path / "merge")
    kept = json.loads((tmp_path / "prepare" / "done.json").read_text())["kept"]
    for folder in (tuned[0], soup):
        assert f"| toy | CC0-1.0 | {kept} |" in (folder / "README.md").read_text()
        (entry,) = read_ledger(folder / "ledger.json")
        assert (entry.source, entry.rows_kept) == ("toy", kept)
