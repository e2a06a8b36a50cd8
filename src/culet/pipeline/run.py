"""Running a recipe: each unfinished stage in order, then the scores."""

from __future__ import annotations

import errno
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from culet.errors import InputError, RecipeError, TrainingError, need
from culet.files.atomic import locked
from culet.pipeline import scores as measure
from culet.pipeline.adapters import Trial, mean_score
from culet.pipeline.graph import Recipe, read_recipe
from culet.pipeline.precheck import EVALUATE, check_inputs
from culet.pipeline.stage import Stage
from culet.pipeline.stamp import StageStatus, stage_status
from culet.stages.contract import run_stage
from culet.stages.folder import inspect
from culet.terminal.lines import show, silent
from culet.terminal.tables import duration

if TYPE_CHECKING:
    from culet.train.processes import World

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


def run_recipe(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    dry_run: bool = False,
    begin: str | None = None,
    only: str | None = None,
    status: bool = False,
    as_json: bool = False,
    say: Callable[[str], None] = show,
) -> int:
    """Run every stage of a recipe that is not finished, then score the models.

    Returns the exit code: 0, or 1 if a task could not be scored.

    Args:
        path: The recipe.
        overrides: Such as "finetune.steps=200".
        dry_run: Print what would run, and run nothing.
        begin: Take the stages above this one as they are, without checking their settings and
            data, which may have moved or gone.
        only: Run this stage and no other; those above it are taken as they are.
        status: Print what is in the folders, and run nothing.
        as_json: Print the dry run or the status as JSON.
        say: Prints a line for the user.

    Raises:
        RecipeError: If the recipe is wrong, or has no stage of that name.
        InputError: If a file that a stage reads is missing, or nothing can be written.
        TrainingError: If a stage had to stop.
    """
    recipe = read_recipe(path, overrides)
    if os.environ.get("RANK", "0") != "0":
        say = silent  # the first process prints the same
    if status:
        from culet.pipeline.status import status as table

        return _say_all(table(recipe, as_json=as_json), say)
    selected = select(recipe, begin=begin, only=only)
    check_inputs(recipe, selected)
    if dry_run:
        from culet.pipeline.plan import plan

        return _say_all(plan(recipe, selected, as_json=as_json), say)
    began = time.monotonic()
    failures: Mapping[str, str] = {}
    with _joined(recipe) as world, _held(recipe, world):
        run_stages(recipe, selected, world=world, say=say)
        if world.first and recipe.evaluate is not None and EVALUATE in selected:
            failures = measure.measure(recipe, recipe.evaluate)
    last = list(recipe.stages)[-1]
    stage = recipe.stages.get(only or last, recipe.stages[last])
    what = "model" if "model" in stage.gives else "output"
    say(
        f"done in {duration(time.monotonic() - began)}; the {what} of stage {stage.name} is in "
        f"{stage.output()}"
    )
    return 1 if failures else 0


def _say_all(lines: Sequence[str], say: Callable[[str], None]) -> int:
    for line in lines:
        say(line)
    return 0


def select(recipe: Recipe, *, begin: str | None, only: str | None) -> list[str]:
    """Return the names of the stages to run, in order, with "evaluate" at the end."""
    names = [*recipe.stages, *([EVALUATE] if recipe.evaluate is not None else [])]
    if begin is not None and only is not None:
        raise RecipeError("--from and --only exclude each other; give one")
    for name in (begin, only):
        if name is not None and name not in names:
            raise RecipeError(f"the recipe has no stage {name}; it has: {', '.join(names)}")
    if only is not None:
        return [only]
    return names if begin is None else names[names.index(begin) :]


def run_stages(
    recipe: Recipe, selected: Sequence[str], *, world: World, say: Callable[[str], None] = print
) -> None:
    """Run the selected stages in order; those for one process run in the first."""
    from culet.train.processes import alone

    known: dict[str, StageStatus] = {}
    watch = None
    if recipe.evaluate is not None:
        watch = measure.watcher(recipe, recipe.evaluate, world.device, say)
    for name, stage in recipe.stages.items():
        if name not in selected:
            known[name] = StageStatus("finished", inspect(stage.folder))
            continue
        known[name] = stage_status(stage, known)
        world.wait()  # all have read the folders before one of them writes
        if known[name].state == "finished":
            say(f"{name}: finished before, nothing to do")
            continue
        with _disk_named(stage):
            if stage.contract.everywhere:
                _run_stage(stage, known[name], recipe, world, say, watch)
            elif world.first:
                with alone():
                    _run_stage(stage, known[name], recipe, world, say, watch)
        world.wait()
        known[name] = _after(stage)


def _run_stage(
    stage: Stage,
    status: StageStatus,
    recipe: Recipe,
    world: World,
    say: Callable[[str], None],
    watch: Callable[[Stage, Any, int], None] | None,
) -> None:
    device, threads = world.device, recipe.run.threads or None
    run_stage(
        stage.contract,
        stage.config,
        out=stage.folder,
        name=stage.name,
        known=status.fingerprint,
        device=device,
        threads=threads,
        say=say,
        watch=None if watch is None else partial(watch, stage),
        score=partial(mean_score, device=device, threads=threads),
        trial=partial(Trial, device=device, threads=threads),
        **stage.inputs,
    )


def _after(stage: Stage) -> StageStatus:
    """Return the status of a stage that has just run."""
    found = inspect(stage.folder)
    if found.result is None or not stage.output().exists():
        raise TrainingError(
            f"stage {stage.name} returned, but {found.damage or 'has not finished'}: expected "
            f"{stage.output()}; run the same command again"
        )
    return StageStatus("finished", found)


@contextmanager
def _disk_named(stage: Stage) -> Iterator[None]:
    """Raise InputError with the stage's name if the disk is full or not writable."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise InputError(
            f"{stage.name}: {error.filename or stage.folder}: {error.strerror}; what was saved is "
            "intact: fix this and run the same command again"
        ) from error


@contextmanager
def _joined(recipe: Recipe) -> Iterator[World]:
    """Join the processes of the run, and set the threads and warnings of this one."""
    torch = need("torch", extra="train", purpose="culet train")
    from culet.train.processes import joined

    if recipe.run.threads:
        torch.set_num_threads(recipe.run.threads)
    with joined(recipe.run.device, recipe.run.parallel) as world, warnings.catch_warnings():
        if not world.first:  # the first process warns of the same
            warnings.simplefilter("ignore")
        yield world


def _held(recipe: Recipe, world: World) -> AbstractContextManager[None]:
    """Keep other runs out of the folder, which the first process writes."""
    return locked(recipe.run.folder, what="a run") if world.first else nullcontext()
