"""Several processes: the same numbers as one, one voice, and none left behind when one dies."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import distributed_doubles as doubles
import numpy as np
import pytest
import torch
from distributed_doubles import run, stage_settings
from training_doubles import (
    checkpoint,
    random_batch,
    taught,
    toy_rows,
    weights,
    write_lines,
    write_sources,
)

from culet.checkpoints.embedding import read_embedding_model
from culet.errors import Interrupted, RecipeError
from culet.stages import tune
from culet.stages.contract import run_stage
from culet.train import heartbeat
from culet.train import processes as distributed
from culet.train.gather import gather_batch
from culet.train.heartbeat import Heartbeat
from culet.train.log import read_log
from culet.train.processes import ALONE, find_device

WAYS: list[dict[str, Any]] = [
    {"name": "ddp", "parallel": "ddp"},
    {"name": "fsdp", "parallel": "fsdp"},
    {"name": "fsdp-full", "parallel": "fsdp", "full": True},
    {"name": "from-one", "parallel": "ddp"},
    {"name": "from-one-split", "parallel": "fsdp"},
    {"name": "to-one", "parallel": "ddp", "stop_after": 3},
    {"name": "to-one-whole", "parallel": "fsdp", "stop_after": 3},
]
NOISY: list[dict[str, Any]] = [
    {"name": "noisy", "parallel": "ddp", "dropout": 0.2},
    {"name": "noisy-parts", "parallel": "ddp", "dropout": 0.2, "stop_after": 3},
    {"name": "noisy-parts", "parallel": "ddp", "dropout": 0.2},
]


def rows_with_everything() -> list[dict[str, Any]]:
    """Records that share queries and positives with others."""
    rows = toy_rows(20, negatives=2)
    for i, row in enumerate(rows):
        row["query"] = rows[i - i % 2]["query"]
        row["positive"] = rows[i - i % 5]["positive"]
    return rows


def tune_alone(folder: Path, name: str, *, stop_after: int = 0, full: bool = False) -> None:
    """Train the stage in this process, to its end or until a signal in some step."""
    config = stage_settings(folder)
    if full:
        config = doubles.replace(config, lora=None)
    step, left = tune.contrastive_step, stop_after

    def counted(*args: Any, **settings: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            signal.raise_signal(signal.SIGTERM)
        return step(*args, **settings)

    with pytest.MonkeyPatch.context() as patch, doubles.suppress(Interrupted):
        patch.setattr(tune, "contrastive_step", counted)
        out = folder / name
        run_stage(
            tune.STAGE, config, init=folder / "start", out=out, name="toy", say=lambda line: None
        )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same stage trained by one process and, in each of the ways, by two."""
    folder = tmp_path_factory.mktemp("trained")
    checkpoint(folder / "start")
    write_sources(folder / "data")
    write_lines(folder / "data/a.jsonl", rows_with_everything())
    taught(folder / "data/taught", rows_with_everything(), 6)
    (folder / "ways.json").write_text(json.dumps(WAYS + NOISY))
    for name in ("from-one", "from-one-split"):
        tune_alone(folder, name, stop_after=3)
        assert not (folder / name / "done.json").exists()
    for code, said in run("stages", folder):
        assert code == 0, said
    for name in ("to-one", "to-one-whole"):
        assert not (folder / name / "done.json").exists()
        tune_alone(folder, name)
    tune_alone(folder, "one")
    tune_alone(folder, "one-full", full=True)
    return folder


@pytest.mark.parametrize("way", [way["name"] for way in WAYS])
def test_two_processes_learn_what_one_learns(trained: Path, way: str) -> None:
    one = trained / ("one-full" if way == "fsdp-full" else "one")
    expected, found = read_log(one / "log.jsonl"), read_log(trained / way / "log.jsonl")
    assert [line["step"] for line in found] == list(range(1, 8))
    for key in ("loss", "contrastive", "spread_out", "distill", "temperature"):
        values = [[line.get(key, 0.0) for line in log] for log in (expected, found)]
        assert np.allclose(*values, rtol=0, atol=2e-5), key
    assert [line["source"] for line in expected] == [line["source"] for line in found]
    # a text that both processes hold counts in both
    assert all(f["tokens"] >= e["tokens"] for e, f in zip(expected, found, strict=True))
    right = read_embedding_model(one / "checkpoint").arrays()
    for name, value in read_embedding_model(trained / way / "checkpoint").arrays().items():
        assert np.allclose(value, right[name], rtol=0, atol=1e-5), name


def test_training_moved_the_weights_by_more_than_the_tolerance(trained: Path) -> None:
    before = read_embedding_model(trained / "start").arrays()
    after = read_embedding_model(trained / "one" / "checkpoint").arrays()
    assert max(np.abs(after[name] - before[name]).max() for name in before) > 1e-2


