"""The whole recipe at the size of a toy: every joint between stages, once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from recipe_doubles import make

import culet
from culet.data.ledger import read_ledger
from culet.pipeline import read_recipe, run_recipe


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    pytest.importorskip("optuna")
    path = make(tmp_path_factory.mktemp("whole"))
    said: list[str] = []
    assert run_recipe(path, ["merge.dev=" + str(path.parent / "tasks")], say=said.append) == 0
    return path, said


def test_from_a_decoder_to_a_soup(finished: tuple[Path, list[str]]) -> None:
    path, said = finished
    run = path.parent / "run"
    assert sorted(f.name for f in run.iterdir()) == sorted(read_recipe(path).stages)
    embedder = culet.load(run / "merge/checkpoint", device="cpu")
    assert embedder.widths == (16, 8)
    assert said[-1].endswith(f"the model of stage merge is in {run}/merge/checkpoint")


def test_finetuning_takes_the_mixtures_that_were_found(finished: tuple[Path, list[str]]) -> None:
    import tomllib

    run = finished[0].parent / "run"
    kept = json.loads((run / "search_mixture/mixtures.json").read_text())["kept"]
    for name, point in zip(("finetune-a", "finetune-b"), kept, strict=True):
        tables = tomllib.loads((run / name / "recipe.toml").read_text())[name]
        shares = [share for share in point["shares"] if share > 0]
        assert [source["weight"] for source in tables["sources"]] == pytest.approx(shares)


def test_licences_follow_the_rows_through_mining_and_pretraining(
    finished: tuple[Path, list[str]],
) -> None:
    run = finished[0].parent / "run"
    found = {
        place: [entry.source for entry in read_ledger(run / place / "ledger.json")]
        for place in ("pretrain/encoder", "mine", "mine/data/toys", "merge/checkpoint")
    }
    assert found == {
        "pretrain/encoder": ["prose.jsonl"],
        "mine": ["toys"],
        "mine/data/toys": ["toys"],
        "merge/checkpoint": ["prose.jsonl", "toys", "pairs.jsonl"],
    }


def test_all_of_it_can_be_planned_before_and_shown_after(
    finished: tuple[Path, list[str]], tmp_path: Path
) -> None:
    names = list(read_recipe(finished[0]).stages)
    planned: list[str] = []
    (tmp_path / "new").mkdir()
    run_recipe(make(tmp_path / "new"), dry_run=True, say=planned.append)
    rows = {line.split()[0]: line.split() for line in planned[1 : len(names) + 1]}
    assert list(rows) == names
    assert {row[1] for row in rows.values()} == {"runs"}
    assert rows["decoder"][2:4] == ["2", "128"]  # 2 steps of 4 windows of 16 tokens
    assert rows["finetune-a"][2] == "2"
    assert planned[-1].startswith("in all: ")
    shown: list[str] = []
    run_recipe(finished[0], status=True, say=shown.append)
    assert [line.split()[2] for line in shown[1:]] == ["finished"] * len(names)


def test_all_of_it_is_finished_the_second_time_and_after_a_move(
    finished: tuple[Path, list[str]], tmp_path: Path
) -> None:
    path, _ = finished
    dev = "merge.dev=" + str(path.parent / "tasks")
    moved = (path.parent / "run").rename(tmp_path / "moved")
    said: list[str] = []
    run_recipe(path, [dev, f"run.folder={moved}"], say=said.append)
    moved.rename(path.parent / "run")
    names = list(read_recipe(path).stages)
    assert said[:-1] == [f"{name}: finished before, nothing to do" for name in names]
