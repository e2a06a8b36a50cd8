"""The only training loop. A stage gives it batches and a step; it updates, saves and stops."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from culet.concurrency import Ahead
from culet.errors import Interrupted, TrainingError
from culet.train.log import Report
from culet.train.optim import Optimizer
from culet.train.processes import current

Action = tuple[int, Callable[[int], None]]


class Batch(Protocol):
    """What the loop reads of a batch; see `PairBatch` and `TokenPairs`."""

    @property
    def num_tokens(self) -> int:
        """Return the tokens it holds."""

    @property
    def source(self) -> str:
        """Return where it came from."""

    @property
    def origin(self) -> tuple[str, ...]:
        """Return "file:line" of its records."""

    @property
    def truncated(self) -> int:
        """Return the texts that were cut."""


AnyBatch = TypeVar("AnyBatch", bound=Batch)


@dataclass(frozen=True)
class Loop(Generic[AnyBatch]):
    """What a run does at each step.

    Attributes:
        step: Adds the gradients of a batch and returns its loss parts.
        optimizer: Moves the weights.
        save: Writes the resumable state after so many steps.
        report: Where each step is recorded; None in the processes beside the first.
        save_every: Steps between saves.
        actions: (every, what) to do after every so many steps, such as an evaluation.
        seed: Gives each of several processes random numbers of its own at each step.

    Each of several processes runs the loop with its part of the batches. `step` then returns the
    same loss parts everywhere, and the gradients it adds sum to those of the whole batch.
    """

    step: Callable[[AnyBatch], dict[str, float]]
    optimizer: Optimizer
    save: Callable[[int], None]
    report: Report | None
    save_every: int
    actions: Sequence[Action] = ()
    seed: int = 0


def run(
    loop: Loop[AnyBatch], batches: Ahead[AnyBatch], *, start: int, steps: int
) -> dict[str, float]:
    """Train from step `start` to `steps` and return the loss parts of the last step.

    Raises:
        TrainingError: At the first loss or gradient that is not finite; the weights are still
            those of the last good step, and the message names the batch.
        Interrupted: After SIGINT or SIGTERM to any of the processes, once the step is finished
            and the state is saved.
    """
    parts: dict[str, float] = {}
    world = current()
    with StopOnSignal() as stop:
        waited = batches.waited_seconds
        for number, batch in enumerate(batches, start=start):
            began = time.perf_counter()
            world.seed(loop.seed, number)
            parts = _one_step(loop, number, batch)
            tokens, cut, stopping = world.sums([batch.num_tokens, batch.truncated, stop.requested])
            seconds = time.perf_counter() - began
            waited, waited_before = batches.waited_seconds, waited
            if loop.report is not None:
                loop.report.write(
                    number + 1,
                    parts,
                    tokens=tokens,
                    seconds=seconds,
                    waited=waited - waited_before,
                    source=batch.source,
                    texts_cut=cut,
                )
            done = number + 1
            if done % loop.save_every == 0 or stopping:
                loop.save(done)
            for every, act in loop.actions:
                if done % every == 0:
                    act(done)
            if stopping:  # in the last step too, or the stages after this one would go on
                raise Interrupted(
                    f"stopped after step {done} of {steps}; the state is saved: "
                    "run the same command again to go on"
                )
    return parts


def _one_step(loop: Loop[AnyBatch], number: int, batch: AnyBatch) -> dict[str, float]:
    parts = loop.step(batch)
    bad = {name: value for name, value in parts.items() if not np.isfinite(value)}
    if bad:
        raise TrainingError(_blame(number, batch, f"the loss is not finite: {bad}"))
    try:
        current().sum_gradients(loop.optimizer.named.values())
        return parts | loop.optimizer.update(number)
    except TrainingError as error:
        raise TrainingError(_blame(number, batch, str(error))) from error


def _blame(number: int, batch: Batch, what: str) -> str:
    records = ", ".join(batch.origin[:3])
    return (
        f"stopped at step {number + 1}: {what}; the weights have not moved. The batch came from "
        f"source {batch.source!r}, {len(batch.origin)} records beginning with {records}. "
        "Lower the learning rate or look at these records"
    )


class StopOnSignal:
    """Turns the first SIGINT or SIGTERM into a request to stop after the step.

    A second one stops at once.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopOnSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
