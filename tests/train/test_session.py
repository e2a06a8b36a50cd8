"""A session on one number that is to become zero: what it does besides the steps of the loop."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from culet.errors import Interrupted
from culet.train.optim import OptimConfig
from culet.train.session import Freeze, Session


@dataclass(frozen=True)
class Settings:
    steps: int = 6
    seed: int = 0
    save_every: int = 2
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=0.1, warmup_steps=0))


@dataclass(frozen=True)
class Folder:
    path: Path
    fingerprint: str = "f"

    @property
    def state(self) -> Path:
        return self.path / "state"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"


@dataclass(frozen=True)
class Batch:
    num_tokens: int = 3
    source: str = "toys"
    origin: tuple[str, ...] = ("toys.jsonl:1",)
    truncated: int = 1


class Toy:
    """Two numbers, and a step that moves both; at some step a signal comes."""

    def __init__(self, path: Path, *, stop_at: int | None = None, **more: Any) -> None:
        self.named = {name: nn.Parameter(torch.ones(1)) for name in ("a", "b")}
        self.said: list[str] = []
        self._stop_at, self._done = stop_at, 0
        config = more.pop("config", Settings())
        self.session = Session(
            config, self.named.items(), Folder(path), name="toy", say=self.said.append, **more
        )

    def run(self) -> None:
        self.session.run(self._step, lambda step: Batch())

    def _step(self, batch: Batch) -> dict[str, float]:
        self._done += 1
        if self._done == self._stop_at:
            signal.raise_signal(signal.SIGINT)
        parameters = [p for p in self.named.values() if p.requires_grad]
        loss = torch.stack([p.square().sum() for p in parameters]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return {"loss": loss.item()}


def stopped(path: Path, at: int, prepare: Callable[[Session], object] = lambda _: None) -> None:
    toy = Toy(path, stop_at=at)
    prepare(toy.session)
    with pytest.raises(Interrupted):
        toy.run()


def test_a_stopped_session_goes_on_and_sums_up_both_parts(tmp_path: Path) -> None:
    stopped(tmp_path, 3)
    toy = Toy(tmp_path)
    assert toy.said == ["toy: resuming after step 3 of 6"]
    toy.run()
    found = toy.session.summary()
    assert (found["steps"], found["tokens"], found["texts_cut"]) == (6, 18, 6)
    assert found["last"]["step"] == 6


def test_actions_come_after_so_many_steps_of_the_run(tmp_path: Path) -> None:
    seen: list[int] = []
    stopped(tmp_path, 4, lambda session: session.every(3, seen.append))
    toy = Toy(tmp_path)
    toy.session.every(3, seen.append)
    toy.run()
    assert seen == [3, 6]


@pytest.mark.parametrize(("stop", "expected"), [(4, [4, 6]), (3, [4, 6])])
def test_a_file_that_a_kill_may_have_prevented_is_written_on_resuming(
    tmp_path: Path, stop: int, expected: list[int]
) -> None:
    stopped(tmp_path, stop)  # as if killed before the file of that step
    seen: list[int] = []
    toy = Toy(tmp_path)
    toy.session.keep_every(2, seen.append)
    toy.run()
    assert seen == expected


def test_frozen_parameters_wait_and_learn_afterwards(tmp_path: Path) -> None:
    toy = Toy(tmp_path, freeze=Freeze(frozenset({"b"}), 3))
    values: list[tuple[float, float]] = []
    toy.session.every(1, lambda _: values.append((toy.named["a"].item(), toy.named["b"].item())))
    toy.run()
    assert all(b == 1 for _, b in values[:3])
    assert all(b < 1 for _, b in values[3:])
    assert all(a < 1 for a, _ in values)


def test_the_exponential_average_replaces_the_weights(tmp_path: Path) -> None:
    config = Settings(optim=OptimConfig(lr=0.1, warmup_steps=0, ema=0.5))
    toy = Toy(tmp_path, config=config)
    toy.run()
    trained = toy.named["a"].item()
    toy.session.take_average()
    assert toy.named["a"].item() == toy.session.optimizer.average["a"].item()
    assert toy.named["a"].item() > trained  # it lags behind
