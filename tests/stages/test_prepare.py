"""The stage from raw rows to shards, report and ledger; killed at every place and resumed."""

from __future__ import annotations

import gzip
import json
import shutil
import tomllib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training_doubles import checkpoint, toy_rows, write_lines

from culet.data.ledger import read_ledger
from culet.data.prepare import chunks as rows
from culet.data.prepare import passes, survey
from culet.data.prepare.consistency import ConsistencyConfig
from culet.data.prepare.contamination import ContaminationConfig
from culet.data.prepare.filters import LanguageConfig, LengthConfig
from culet.data.prepare.minhash import NearConfig
from culet.data.records import read_records
from culet.errors import InputError, Interrupted, RecipeError
from culet.files.settings import build, to_tables
from culet.stages import prepare
from culet.stages.contract import run_stage
from culet.stages.generate import GenerateConfig
from culet.stages.prepare import DataSourceConfig, PrepareConfig

STONES = ("amber", "basalt", "coral", "diamond", "emerald", "flint", "garnet", "halite")
SENTENCES = [
    f"Sentence {i} of the {word} chapter tells of {word} things, {i} of them, in {word} words."
    for i, word in enumerate(
        ["amber", "basalt", "coral", "diamond", "emerald", "flint", "garnet", "halite"]
    )
]
LEAKED = "the evaluation set holds this very sentence about gems and nothing else"


def pair(i: int, **more: Any) -> dict[str, Any]:
    return {"query": f"question {i}", "positive": SENTENCES[i], "lang": "en"} | more


FIRST = [
    pair(0),
    pair(1),
    pair(0, query="Question  0"),  # exact
    pair(2, positive=SENTENCES[1].replace("chapter", "chapters"), query="question 1"),  # near
    pair(3, query="?"),  # short
]
SECOND: list[dict[str, Any]] = [
    {"text": SENTENCES[4]},
    {"text": f"As we know, {LEAKED}."},
    {"query": "question 1", "positive": SENTENCES[1]},  # exact, of the first source
    pair(5, lang="de-fr"),
    pair(6, source="s"),
]


