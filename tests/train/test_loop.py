"""The loop: what happens at each step, and how it stops."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training_doubles import random_batch

from culet.concurrency import Ahead
from culet.data.batches.collate import PairBatch
from culet.errors import Interrupted, TrainingError
from culet.train import loop
from culet.train.log import Report, read_log
from culet.train.loop import Action, Loop, StopOnSignal
from culet.train.optim import OptimConfig, Optimizer

CONFIG = OptimConfig(lr=0.1, warmup_steps=0, decay="constant", clip_norm=0.0)


class Run:
    """A loop over one weight whose gradient is 1; `at` maps a step (from 1) to what happens."""

    def __init__(self, folder: Path, *, at: dict[int, Callable[[], Any]] | None = None) -> None:
        self.weight = nn.Parameter(torch.tensor(1.0))
        self.optimizer = Optimizer([("encoder.w", self.weight)], CONFIG, steps=10)
        self.events: list[str] = []
        self.log = folder / "log.jsonl"
        self._at = at or {}

    def go(
        self,
        *,
        start: int = 0,
        steps: int = 4,
        save_every: int = 10,
        actions: Sequence[Action] = (),
    ) -> dict[str, float]:
        done = start

        def step(batch: PairBatch) -> dict[str, float]:
            nonlocal done
            done += 1
            self.weight.grad = torch.tensor(1.0)
            found = self._at.get(done, lambda: None)()
            return {"loss": 1 / done} | (found or {})

        with (
            Ahead(random_batch() for _ in range(start, steps)) as batches,
            Report("toy", self.log, start=start, steps=steps) as report,
        ):
            made = Loop(
                step,
                self.optimizer,
                lambda n: self.events.append(f"save {n}"),
                report,
                save_every,
                actions,
            )
            return loop.run(made, batches, start=start, steps=steps)


def test_every_step_is_taken_once_and_the_last_parts_are_returned(tmp_path: Path) -> None:
    run = Run(tmp_path)
    last = run.go(steps=4)
    assert last["loss"] == 0.25
    assert last["lr"] == pytest.approx(0.1)
    assert last["grad_norm"] == pytest.approx(1.0)
    assert [line["step"] for line in read_log(run.log)] == [1, 2, 3, 4]
    assert run.weight.item() == pytest.approx(1 - 4 * 0.1, abs=1e-3)


def test_a_run_goes_on_where_it_starts(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.go(start=2, steps=4)
    assert [line["step"] for line in read_log(run.log)] == [3, 4]
    assert run.go(start=4, steps=4) == {}


def test_saves_and_actions_come_at_their_steps(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.go(steps=6, save_every=3, actions=[(2, lambda n: run.events.append(f"act {n}"))])
    assert run.events == ["act 2", "save 3", "act 4", "save 6", "act 6"]


def test_the_log_holds_where_a_batch_came_from_and_what_it_cost(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.go(steps=1)
    line = read_log(run.log)[0]
    assert line["source"] == "toys"
    assert line["tokens"] == random_batch().num_tokens
    assert line["seconds"] > 0
    assert line["waited_seconds"] >= 0


# --- stopping for a loss that is not finite


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("part", ["loss", "spread_out"])
def test_a_loss_that_is_not_finite_stops_before_the_optimizer_moves(
    tmp_path: Path, bad: float, part: str
) -> None:
    run = Run(tmp_path, at={3: lambda: {part: bad}})
    with pytest.raises(
        TrainingError,
        match=rf"stopped at step 3: .*'{part}': .*"
        r"source 'toys', 6 records beginning with toys\.jsonl:1, toys\.jsonl:2",
    ):
        run.go(steps=4, save_every=2)
    assert run.weight.item() == pytest.approx(1 - 2 * 0.1, abs=1e-3)
    assert run.events == ["save 2"]
    assert [line["step"] for line in read_log(run.log)] == [1, 2]


def test_a_gradient_that_is_not_finite_stops_and_names_the_batch_too(tmp_path: Path) -> None:
    def spoil() -> None:
        run.weight.grad = torch.tensor(math.inf)

    run = Run(tmp_path, at={2: spoil})
    with pytest.raises(
        TrainingError,
        match=r"stopped at step 2: the gradient norm is inf; the "
        r"weights have not moved\. The batch came from source 'toys'",
    ):
        run.go()
    assert run.weight.item() == pytest.approx(1 - 0.1, abs=1e-3)


def test_an_error_in_a_batch_surfaces_after_the_steps_before_it(tmp_path: Path) -> None:
    def make(step: int) -> PairBatch:
        if step == 2:
            raise ValueError("bad record")
        return random_batch()

    run = Run(tmp_path)
    with (
        Ahead(map(make, range(4))) as batches,
        Report("toy", run.log, start=0, steps=4) as report,
    ):
        made = Loop(lambda batch: {"loss": 0.0}, run.optimizer, print, report, save_every=9)
        with pytest.raises(ValueError, match="bad record"):
            loop.run(made, batches, start=0, steps=4)
    assert [line["step"] for line in read_log(run.log)] == [1, 2]


# --- stopping because a person asks


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def test_a_signal_ends_the_run_after_the_step_it_came_in_with_the_state_saved(
    tmp_path: Path,
) -> None:
    before = signal.getsignal(signal.SIGINT)
    run = Run(tmp_path, at={2: interrupt})
    with pytest.raises(Interrupted, match="stopped after step 2 of 4; the state is saved: run the"):
        run.go(steps=4)
    assert run.events == ["save 2"]
    assert [line["step"] for line in read_log(run.log)] == [1, 2]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_in_the_last_step_stops_too_before_other_stages_go_on(tmp_path: Path) -> None:
    run = Run(tmp_path, at={4: interrupt})
    with pytest.raises(Interrupted, match="stopped after step 4 of 4"):
        run.go(steps=4)
    assert run.events == ["save 4"]


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)

    def twice() -> None:
        interrupt()
        interrupt()

    run = Run(tmp_path, at={2: twice})
    with pytest.raises(KeyboardInterrupt) as caught:
        run.go(steps=4)
    assert not isinstance(caught.value, Interrupted)
    assert run.events == []
    assert signal.getsignal(signal.SIGINT) is before


def test_a_state_is_saved_once_where_the_signal_meets_the_interval(tmp_path: Path) -> None:
    run = Run(tmp_path, at={2: interrupt})
    with pytest.raises(Interrupted):
        run.go(steps=4, save_every=2)
    assert run.events == ["save 2"]


def test_outside_the_main_thread_no_handler_is_set() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[Any] = []

    def work() -> None:
        with StopOnSignal() as stop:
            seen.append((signal.getsignal(signal.SIGINT), stop.requested))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, False)]
