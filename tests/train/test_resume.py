"""An interrupted run goes on and ends with the same bits, however it was interrupted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stop_doubles import interrupting, killed_until_done
from torch import nn
from training_doubles import checkpoint, every_feature, tune_quietly, weights, write_sources

from culet.errors import CheckpointError, Interrupted, TrainingError
from culet.stages import tune
from culet.stages.contract import run_stage
from culet.train.log import read_log
from culet.train.optim import OptimConfig, Optimizer
from culet.train.resume import drop_state, load_state, save_state

STEPS = 7


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("start") / "checkpoint")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sources(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, start: Path, data: Path) -> Path:
    """The uninterrupted run that every other one must equal."""
    out = tmp_path_factory.mktemp("whole") / "toy"
    tune_quietly(every_feature(data), start, out)
    return out


def losses(folder: Path) -> list[tuple[int, float, float]]:
    return [
        (line["step"], line["loss"], line["temperature"]) for line in read_log(folder / "log.jsonl")
    ]


def assert_same_run(found: Path, expected: Path) -> None:
    assert weights(found) == weights(expected)
    assert losses(found) == losses(expected)
    assert [step for step, _, _ in losses(found)] == list(range(1, len(losses(expected)) + 1))
    assert not [path for path in found.iterdir() if "state" in path.name]


def test_the_whole_run_trains_and_another_seed_ends_elsewhere(
    tmp_path: Path, start: Path, data: Path, whole: Path
) -> None:
    """Without this, two runs that do nothing would be equal as well."""
    assert len(losses(whole)) == STEPS
    assert losses(whole)[0][2] != losses(whole)[-1][2]  # the temperature moved
    tune_quietly(every_feature(data, seed=4), start, tmp_path / "toy")
    assert weights(tmp_path / "toy") != weights(whole)
    assert weights(whole).keys() == weights(tmp_path / "toy").keys()


@pytest.mark.parametrize("at", [1, 3, STEPS - 1, STEPS])
def test_a_signal_at_any_step_and_the_same_command_again_end_bit_for_bit_the_same(
    at: int, tmp_path: Path, start: Path, data: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupting(monkeypatch, tune, "contrastive_step", {at})
    with pytest.raises(Interrupted, match=f"stopped after step {at} of {STEPS}"):
        tune_quietly(every_feature(data), start, tmp_path / "toy")
    assert json.loads((tmp_path / "toy/state/state.json").read_text())["step"] == at
    torch.rand(5)  # what else the process does with random numbers must not matter
    tune_quietly(every_feature(data), start, tmp_path / "toy")
    assert_same_run(tmp_path / "toy", whole)


def test_a_signal_at_every_step_ends_the_same_too(
    tmp_path: Path, start: Path, data: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupting(monkeypatch, tune, "contrastive_step", set(range(1, STEPS + 1)))
    for _ in range(STEPS):
        with pytest.raises(Interrupted):
            tune_quietly(every_feature(data), start, tmp_path / "toy")
    tune_quietly(every_feature(data), start, tmp_path / "toy")
    assert_same_run(tmp_path / "toy", whole)


@pytest.mark.parametrize(
    "changes",
    [
        {"lora": None},
        {"lora": None, "compute_dtype": "bfloat16", "optim": OptimConfig(lr=5e-3, warmup_steps=2)},
    ],
)
def test_whole_weights_and_bfloat16_resume_as_well(
    changes: dict[str, Any],
    tmp_path: Path,
    start: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = every_feature(data, **changes)
    tune_quietly(config, start, tmp_path / "whole")
    interrupting(monkeypatch, tune, "contrastive_step", {3})
    with pytest.raises(Interrupted):
        tune_quietly(config, start, tmp_path / "toy")
    tune_quietly(config, start, tmp_path / "toy")
    assert_same_run(tmp_path / "toy", tmp_path / "whole")


def test_an_evaluation_on_the_way_leaves_no_trace(
    tmp_path: Path, start: Path, data: Path, whole: Path
) -> None:
    """It may draw random numbers and is not repeated after a kill."""
    seen: list[tuple[int, bool]] = []

    def evaluate(model: nn.Module, step: int) -> None:
        seen.append((step, model.training))
        torch.rand(step)

    run_stage(
        tune.STAGE,
        every_feature(data, eval_every=3),
        init=start,
        out=tmp_path / "toy",
        name="toy",
        say=lambda line: None,
        watch=evaluate,
    )
    assert seen == [(3, False), (6, False)]
    assert weights(tmp_path / "toy") == weights(whole)


# --- kill -9


def test_kill_9_at_random_moments_and_the_same_command_again_end_bit_for_bit_the_same(
    tmp_path: Path, start: Path, data: Path
) -> None:
    config = every_feature(data, steps=20)
    tune_quietly(config, start, tmp_path / "whole")
    out = tmp_path / "toy"
    killed = killed_until_done(
        tune_quietly, (config, start, out), out, times=4, preload="culet.stages.tune"
    )
    assert killed >= 2, "too quick to be killed"
    assert_same_run(out, tmp_path / "whole")


@pytest.fixture(scope="module")
def four_steps(tmp_path_factory: pytest.TempPathFactory, start: Path, data: Path) -> Path:
    """A run of which four steps are done, to be copied."""
    out = tmp_path_factory.mktemp("four") / "toy"
    with pytest.MonkeyPatch.context() as patch:
        interrupting(patch, tune, "contrastive_step", {4})
        with pytest.raises(Interrupted):
            tune_quietly(every_feature(data), start, out)
    return out


@pytest.fixture
def unfinished(tmp_path: Path, four_steps: Path) -> Path:
    return shutil.copytree(four_steps, tmp_path / "toy")


def test_a_kill_while_the_state_is_written_leaves_the_older_one_to_go_on_from(
    unfinished: Path, start: Path, data: Path, whole: Path
) -> None:
    aside = unfinished / ".state.partial"
    aside.mkdir()
    (aside / "state.safetensors").write_bytes(b"half")
    said: list[str] = []
    run_stage(
        tune.STAGE, every_feature(data), init=start, out=unfinished, name="toy", say=said.append
    )
    assert "toy: resuming after step 4 of 7" in said
    assert_same_run(unfinished, whole)


def test_a_kill_between_two_renames_leaves_the_older_state_beside_its_name(
    unfinished: Path, start: Path, data: Path, whole: Path
) -> None:
    (unfinished / "state").rename(unfinished / ".state.old")
    shutil.copytree(unfinished / ".state.old", unfinished / ".state.partial")
    said: list[str] = []
    run_stage(
        tune.STAGE, every_feature(data), init=start, out=unfinished, name="toy", say=said.append
    )
    assert "toy: resuming after step 4 of 7" in said
    assert_same_run(unfinished, whole)


def test_a_kill_before_the_checkpoint_was_whole_writes_it_again(
    unfinished: Path, start: Path, data: Path, whole: Path
) -> None:
    aside = unfinished / ".checkpoint.partial"
    aside.mkdir()
    (aside / "model.safetensors").write_bytes(b"half")
    tune_quietly(every_feature(data), start, unfinished)
    (unfinished / "done.json").unlink()  # killed after the checkpoint, before the last word
    tune_quietly(every_feature(data), start, unfinished)
    assert_same_run(unfinished, whole)


def test_a_kill_after_the_last_step_needs_no_further_step(
    tmp_path: Path, start: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = every_feature(data, steps=4)  # save_every divides it: the state is of the last step

    def killed(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tune, "_write_result", killed)
        with pytest.raises(KeyboardInterrupt):
            tune_quietly(config, start, tmp_path / "toy")
    interrupting(monkeypatch, tune, "contrastive_step", {1})  # would raise if a step were taken
    tune_quietly(config, start, tmp_path / "toy")
    done = json.loads((tmp_path / "toy/done.json").read_text())
    assert done["last"]["step"] == 4


def test_an_older_state_goes_on_from_where_it_is(
    unfinished: Path, start: Path, data: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = shutil.copytree(unfinished / "state", unfinished.parent / "older")
    with monkeypatch.context() as patch:
        interrupting(patch, tune, "contrastive_step", {2})
        with pytest.raises(Interrupted, match="after step 6"):
            tune_quietly(every_feature(data), start, unfinished)
    shutil.rmtree(unfinished / "state")
    older.rename(unfinished / "state")
    tune_quietly(every_feature(data), start, unfinished)
    assert_same_run(unfinished, whole)


# --- states that cannot be used


def damaged_state(unfinished: Path, name: str, content: bytes) -> None:
    (unfinished / "state" / name).write_bytes(content)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"step": 4}', b"\xff"])
def test_a_damaged_state_file_is_refused_with_a_way_out(
    unfinished: Path, start: Path, data: Path, content: bytes
) -> None:
    damaged_state(unfinished, "state.json", content)
    with pytest.raises(TrainingError, match=r"not a whole state .*delete the folder to begin anew"):
        tune_quietly(every_feature(data), start, unfinished)


def test_half_a_state_is_refused_and_not_taken_for_none(
    unfinished: Path, start: Path, data: Path
) -> None:
    (unfinished / "state/state.json").unlink()
    with pytest.raises(TrainingError, match="not a whole state"):
        tune_quietly(every_feature(data), start, unfinished)


def test_damaged_tensors_are_refused(unfinished: Path, start: Path, data: Path) -> None:
    tensors = (unfinished / "state/state.safetensors").read_bytes()
    damaged_state(unfinished, "state.safetensors", tensors[:-100])
    with pytest.raises(CheckpointError, match=r"state\.safetensors is not a whole safetensors"):
        tune_quietly(every_feature(data), start, unfinished)


def test_the_state_of_another_run_is_refused(unfinished: Path, start: Path, data: Path) -> None:
    state = json.loads((unfinished / "state/state.json").read_text()) | {"fingerprint": "other"}
    damaged_state(unfinished, "state.json", json.dumps(state).encode())
    with pytest.raises(TrainingError, match=r"state of another run .*delete the folder"):
        tune_quietly(every_feature(data), start, unfinished)


# --- what is a run of what


def said_by(config: tune.TuneConfig, start: Path, out: Path) -> list[str]:
    said: list[str] = []
    run_stage(tune.STAGE, config, init=start, out=out, name="toy", say=said.append)
    return said


@pytest.mark.parametrize("change", ["settings", "data", "start"])
def test_a_changed_run_moves_the_old_folder_aside_and_says_so(
    change: str, tmp_path: Path, start: Path, data: Path, unfinished: Path
) -> None:
    state = (unfinished / "state/state.json").read_bytes()
    config = every_feature(data)
    if change == "settings":
        config = every_feature(data, dropout=0.2)
    if change == "data":
        other = shutil.copytree(data, tmp_path / "other")
        (other / "b.jsonl").write_text((other / "b.jsonl").read_text() + "\n")
        config = every_feature(other)
    if change == "start":
        start = checkpoint(tmp_path / "start", seed=9)
    said = said_by(config, start, unfinished)
    kept = next(path for path in tmp_path.iterdir() if path.name.startswith("toy."))
    assert said[0] == (f"toy: settings or data have changed; the earlier run is kept in {kept}")
    assert not any("resuming" in line for line in said)
    assert (kept / "state/state.json").read_bytes() == state
    assert [step for step, _, _ in losses(unfinished)] == list(range(1, STEPS + 1))


def test_two_changes_keep_both_earlier_runs(tmp_path: Path, start: Path, data: Path) -> None:
    for seed in (1, 2, 3):
        tune_quietly(every_feature(data, steps=1, seed=seed), start, tmp_path / "toy")
    assert len([path for path in tmp_path.iterdir() if path.name.startswith("toy.")]) == 2


def test_a_change_that_is_taken_back_takes_the_earlier_run_up_again(
    tmp_path: Path, start: Path, data: Path
) -> None:
    said = {}
    for turn, seed in enumerate((1, 2, 1)):
        said[turn] = said_by(every_feature(data, steps=1, seed=seed), start, tmp_path / "toy")
    first = json.loads((tmp_path / "toy/run.json").read_text())["fingerprint"]
    second = next(path for path in tmp_path.iterdir() if path.name.startswith("toy."))
    assert said[2] == [
        f"toy: settings or data have changed; the earlier run is kept in {second}",
        f"toy: restored: {tmp_path}/toy.{first}, a run of these settings and data",
        "toy: finished before, nothing to do",
    ]


def test_how_often_to_save_and_evaluate_is_no_change(
    unfinished: Path, start: Path, data: Path, whole: Path
) -> None:
    said = said_by(every_feature(data, save_every=5, eval_every=2), start, unfinished)
    assert "toy: resuming after step 4 of 7" in said
    assert_same_run(unfinished, whole)


def test_a_finished_stage_is_skipped(start: Path, data: Path, whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*.safetensors")}
    said: list[str] = []
    made = run_stage(
        tune.STAGE, every_feature(data), init=start, out=whole, name="toy", say=said.append
    )
    assert said == ["toy: finished before, nothing to do"]
    assert made == whole / "checkpoint"
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*.safetensors")} == before


def test_data_that_is_gone_stops_before_anything_is_moved(
    tmp_path: Path, start: Path, data: Path
) -> None:
    own = shutil.copytree(data, tmp_path / "data")
    tune_quietly(every_feature(own, steps=1), start, tmp_path / "toy")
    (own / "b.jsonl").unlink()
    with pytest.raises(ValueError, match=r"b\.jsonl does not exist"):
        tune_quietly(every_feature(own, steps=1), start, tmp_path / "toy")
    assert (tmp_path / "toy/done.json").exists()


# --- the state itself


def test_what_is_saved_is_what_is_loaded_random_numbers_included(tmp_path: Path) -> None:
    def optimizer() -> Optimizer:
        torch.manual_seed(0)
        return Optimizer(
            [
                ("encoder.w", nn.Parameter(torch.rand(3, 2))),
                ("temperature", nn.Parameter(torch.tensor(0.3))),
            ],
            OptimConfig(ema=0.5),
            steps=4,
        )

    first, second = optimizer(), optimizer()
    for parameter in first.named.values():
        parameter.grad = torch.rand(parameter.shape)
    first.update(0)
    torch.manual_seed(11)
    save_state(tmp_path / "state", first, step=1, fingerprint="f")
    expected = torch.rand(4)
    torch.rand(100)
    assert load_state(tmp_path / "state", second, fingerprint="f") == 1
    assert torch.equal(torch.rand(4), expected)
    for name, tensor in first.tensors().items():
        assert torch.equal(tensor, second.tensors()[name]), name
    assert second.named["temperature"].shape == ()


def test_no_state_changes_nothing(tmp_path: Path) -> None:
    weight = nn.Parameter(torch.ones(2))
    optimizer = Optimizer([("encoder.w", weight)], OptimConfig(), steps=1)
    before = torch.get_rng_state()
    assert load_state(tmp_path / "state", optimizer, fingerprint="f") == 0
    assert weight.tolist() == [1.0, 1.0]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_dropped_state_leaves_nothing_beside_it(tmp_path: Path) -> None:
    for name in ("state", ".state.old", ".state.partial", "checkpoint"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "x.npy", np.zeros(1))
    drop_state(tmp_path / "state")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
