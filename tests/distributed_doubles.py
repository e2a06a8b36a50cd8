"""What a process of a test of several processes runs: `python distributed_doubles.py JOB FOLDER`.

The environment says which of them it is, as torchrun's does.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

JOBS: dict[str, Callable[[Path], None]] = {}


def job(function: Callable[[Path], None]) -> Callable[[Path], None]:
    JOBS[function.__name__] = function
    return function


def start(arguments: list[str], *, size: int = 2, **environment: str) -> list[subprocess.Popen]:
    """Start some processes that find each other, as torchrun would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = (
        os.environ
        | environment
        | {
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(Path(__file__).parent),
        }
    )
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def finish(
    processes: list[subprocess.Popen], *, seconds: float = 180
) -> list[tuple[int, str, str]]:
    """Return (exit code, stdout, stderr) of each process."""
    try:
        outcomes = []
        for process in processes:
            out, err = process.communicate(timeout=seconds)
            outcomes.append((process.returncode, out, err))
        return outcomes
    finally:
        for process in processes:
            process.kill()


def run(name: str, folder: Path, *, size: int = 2) -> list[tuple[int, str, str]]:
    """Run a job of this file in some processes."""
    return finish(start([__file__, name, str(folder)], size=size))


def stage_settings(folder: Path) -> Any:
    """A stage with everything but dropout, whose noise is each process's own.

    The batch of five has parts of three and two; b.jsonl has fewer records than a batch.
    """
    from training_doubles import every_feature

    config = every_feature(folder / "data", dropout=0.0, batch_size=5)
    first, second = config.sources
    return replace(config, sources=(first, replace(second, batch_size=3)))


@job
def stages(folder: Path) -> None:
    """Train the same stage in several ways."""
    import torch

    from culet.errors import Interrupted
    from culet.stages import tune
    from culet.train import distributed

    torch.set_num_threads(1)
    step = tune.contrastive_step
    with distributed.joined("cpu") as world:
        for way in json.loads((folder / "ways.json").read_text()):
            distributed._current = replace(world, sharded=way["parallel"] == "fsdp")
            config = stage_settings(folder)
            if way.get("full"):
                config = replace(config, lora=None)
            left = way.get("stop_after", 0)

            def counted(*args: Any, **settings: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0 and world.rank == 1:  # one of them gets the signal
                    signal.raise_signal(signal.SIGTERM)
                return step(*args, **settings)

            tune.contrastive_step = counted
            out = folder / way["name"]
            with suppress(Interrupted):
                tune.run(config, init=folder / "start", out=out, name="toy", say=lambda line: None)
            world.wait()


@job
def stopping(folder: Path) -> None:
    """Train; in its third step the second process raises an error, or is killed."""
    import torch

    from culet.errors import CuletError, InputError
    from culet.stages import tune
    from culet.train import distributed

    torch.set_num_threads(1)
    step = tune.contrastive_step
    left = 3

    def counted(*args: Any, **settings: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0 and os.environ["RANK"] == "1":
            if folder.name == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise InputError("it is out of paper")
        return step(*args, **settings)

    tune.contrastive_step = counted
    config = stage_settings(folder.parent)
    start = folder.parent / "start"
    try:
        with distributed.joined("cpu"):
            tune.run(config, init=start, out=folder, name="toy", say=lambda line: None)
    except CuletError as error:
        print(error)
        sys.exit(2)


if __name__ == "__main__":
    JOBS[sys.argv[1]](Path(sys.argv[2]))
