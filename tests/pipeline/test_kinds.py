"""The kinds of stages that the whole recipe has no use for, joined in one of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from endpoint_double import Stub, serving
from language_doubles import prose
from training_doubles import write_lines

import culet
from culet.data.ledger import read_ledger
from culet.data.teacher_vectors import TeacherFolder
from culet.pipeline import read_recipe, run_recipe
from culet.train.log import read_log

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

[trim]
texts = ["{folder}/prose.jsonl"]
keep_unused = 32

[encoder]
steps = 2
batch_size = 4
window = 16

[encoder.head]
projection_dim = 24
embedding_dim = 16
widths = [16, 8]

[[encoder.sources]]
path = "{folder}/prose.jsonl"

[adapt]

[seq2seq]
steps = 2
batch_size = 4
max_target_tokens = 8
train = ["{folder}/told.jsonl"]
test = ["{folder}/told.jsonl"]

[generate]
inputs = ["{folder}/prose.jsonl"]
licence = "CC0-1.0"

[generate.endpoint]
url = "{url}"
model = "small"

[generate.queries]
per_document = 1

[prepare]
[[prepare.sources]]
path = "@generate"
name = "asked"

[teach]
teacher = "@encoder"

[[teach.sources]]
path = "@prepare"

[finetune]
init = "encoder"
steps = 2
batch_size = 8
max_tokens = 64

[[finetune.sources]]
path = "@prepare/data/asked"
teacher = "@teach"

[merge]
models = ["encoder", "finetune"]
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("kinds")
    write_lines(folder / "prose.jsonl", prose())
    (folder / "source.json").write_text('{"name": "prose", "licence": "CC-BY-4.0"}')
    told = [{"input": row["text"], "target": row["text"].split()[-1]} for row in prose(12)]
    write_lines(folder / "told.jsonl", told)
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch, serving(Stub()) as stub:
        patch.setenv("no_proxy", "127.0.0.1")
        stub.reply = lambda question, number: json.dumps(
            {"queries": [f"who {question.split()[-1]} {number}?"]}
        )
        path = folder / "recipe.toml"
        path.write_text(RECIPE.format(folder=folder, url=stub.url))
        assert run_recipe(path, say=said.append) == 0
    return path, said


def test_every_kind_leaves_what_the_next_one_takes(finished: tuple[Path, list[str]]) -> None:
    path, _ = finished
    run = path.parent / "run"
    stages = read_recipe(path).stages
    assert all(stage.output().exists() for stage in stages.values())
    assert stages["encoder"].needs == ("trim",)
    assert stages["adapt"].needs == ("trim",)  # the nearest decoder above, the trimmed one
    sizes = [
        json.loads((run / name / "checkpoint/config.json").read_text())["vocab_size"]
        for name in ("decoder", "trim")
    ]
    assert sizes[1] < sizes[0] <= 560
    assert culet.load(run / "merge/checkpoint", device="cpu").widths == (16, 8)


def test_what_a_model_wrote_is_taught_and_learnt(finished: tuple[Path, list[str]]) -> None:
    path, said = finished
    run = path.parent / "run"
    assert TeacherFolder(run / "teach/vectors").width == 16
    assert [line["distill"] > 0 for line in read_log(run / "finetune/log.jsonl")] == [True, True]
    assert any(line.startswith("seq2seq: ") and "match exactly" in line for line in said)


def test_the_card_names_every_source_from_the_decoder_on(
    finished: tuple[Path, list[str]],
) -> None:
    run = finished[0].parent / "run"

    def names(folder: str) -> list[tuple[str, str]]:
        entries = read_ledger(run / folder / "ledger.json")
        return [(entry.source, entry.licence) for entry in entries]

    prose = ("prose", "CC-BY-4.0")
    asked, taught = ("asked", "CC0-1.0"), ("vectors of encoder", "not stated")
    for stage in ("decoder", "trim", "encoder", "adapt", "seq2seq"):
        assert names(f"{stage}/checkpoint") == [prose]
    assert names("finetune/checkpoint") == [prose, asked, taught]
    assert names("merge/checkpoint") == [prose, asked, taught]
    assert "| asked | CC0-1.0 | 40 |" in (run / "merge/checkpoint/README.md").read_text()
    assert "| prose | CC-BY-4.0 |" in (run / "encoder/checkpoint/README.md").read_text()


def test_all_of_it_is_finished_without_the_endpoint(finished: tuple[Path, list[str]]) -> None:
    path, _ = finished
    said: list[str] = []
    run_recipe(path, say=said.append)
    names = list(read_recipe(path).stages)
    assert said[:-1] == [f"{name}: finished before, nothing to do" for name in names]
