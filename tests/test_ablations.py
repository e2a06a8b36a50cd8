"""The benchmark that takes the recipe apart: what its arms change, and how its tables count."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from evaluate_doubles import write_task
from training_doubles import toy_rows, write_lines

ROOT = Path(__file__).parent.parent

RECIPE = """
[run]
folder = "{folder}/run"
device = "cpu"
threads = 1

[start]
corpus = ["{folder}/pairs.jsonl"]
vocab_size = 400

[start.shape]
num_layers = 1
model_dim = 16
ffn_dim = 16
num_heads = 2
head_dim = 8
projection_dim = 16
embedding_dim = 16
widths = [16, 8]

[prefinetune]
steps = 2
batch_size = 8
max_tokens = 40

[[prefinetune.sources]]
path = "{folder}/pairs.jsonl"

[finetune]
steps = 2
batch_size = 8
num_negatives = 1
max_tokens = 40

[[finetune.sources]]
path = "{folder}/negatives.jsonl"

[soup]
kind = "merge"
models = ["prefinetune", "finetune"]
"""


@pytest.fixture
def ablations(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import ablations

    monkeypatch.setattr(ablations, "NARROW", 8)
    scores = {name: (8 if width else None, p) for name, (width, p) in ablations.SCORES.items()}
    monkeypatch.setattr(ablations, "SCORES", scores)
    return ablations


def run(ablations: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    arguments = [
        *("ablations.py", str(folder / "recipe.toml"), "--folder", str(folder / "out")),
        *("--tasks", str(folder / "tasks"), "--seeds", "0", "1", *more),
    ]
    monkeypatch.setattr("sys.argv", arguments)
    ablations.main()


def test_arms_are_trained_beside_the_base_of_their_seed_and_only_once(
    ablations: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("matplotlib")
    rows = toy_rows(24, negatives=1)
    write_lines(tmp_path / "pairs.jsonl", toy_rows(36))
    write_lines(tmp_path / "negatives.jsonl", rows)
    write_task(
        tmp_path / "tasks/Animals",
        type="retrieval",
        metric="ndcg_at_10",
        files={
            "corpus.jsonl": [
                {"id": f"d{i}", "title": "", "text": row["positive"]} for i, row in enumerate(rows)
            ],
            "queries.jsonl": [{"id": f"q{i}", "text": row["query"]} for i, row in enumerate(rows)],
            "qrels.tsv": "query-id\tcorpus-id\tscore\n"
            + "".join(f"q{i}\td{i}\t1\n" for i in range(24)),
        },
    )
    (tmp_path / "recipe.toml").write_text(RECIPE.format(folder=tmp_path))
    chosen = ("--arms", "no hard negatives", "no prefinetuning")
    run(ablations, tmp_path, monkeypatch, *chosen)
    out = tmp_path / "out"
    found = json.loads((out / "ablations.json").read_text())
    arms = ["base", "no hard negatives", "no prefinetuning"]
    assert sorted((r["arm"], r["seed"]) for r in found["runs"]) == [
        (arm, seed) for arm in arms for seed in (0, 1)
    ]
    tokens = {run["arm"]: run["tokens"] for run in found["runs"] if run["seed"] == 0}
    for arm in arms[1:]:
        assert tokens[arm] == pytest.approx(tokens["base"], rel=0.35), arm  # steps are few here
    for name in ("start", "prefinetune"):  # the same bytes on the disk as the base's
        places = [out / arm / name / "done.json" for arm in ("base-0", "no-hard-negatives-0")]
        assert places[0].samefile(places[1])
    assert "| hard negatives | finetune |" in (out / "ablations.md").read_text()
    assert (out / "ablations.png").stat().st_size > 1000

    capsys.readouterr()
    monkeypatch.setattr(ablations, "run_recipe", None)  # nothing is to be trained again
    run(ablations, tmp_path, monkeypatch, *chosen)
    run(ablations, tmp_path, monkeypatch, "--report")
    assert capsys.readouterr().out.count("What each part brings") == 2


def test_an_interval_is_that_of_paired_differences(ablations: ModuleType) -> None:
    pairs = [
        ({"mean": 5.0}, {"mean": 4.0}),
        ({"mean": 7.0}, {"mean": 4.0}),
        ({"mean": 6}, {"mean": 4}),
    ]
    (row,) = ablations.differences("spread-out", "finetune", pairs)
    assert row["difference"] == 2.0
    assert row["half"] == pytest.approx(4.303 / 3**0.5, abs=1e-3)  # a deviation of 1
    assert ablations.cell(row) == "+2.00 ± 2.48"
    assert ablations.cell(row | {"half": 1.0}) == "**+2.00** ± 1.00"
    (alone,) = ablations.differences("x", "finetune", pairs[:1])
    assert alone["half"] is None


def test_all_lists_of_an_inverted_file_find_all_and_few_find_less(ablations: ModuleType) -> None:
    rng = np.random.default_rng(0)
    queries, documents = (ablations.unit(rng.normal(size=(n, 8))) for n in (20, 300))
    right = ablations.nearest(queries @ documents.T)
    whole = ablations.inverted_file(queries, documents, lists=10, looked_into=10)
    assert np.array_equal(whole, right)
    assert ablations.overlap(whole, right) == 1.0
    some = ablations.overlap(
        ablations.inverted_file(queries, documents, lists=10, looked_into=2), right
    )
    assert 0.2 < some < 1.0
    few: Any = ablations.inverted_file(queries, documents[:12], lists=6, looked_into=1)
    assert (few == -1).any()
    assert (few < 12).all()