def test_as_many_processes_make_the_same_noise_again(trained: Path) -> None:
    assert weights(trained / "noisy") == weights(trained / "noisy-parts")
    assert weights(trained / "noisy") != weights(trained / "ddp")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("failing", "process 1 stopped: it is out of paper; run the same command again to go on"),
        ("killed", "process 1 was killed or crashed without a word; run the same command again"),
        ("ended", "process 1 was killed or crashed without a word; run the same command again"),
    ],
)
def test_when_one_process_stops_the_other_says_why_and_stops_too(
    name: str, message: str, trained: Path
) -> None:
    first, second = run("stopping", trained / name, end_others=name == "ended")
    assert first[0] == 2
    assert message in first[1]
    assert second[0] == (2 if name == "failing" else -signal.SIGKILL)
    assert (trained / name / "state" / "state.json").exists()  # of the save after step 2
    assert not (trained / name / "done.json").exists()


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
widths = [16]

[finetune]
steps = 3
batch_size = 5
max_tokens = 40

[[finetune.sources]]
path = "{folder}/pairs.jsonl"
"""


def test_a_recipe_runs_in_two_processes_and_one_of_them_speaks(tmp_path: Path) -> None:
    write_lines(tmp_path / "pairs.jsonl", toy_rows(36))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(folder=tmp_path))
    (code, said), other = run("recipe", recipe)
    assert code == 0, said
    assert other == (0, "")
    assert said.startswith("start: training a tokenizer of 400 tokens")
    assert "done in" in said
    assert len(read_log(tmp_path / "run/finetune/log.jsonl")) == 3
    assert (tmp_path / "run/finetune/checkpoint/model.safetensors").exists()


# --- one process alone


def test_one_process_exchanges_nothing() -> None:
    batch = random_batch(4, negatives=1)
    embedding = torch.zeros(len(batch.texts), 3)
    rows, pairs, mine = gather_batch(embedding, batch, ALONE)
    assert rows is embedding
    assert pairs is batch
    assert mine == slice(0, len(batch.texts))
    assert ALONE.sums([3, 4]) == [3, 4]
    assert ALONE.max(5) == 5
    ALONE.wait()
    with distributed.joined("cpu") as world:
        assert world == ALONE
        before = torch.get_rng_state()
        world.seed(1, 2)
        assert torch.equal(torch.get_rng_state(), before)


def test_a_process_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: None)
    assert find_device("auto", 0, 1) == "cuda"
    assert find_device("auto", 1, 4) == "cuda:1"
    assert find_device("cpu", 1, 4) == "cpu"
    with pytest.raises(RecipeError, match="process 2 of this machine has no GPU: there are 2"):
        find_device("cuda", 2, 4)
    with pytest.raises(RecipeError, match="device mps cannot be shared by processes"):
        find_device("mps", 0, 2)


# --- the heartbeat


class Shelf:
    """A key-value store in memory."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def set(self, key: str, value: str) -> None:
        self.values[key] = value.encode()

    def get(self, key: str) -> bytes:
        return self.values[key]

    def add(self, key: str, amount: int) -> int:
        self.set(key, str(int(self.values.get(key, b"0")) + amount))
        return int(self.values[key])

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK_EVERY_SECONDS", "GRACE_SECONDS"):
        monkeypatch.setattr(heartbeat, name, 0.01)


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


@pytest.mark.usefixtures("quick")
def test_a_main_thread_that_hangs_is_ended_once_another_process_has_failed() -> None:
    shelf, ended = Shelf(), []  # type: ignore[var-annotated]
    watching = Heartbeat(shelf, rank=0, size=2, end=ended.append)
    failing = Heartbeat(shelf, rank=1, size=2, end=ended.append)
    failing.report("no space left")
    until(lambda: ended)
    assert ended == ["process 1 stopped: no space left"]
    assert watching.why() == ended[0]
    with pytest.raises(ConnectionError, match="process 1 stopped: no space left"):
        watching.wait()
    failing.close()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("host", "pid", "message"),
    [
        (os.uname().nodename, 2**22 + 1, "process 1 was killed or crashed without a word"),
        ("elsewhere", 1, "process 1 on elsewhere has been silent for 0 s"),
    ],
)
def test_a_process_that_is_gone_is_noticed(
    host: str, pid: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "SILENT_SECONDS", 0.05)
    shelf, ended = Shelf(), []  # type: ignore[var-annotated]
    shelf.set("process/1", f"{host} {pid}")
    shelf.set("beat/1", "7")
    Heartbeat(shelf, rank=0, size=2, end=ended.append)
    until(lambda: ended)
    assert ended == [message]


@pytest.mark.usefixtures("quick")
def test_processes_that_live_and_that_have_left_are_no_failure() -> None:
    shelf, ended = Shelf(), []  # type: ignore[var-annotated]
    first = Heartbeat(shelf, rank=0, size=2, end=ended.append)
    second = Heartbeat(shelf, rank=1, size=2, end=ended.append)
    time.sleep(0.1)
    second.leave()
    shelf.set("process/1", f"{os.uname().nodename} {2**22 + 1}")  # and its process has ended
    time.sleep(0.1)
    first.leave()
    assert (first.failure, second.failure, ended) == (None, None, [])
