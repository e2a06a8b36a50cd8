"""A training run from its first step to its last, however often it is interrupted.

A stage gives it parameters, a step and batches. The session makes the optimiser, takes up the
saved state, prepares batches ahead on a thread, saves, acts every so many steps, and keeps the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from culet.concurrency import Ahead
from culet.train.log import Report, read_log
from culet.train.loop import Action, AnyBatch, Loop
from culet.train.loop import run as run_loop
from culet.train.optim import OptimConfig, Optimizer
from culet.train.processes import current
from culet.train.resume import load_state, save_state


class TrainingConfig(Protocol):
    """What a session reads of a stage's settings."""

    @property
    def steps(self) -> int:
        """Optimiser steps."""

    @property
    def seed(self) -> int:
        """Decides all random numbers."""

    @property
    def save_every(self) -> int:
        """Steps between resumable states."""

    @property
    def optim(self) -> OptimConfig:
        """How weights move."""


class RunFolder(Protocol):
    """What a session reads of a stage's folder."""

    @property
    def fingerprint(self) -> str:
        """What identifies the run."""

    @property
    def state(self) -> Path:
        """Folder of the resumable state."""

    @property
    def log(self) -> Path:
        """File with a line a step."""


@dataclass(frozen=True)
class Freeze:
    """Parameters that do not learn during the first steps.

    Attributes:
        names: Names of these parameters.
        steps: Number of steps; AdamW's moments of the parameters begin at zero afterwards.
    """

    names: frozenset[str]
    steps: int


class Session:
    """A run, resumed where an interrupted one stopped.

    Among several processes each one runs a session with its part of the batches. The first alone
    writes the state and the log.

    Args:
        config: The stage's settings.
        named: Parameters by name; those that need no gradient are left out.
        folder: Where state and log are kept.
        name: What messages call the stage.
        say: Takes lines for the person watching.
        freeze: Parameters that wait, and for how long.

    Attributes:
        optimizer: The optimiser.
        first: Steps that were done before.

    Raises:
        TrainingError: If the saved state is damaged or belongs to another run.
    """

    def __init__(
        self,
        config: TrainingConfig,
        named: Iterable[tuple[str, nn.Parameter]],
        folder: RunFolder,
        *,
        name: str,
        say: Callable[[str], None],
        freeze: Freeze | None = None,
    ) -> None:
        self._config, self._folder, self._name = config, folder, name
        self._actions: list[Action] = []
        self.optimizer = Optimizer(named, config.optim, steps=config.steps)
        if freeze is not None:
            self.optimizer.clear_moments(freeze.names)
        torch.manual_seed(config.seed)
        self.first = load_state(folder.state, self.optimizer, fingerprint=folder.fingerprint)
        if self.first:
            say(f"{name}: resuming after step {self.first} of {config.steps}")
        if freeze is not None and self.first < freeze.steps:
            waiting = [p for key, p in self.optimizer.named.items() if key in freeze.names]
            _set_trainable(waiting, False)
            self.every(freeze.steps, lambda done: _set_trainable(waiting, True))

    def every(self, steps: int, act: Callable[[int], None]) -> None:
        """Call `act` with the number of steps done, each time another `steps` of them are done."""
        self._actions.append((steps, act))

    def keep_every(self, steps: int, write: Callable[[int], None]) -> None:
        """Do as `every` does with an action that writes a file the run has to have at its end.

        It is called at once if the run resumes after such a step: a kill may have come between the
        state of that step and the file.
        """
        self.every(steps, write)
        if self.first and self.first % steps == 0:
            write(self.first)

    def run(
        self, step: Callable[[AnyBatch], dict[str, float]], batcher: Callable[[int], AnyBatch]
    ) -> None:
        """Train to the last step.

        Args:
            step: Adds the gradients of a batch, or of this process's part of it, and returns the
                loss parts.
            batcher: Makes the batch of a step, or this process's part of it.

        Raises:
            TrainingError: If the loss or its gradient stops being finite.
            Interrupted: After SIGINT or SIGTERM, with the state saved.
        """
        config, first = self._config, self.first
        with Ahead(map(batcher, range(first, config.steps))) as batches, self._report() as report:
            loop = Loop(
                step,
                self.optimizer,
                self._save,
                report,
                config.save_every,
                self._actions,
                seed=config.seed,
            )
            run_loop(loop, batches, start=first, steps=config.steps)

    @torch.no_grad()
    def take_average(self) -> None:
        """Replace the weights by their exponential average, if there is one."""
        for name, average in self.optimizer.average.items():
            self.optimizer.named[name].copy_(average)

    def summary(self) -> dict[str, Any]:
        """Return what is worth keeping of the whole run, interrupted parts included."""
        log = read_log(self._folder.log)
        return {
            "steps": self._config.steps,
            "tokens": sum(line["tokens"] for line in log),
            "seconds": round(sum(line["seconds"] for line in log), 3),
            "waited_seconds": round(sum(line["waited_seconds"] for line in log), 3),
            "texts_cut": sum(line["texts_cut"] for line in log),
            "last": log[-1] if log else {},
        }

    def _report(self) -> AbstractContextManager[Report | None]:
        """Return the log; processes beside the first have none."""
        if not current().first:
            return nullcontext()
        config = self._config
        return Report(self._name, self._folder.log, start=self.first, steps=config.steps)

    def _save(self, done: int) -> None:
        folder = self._folder
        save_state(folder.state, self.optimizer, step=done, fingerprint=folder.fingerprint)


def _set_trainable(parameters: Iterable[nn.Parameter], learn: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(learn)
