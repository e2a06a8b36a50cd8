"""Runs that are stopped on the way: by a signal in a step, or killed without a word."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from culet.train.log import read_log


def interrupting(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, at: Collection[int]
) -> None:
    """Send SIGINT in the middle of the given calls of a stage's step (from 1, over all runs)."""
    done, step = 0, getattr(module, name)

    def interrupted(*args: Any, **settings: Any) -> dict[str, float]:
        nonlocal done
        done += 1
        if done in at:
            signal.raise_signal(signal.SIGINT)
        result: dict[str, float] = step(*args, **settings)
        return result

    monkeypatch.setattr(module, name, interrupted)


def killed_until_done(
    run: Callable[..., object], args: tuple[Any, ...], out: Path, *, times: int, preload: str
) -> int:
    """Run something in processes that are killed at random moments; return how often.

    Args:
        run: What runs; sent to another process.
        args: Its arguments.
        out: The stage's folder, whose log tells how far it is.
        times: Kills; after them it may end.
        preload: Module that takes seconds to import, done once.
    """
    seed, killed = time.time_ns(), 0
    rng, context = random.Random(seed), multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload, "torch._dynamo"])
    for _ in range(20):
        before = len(read_log(out / "log.jsonl"))
        process = context.Process(target=run, args=args)
        process.start()
        if killed < times:
            _wait_for_steps(process, out, before, enough=rng.randint(1, 3))
            time.sleep(rng.random() * 0.03)
            process.kill()
        process.join()
        if process.exitcode == 0:
            return killed
        assert process.exitcode == -signal.SIGKILL, f"seed {seed}"
        killed += 1
    raise AssertionError(f"seed {seed}: killed {killed} times, and never through")


def _wait_for_steps(process: Any, out: Path, before: int, *, enough: int) -> None:
    """Wait until a run has logged a few steps more than the one before it, or has ended."""
    while process.is_alive() and not (out / "done.json").exists():
        if abs(len(read_log(out / "log.jsonl")) - before) >= enough:
            return
        time.sleep(0.005)