def lines(path: Path, values: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join((v if isinstance(v, str) else json.dumps(v)) + "\n" for v in values)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def gems(folder: Path) -> Path:
    """Write one task: labelled texts, of which one is `LEAKED`."""
    task = {"name": "Gems", "type": "clustering", "metric": "v_measure"}
    lines(folder / "Gems" / "task.json", [task])
    lines(folder / "Gems" / "test.jsonl", [{"text": LEAKED, "label": "a"}])
    return folder


@pytest.fixture
def config(tmp_path: Path) -> PrepareConfig:
    first = lines(tmp_path / "in" / "first.jsonl", FIRST)
    second = lines(tmp_path / "in" / "second.jsonl.gz", SECOND)
    return PrepareConfig(
        (DataSourceConfig(first, licence="MIT", origin="made"), DataSourceConfig(second)),
        length=LengthConfig(),
        language=LanguageConfig(keep=("en", "fr"), identify=False),
        contamination=ContaminationConfig((gems(tmp_path / "tasks"),), words=6),
        near=NearConfig(min_chars=20),
        compress=False,
    )


def run(config: PrepareConfig, out: Path, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Run the stage and return what it recorded."""
    assert run_stage(prepare.STAGE, config, out=out, say=say, name="prepare") == out / "data"
    done: dict[str, Any] = json.loads((out / "done.json").read_text())
    return done


def begins(config: PrepareConfig, out: Path) -> bool:
    """Run the stage and return whether it had anything to do."""
    said: list[str] = []
    run_stage(prepare.STAGE, config, out=out, say=said.append, name="prepare")
    return said != ["prepare: finished before, nothing to do"]


def written(out: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((out / "data").rglob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        found.setdefault(path.parent.name, []).extend(rows)
    return found


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_rows_that_pass_stay_as_they_are(config: PrepareConfig, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said: list[str] = []
    result = run(config, out, said.append)
    assert (result["read"], result["kept"]) == (10, 4)
    assert written(out) == {"first": FIRST[:2], "second": [SECOND[0], SECOND[4]]}
    assert not (out / "state").exists()
    assert "no licence is stated for second" in said[0]
    assert said[-1] == (
        "prepare: 4 of 10 rows stay; 1 short, 1 language, 1 contaminated, 2 exact, 1 near"
    )
    again = run(config, out, said.append)
    assert again == result
    assert said[-1] == "prepare: finished before, nothing to do"


def test_the_report_says_what_went_and_why(config: PrepareConfig, tmp_path: Path) -> None:
    run(config, tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["rows"] == {"read": 10, "kept": 4}
    assert report["sources"]["first"] == {
        "read": 5,
        "kept": 2,
        "removed": {"short": 1, "exact": 1, "near": 1},
    }
    assert report["languages"] == {"en": 3, "not declared": 1}
    task = report["contamination"]["tasks"]["Gems"]
    assert (task["rows"], task["run"], task["sources"]) == (1, 1, {"second": 1})
    assert task["examples"][0]["text"] == f"As we know, {LEAKED}."
    assert report["evaluation"] == {"tasks": 1, "texts": 1}
    examples = report["examples"]
    assert examples["short"][0]["row"].endswith("first.jsonl:5")
    assert examples["near"][0]["row"]["row"].endswith("first.jsonl:4")
    assert examples["near"][0]["like"]["row"].endswith("first.jsonl:2")
    assert {e["like"]["row"].split("/")[-1] for e in examples["exact"]} == {
        "first.jsonl:1",
        "first.jsonl:2",
    }
    assert examples["contaminated"][0]["tasks"] == "Gems"
    assert set(report["seconds"]) == {"examine", "exact", "near", "write"}


def test_the_ledger_says_where_rows_come_from(config: PrepareConfig, tmp_path: Path) -> None:
    run(config, tmp_path / "out")
    first, second = read_ledger(tmp_path / "out" / "ledger.json")
    assert (first.source, first.licence, first.origin) == ("first", "MIT", "made")
    assert (first.rows_read, first.rows_kept) == (5, 2)
    assert (second.source, second.licence, second.rows_kept) == ("second", "not stated", 2)
    assert len(first.fingerprint) == 16


def test_contamination_can_be_counted_only(config: PrepareConfig, tmp_path: Path) -> None:
    assert config.contamination is not None
    only = replace(config, contamination=replace(config.contamination, remove=False))
    assert run(only, tmp_path / "out")["kept"] == 5
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["contamination"]["rows"] == 1
    assert "contaminated" not in report["removed"]


def test_without_filters_all_rows_stay(config: PrepareConfig, tmp_path: Path) -> None:
    plain = PrepareConfig(config.sources, exact=False)
    assert run(plain, tmp_path / "out")["kept"] == 10
    records = read_records([tmp_path / "out" / "data" / "first"])
    assert [record.query for record in records] == [row["query"] for row in FIRST]


class Killed(BaseException):
    """Stands for kill -9: nothing is tidied up."""


@pytest.mark.parametrize("after", range(1, 40, 3))
def test_a_killed_run_ends_as_if_it_had_not_been(
    config: PrepareConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr(rows.chunks, "__kwdefaults__", {"max_rows": 2, "max_bytes": 1 << 20})
    config = replace(config, shard_rows=1, bad_lines="isolate", compress=True)
    lines(tmp_path / "in" / "first.jsonl", [*FIRST, "{"])
    run(config, tmp_path / "whole")
    saves = 0
    save = survey.Survey.save

    def dying(self: survey.Survey, **more: Any) -> None:
        nonlocal saves
        saves += 1
        if saves == after:
            raise Killed
        save(self, **more)

    monkeypatch.setattr(survey.Survey, "save", dying)
    try:
        run(config, tmp_path / "out")
        assert after > saves
    except Killed:
        monkeypatch.setattr(survey.Survey, "save", save)
        run(config, tmp_path / "out")
    ours, theirs = tree(tmp_path / "out"), tree(tmp_path / "whole")
    reports = [json.loads(found.pop("report.json")) for found in (ours, theirs)]
    for report in reports:
        for key in ("seconds", "rows_per_second", "peak_memory_mb"):
            report.pop(key)
    assert reports[0] == reports[1]
    ours.pop("done.json"), theirs.pop("done.json")  # which names the report's content
    assert ours == theirs


def test_several_processes_leave_what_one_leaves(
    config: PrepareConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows.chunks, "__kwdefaults__", {"max_rows": 2, "max_bytes": 1 << 20})
    run(config, tmp_path / "one")
    run(replace(config, workers=2), tmp_path / "two")
    ours, theirs = tree(tmp_path / "two"), tree(tmp_path / "one")
    reports = [json.loads(found.pop("report.json")) for found in (ours, theirs)]
    assert reports[0]["examples"] == reports[1]["examples"]
    assert reports[0]["contamination"] == reports[1]["contamination"]
    for name in ("done.json", "recipe.toml"):
        ours.pop(name), theirs.pop(name)
    assert ours == theirs
    lines(tmp_path / "in" / "first.jsonl", [*FIRST, "{"])
    with pytest.raises(
        InputError, match=r"first\.jsonl:6: expected a JSON object, got invalid JSON"
    ):
        run(replace(config, workers=2), tmp_path / "bad")


def test_ctrl_c_says_how_to_go_on(
    config: PrepareConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(passes, "remove_near", interrupted)
    with pytest.raises(Interrupted, match="stopped; run the same again to go on"):
        run(config, tmp_path / "out")
    monkeypatch.undo()
    assert run(config, tmp_path / "out")["kept"] == 4


def test_other_data_begins_anew_and_keeps_the_earlier_run(
    config: PrepareConfig, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(config, out)
    lines(tmp_path / "in" / "first.jsonl", FIRST[:1])
    said: list[str] = []
    assert run(config, out, said.append)["kept"] == 4  # pair(1) now comes from the second source
    assert "the earlier run is kept in" in said[0]
    lines(tmp_path / "tasks" / "Gems" / "test.jsonl", [{"text": "another text", "label": "a"}])
    assert run(config, out)["kept"] == 5


def test_a_bad_line_stops_the_run_or_is_put_aside(config: PrepareConfig, tmp_path: Path) -> None:
    path = lines(tmp_path / "in" / "first.jsonl", [FIRST[0], '{"query": 3}', FIRST[1]])
    with pytest.raises(InputError, match=r"first\.jsonl:2: expected a text .* under 'query'"):
        run(config, tmp_path / "out")
    isolating = replace(config, bad_lines="isolate")
    run(isolating, tmp_path / "out")
    assert written(tmp_path / "out")["first"] == FIRST[:2]
    (reject,) = (tmp_path / "out" / "rejects" / "first").iterdir()
    told = json.loads(reject.read_text())
    assert told["line"] == '{"query": 3}'
    assert told["error"].startswith(f"{path}:2: expected a text that is not blank under 'query'")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["removed"]["bad line"] == 1
    assert "first.jsonl:2" in report["examples"]["bad line"][0]["error"]


def test_what_utf8_cannot_say_stops_no_run(config: PrepareConfig, tmp_path: Path) -> None:
    half = pair(1, note="\ud800x")
    lines(tmp_path / "in" / "first.jsonl", [pair(0, lang="\ud800"), half])
    with pytest.raises(InputError, match=r"first\.jsonl:1: the field 'lang' is not valid Unicode"):
        run(config, tmp_path / "out")
    run(replace(config, bad_lines="isolate"), tmp_path / "out")
    assert written(tmp_path / "out")["first"] == [half]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["removed"]["bad line"] == 1


@pytest.mark.parametrize("examples", [0, 2])
def test_no_more_examples_of_duplicates_than_asked_for(tmp_path: Path, examples: int) -> None:
    near = [pair(0, positive=SENTENCES[0].replace("chapter", f"chapter{c}")) for c in "abcd"]
    path = lines(tmp_path / "a.jsonl", [pair(0)] * 5 + near)
    many = PrepareConfig(
        (DataSourceConfig(path),), near=NearConfig(min_chars=20), examples=examples
    )
    run(many, tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["removed"] == {"exact": 4, "near": 4}
    for reason in ("exact", "near"):
        assert len(report["examples"].get(reason, [])) == examples


def test_a_damaged_file_stops_the_run(config: PrepareConfig, tmp_path: Path) -> None:
    path = tmp_path / "in" / "second.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"second\.jsonl\.gz:\d+: cannot be read: "):
        run(replace(config, bad_lines="isolate"), tmp_path / "out")


def test_sources_without_any_row_are_an_error(tmp_path: Path) -> None:
    empty = PrepareConfig((DataSourceConfig(lines(tmp_path / "e.jsonl", [])),))
    with pytest.raises(InputError, match="the sources hold no row at all"):
        run(empty, tmp_path / "out")


def test_a_source_may_be_all_removed(config: PrepareConfig, tmp_path: Path) -> None:
    lines(tmp_path / "in" / "first.jsonl", [pair(0, query="?")])
    run(config, tmp_path / "out")
    assert set(written(tmp_path / "out")) == {"second"}
    assert not list((tmp_path / "out" / "data" / "first").iterdir())


class FirstWord:
    """An embedder that finds a document whose fifth word is the query's last, and no other."""

    def __call__(self, model: str | None, *, device: str, threads: int | None) -> FirstWord:
        return self

    def encode_query(self, texts: Sequence[str], **_: Any) -> Any:
        return self._vectors([text.split()[-1] for text in texts])

    def encode_document(self, texts: Sequence[str], **_: Any) -> Any:
        return self._vectors([text.split()[1] for text in texts])

    def _vectors(self, words: list[str]) -> Any:
        import numpy as np

        known = [str(i) for i in range(8)]
        return np.array([[float(w == k) for k in known] for w in words], np.float32)


def test_inconsistent_pairs_go(
    config: PrepareConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "load", FirstWord())
    rows = [pair(i) for i in range(6)] + [pair(7, query="which is 3"), {"text": "just a text"}]
    lines(tmp_path / "in" / "first.jsonl", rows)
    judged = ConsistencyConfig(top=1)
    plain = PrepareConfig(config.sources[:1], consistency=judged, compress=False)
    run(plain, tmp_path / "out")
    assert written(tmp_path / "out")["first"] == [*rows[:6], rows[7]]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["removed"] == {"inconsistent": 1}
    assert report["examples"]["inconsistent"][0]["query"] == "which is 3"
    others = replace(
        plain, sources=config.sources, consistency=replace(judged, sources=("second",))
    )
    run(others, tmp_path / "others")
    assert rows[6] in written(tmp_path / "others")["first"]


def test_another_model_under_the_name_of_the_judge_judges_anew(
    config: PrepareConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "load", FirstWord())
    model = checkpoint(tmp_path / "model")
    judged = replace(config, consistency=ConsistencyConfig(model=model))
    assert begins(judged, tmp_path / "out")
    assert not begins(judged, tmp_path / "out")
    shutil.rmtree(model)
    checkpoint(model, seed=5)
    assert begins(judged, tmp_path / "out")


@pytest.mark.parametrize("after", range(4, 12))
def test_a_killed_check_of_consistency_goes_on_from_its_last_save(
    config: PrepareConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr(passes, "_JUDGED", 2)
    monkeypatch.setattr(passes, "SAVE_SECONDS", -1.0)
    monkeypatch.setattr(prepare, "load", FirstWord())
    rows = [pair(i, query=f"{STONES[i]} is {i // 2 * 2}") for i in range(8)]
    lines(tmp_path / "in" / "first.jsonl", rows)
    judged = PrepareConfig(config.sources[:1], consistency=ConsistencyConfig(top=1), compress=False)
    saves, save = 0, survey.Survey.save

    def dying(self: survey.Survey, **more: Any) -> None:
        nonlocal saves
        saves += 1
        save(self, **more)
        if saves == after:
            raise Killed

    monkeypatch.setattr(survey.Survey, "save", dying)
    with suppress(Killed):
        run(judged, tmp_path / "out")
    assert saves >= after or (tmp_path / "out" / "done.json").exists()
    monkeypatch.setattr(survey.Survey, "save", save)
    assert run(judged, tmp_path / "out")["kept"] == 4
    assert written(tmp_path / "out")["first"] == rows[::2]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["removed"] == {"inconsistent": 4}
    assert len(report["examples"]["inconsistent"]) == 3


def test_an_unlicensed_source_can_be_refused(config: PrepareConfig, tmp_path: Path) -> None:
    strict = replace(config, unlicensed="refuse")
    with pytest.raises(RecipeError, match=r"no licence is stated for .*second\.jsonl\.gz"):
        run(strict, tmp_path / "out")
    (tmp_path / "in" / "source.json").write_text('{"licence": "GPL-3.0"}')
    run(strict, tmp_path / "out")
    licences = [entry.licence for entry in read_ledger(tmp_path / "out" / "ledger.json")]
    assert licences == ["MIT", "GPL-3.0"]


def test_a_recipe_table_says_it_all(config: PrepareConfig) -> None:
    assert build(PrepareConfig, to_tables(config), where="prepare") == config


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"sources": []}, "at least one source is needed"),
        ({"sources": [{"path": "a/pairs.jsonl"}, {"path": "b", "name": "a-pairs"}]}, "twice: a-pa"),
        ({"sources": [{"path": "a.jsonl", "name": "x/y"}]}, "a name that can be a folder's"),
        (
            {"sources": [{"path": "a.jsonl.gz"}], "consistency": {"sources": ["b"]}},
            "consistency.sources names b; the sources are a",
        ),
        (
            {"sources": [{"path": "a"}], "shard_rows": 0},
            "shard_rows and workers must be at least 1",
        ),
    ],
)
def test_a_table_that_cannot_be_is_refused(table: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        build(PrepareConfig, table, where="prepare")


def test_the_tables_of_the_documentation_can_be_used() -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    tables: dict[str, Any] = {}
    for block in page.split("```toml\n")[1:]:
        tables |= tomllib.loads(block.split("```")[0])
    prepared = build(PrepareConfig, tables["prepare"], where="prepare")
    assert [source.called for source in prepared.sources] == ["wordnet", "manuals"]
    assert build(GenerateConfig, tables["generate"], where="generate").queries is not None
    for word, default in (
        ("`words` (13)", ContaminationConfig((Path(),)).words),
        ("`shortest` (5)", ContaminationConfig((Path(),)).shortest),
        ("`min_chars` (100)", NearConfig().min_chars),
        ("`top` (3)", ConsistencyConfig().top),
    ):
        assert word in page
        assert f"({default})" in word


def test_an_unknown_task_is_named(config: PrepareConfig, tmp_path: Path) -> None:
    assert config.contamination is not None
    wrong = replace(config, contamination=replace(config.contamination, only=("Stones",)))
    with pytest.raises(RecipeError, match=r"contamination\.only names Stones; the tasks are Gems"):
        run(wrong, tmp_path / "out")


def test_a_full_disk_leaves_nothing_that_looks_whole(
    config: PrepareConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(passes, "pair_or_text", full)
    with pytest.raises(InputError, match="No space left on device"):
        run(config, tmp_path / "out")
    assert [path for path in (tmp_path / "out" / "data").rglob("*") if path.is_file()] == []
    monkeypatch.undo()
    assert run(config, tmp_path / "out")["kept"] == 4
    shutil.rmtree(tmp_path / "out")


def test_a_run_that_was_moved_is_still_the_same_run(tmp_path: Path) -> None:
    (tmp_path / "run" / "made").mkdir(parents=True)
    write_lines(tmp_path / "run/made/rows.jsonl", toy_rows())

    def go(run: Path) -> bool:
        config = PrepareConfig((DataSourceConfig(run / "made/rows.jsonl", name="toys"),))
        return begins(config, run / "prepare")

    assert go(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    assert not go(tmp_path / "elsewhere")
