"""Jobs that several processes do together, started as torchrun would start them.

They are forked from a server that has imported what takes seconds.
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

_SECONDS = 240


def run(
    name: str, folder: Path, *, size: int = 2, end_others: bool = False
) -> list[tuple[int, str]]:
    """Run a job of this file in some processes; return each one's exit code and what it said.

    With `end_others` they get SIGTERM as soon as one has ended, as from torchrun.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["culet.stages.tune", "torch._dynamo"])
    said = [folder.parent / f"{folder.name}-{name}-{rank}.txt" for rank in range(size)]
    processes = []
    for rank in range(size):
        environment = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        process = context.Process(target=_do, args=(name, folder, environment, said[rank]))
        process.start()
        processes.append(process)
    if end_others:
        multiprocessing.connection.wait([p.sentinel for p in processes], _SECONDS)
        time.sleep(0.1)  # torchrun looks at them so often
        for process in processes:
            process.terminate()
    for process in processes:
        process.join(_SECONDS)
        process.kill()
    return [(p.exitcode or 0, file.read_text()) for p, file in zip(processes, said, strict=True)]


def _do(name: str, folder: Path, environment: dict[str, str], said: Path) -> None:
    """Do a job, with both outputs in a file."""
    os.environ.update(environment)
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    globals()[name](folder)


def stage_settings(folder: Path) -> Any:
    """A stage with everything but dropout, whose noise is each process's own.

    The batch of five has parts of three and two; b.jsonl has fewer records than a batch. AdamW's
    eps is above the rounding of a gradient: below it, a weight whose gradient is next to nothing
    would move by a full step into whichever direction rounding says.
    """
    from training_doubles import every_feature

    config = every_feature(folder / "data", dropout=0.0, batch_size=5, eval_every=4)
    first, second = config.sources
    optim = replace(config.optim, eps=1e-6)
    first = replace(first, teacher=folder / "data/taught")
    return replace(config, optim=optim, sources=(first, replace(second, batch_size=3)))


def stages(folder: Path) -> None:
    """Train the same stage in several ways."""
    import torch

    from culet.errors import Interrupted
    from culet.model.batch import pack
    from culet.stages import tune
    from culet.stages.contract import run_stage
    from culet.train import processes as distributed

    torch.set_num_threads(1)
    step = tune.contrastive_step
    with distributed.joined("cpu") as world:
        for way in json.loads((folder / "ways.json").read_text()):
            distributed._current = replace(world, sharded=way["parallel"] == "fsdp")
            config = stage_settings(folder)
            if way.get("full"):
                config = replace(config, lora=None)
            config = replace(config, dropout=way.get("dropout", 0.0))
            left = way.get("stop_after", 0)

            def counted(*args: Any, **settings: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0 and world.rank == 1:  # one of them gets the signal
                    signal.raise_signal(signal.SIGTERM)
                return step(*args, **settings)

            tune.contrastive_step = counted
            out = folder / way["name"]
            watched: list[int] = []

            def watch(model: Any, step: int, watched: list[int] = watched) -> None:
                model(pack([np.arange(5, 9)]))  # by itself: no other process takes part
                watched.append(step)

            settings = {"out": out, "name": "toy", "say": lambda line: None, "watch": watch}
            with suppress(Interrupted):
                run_stage(tune.STAGE, config, init=folder / "start", **settings)
            expected = [] if "stop_after" in way or world.rank else [4]
            assert watched == expected, (way, watched)
            world.wait()


def stopping(folder: Path) -> None:
    """Train; in its third step the second process raises an error, or is killed."""
    import torch

    from culet.cli.signals import ending_by_signal
    from culet.errors import CuletError, InputError
    from culet.stages import tune
    from culet.stages.contract import run_stage
    from culet.train import processes as distributed

    torch.set_num_threads(1)
    step = tune.contrastive_step
    left = 3

    def counted(*args: Any, **settings: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0 and os.environ["RANK"] == "1":
            if folder.name in ("killed", "ended"):
                os.kill(os.getpid(), signal.SIGKILL)
            raise InputError("it is out of paper")
        return step(*args, **settings)

    tune.contrastive_step = counted
    config = stage_settings(folder.parent)
    start = folder.parent / "start"
    try:
        with ending_by_signal(), distributed.joined("cpu"):
            run_stage(tune.STAGE, config, init=start, out=folder, name="toy", say=lambda line: None)
    except CuletError as error:
        print(error)
        sys.exit(2)


def recipe(file: Path) -> None:
    """Run a recipe from the command line."""
    from culet.cli.main import main

    sys.argv = ["culet", "train", str(file)]
    main()


def tokens(folder: Path) -> None:
    """Train the stages of language models; the second time until a signal in a step of one."""
    import torch
    from language_doubles import token_stages

    from culet.stages import pretrain
    from culet.train import processes as distributed

    torch.set_num_threads(1)
    step, left = pretrain.pairs_step, 0

    def counted(*args: Any, **settings: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0 and os.environ["RANK"] == "1":
            signal.raise_signal(signal.SIGTERM)
        for layer in args[0].layers:
            assert {distributed.is_sharded(p) for p in layer.parameters()} == {way == "fsdp"}
        return step(*args, **settings)

    pretrain.pairs_step = counted
    way = json.loads((folder / "way.json").read_text())
    with distributed.joined("cpu", way):
        token_stages(folder, folder / "two")
        left = 3
        token_stages(folder, folder / "two-then-one")
