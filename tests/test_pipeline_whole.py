"""The whole recipe at the size of a toy: every joint between stages, once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from evaluate_doubles import write_task
from language_doubles import prose
from training_doubles import toy_rows, write_lines

import culet
from culet.data.ledger import read_ledger
from culet.pipeline import read_recipe, run_recipe

RECIPE = """
[run]
folder = "{folder}/run"
device = "cpu"
threads = 1

[decoder]
steps = 2
batch_size = 4
window = 16
vocab_size = 560

[decoder.shape]
num_layers = 2
model_dim = 16
ffn_dim = 24
num_heads = 2
num_kv_heads = 1
head_dim = 8
window = 8

[[decoder.sources]]
path = "{folder}/prose.jsonl"

[adapt]

[pretrain]
steps = 2
batch_size = 4
window = 16
teacher = "decoder"

[pretrain.head]
projection_dim = 24
embedding_dim = 16
widths = [16, 8]

[[pretrain.sources]]
path = "{folder}/prose.jsonl"

[prepare]

[[prepare.sources]]
path = "{folder}/pairs.jsonl"
name = "toys"

[prefinetune]
steps = 2
batch_size = 8
max_tokens = 64

[[prefinetune.sources]]
path = "@prepare"

[mine]

[[mine.sources]]
path = "@prepare"
name = "toys"

[search_mixture]
random = 1
rounds = 1
keep = 2
apart = 0.0
dev = "{folder}/tasks"

[search_mixture.trial]
steps = 1
batch_size = 8
max_tokens = 64

[[search_mixture.trial.sources]]
path = "@mine/data/toys"
weight = 3

[[search_mixture.trial.sources]]
path = "{folder}/pairs.jsonl"
weight = 1
name = "other"

[finetune-a]
kind = "finetune"
mixture = "search_mixture"
steps = 2
batch_size = 8
num_negatives = 1
max_tokens = 64

[[finetune-a.sources]]
path = "@mine/data/toys"

[[finetune-a.sources]]
path = "{folder}/pairs.jsonl"
name = "other"

[finetune-b]
like = "finetune-a"
mixture_number = 2

[merge]
models = ["finetune-a", "finetune-b"]
method = "greedy"
"""


def make(folder: Path) -> Path:
    rows = toy_rows(24)
    write_lines(folder / "pairs.jsonl", toy_rows(36))
    write_lines(folder / "prose.jsonl", prose())
    documents = [{"id": f"d{i}", "title": "", "text": r["positive"]} for i, r in enumerate(rows)]
    write_task(
        folder / "tasks/Animals",
        type="retrieval",
        metric="ndcg_at_10",
        files={
            "corpus.jsonl": documents,
            "queries.jsonl": [{"id": f"q{i}", "text": row["query"]} for i, row in enumerate(rows)],
            "qrels.tsv": "query-id\tcorpus-id\tscore\n"
            + "".join(f"q{i}\td{i}\t1\n" for i in range(24)),
        },
    )
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(folder=folder))
    return path


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
