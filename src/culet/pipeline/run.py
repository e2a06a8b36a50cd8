"""Running a recipe: each stage in its turn, what is finished skipped, then the scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from culet.data.records import data_files
from culet.errors import InputError, RecipeError, TrainingError
from culet.pipeline import measure
from culet.pipeline.graph import Recipe, read_recipe
from culet.pipeline.planning import plan
from culet.pipeline.stage import Job, Stage
from culet.pipeline.stamp import Standing, note, stamp_of, standing
from culet.stages.folder import look

EVALUATE = "evaluate"


def run_recipe(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    dry_run: bool = False,
    begin: str | None = None,
    only: str | None = None,
    say: Callable[[str], None] = print,
) -> int:
    """Run every stage of a recipe that is not finished and return the exit code 0.

    Args:
        path: The recipe.
        overrides: Such as "finetune.steps=200".
        dry_run: Say what would run, and run nothing.
        begin: Take the stages above this one as they lie there, without a look at their settings
            and data, which may have moved or gone.
        only: Run this stage and no other; those above it are taken as they lie there.
        say: Takes lines for the person watching.

    Raises:
        RecipeError: If the recipe is wrong, or has no stage of that name.
        InputError: If a file that a stage reads is not there, or nothing can be written.
        TrainingError: If a stage had to stop.
    """
    recipe = read_recipe(path, overrides)
    selected = select(recipe, begin=begin, only=only)
    check_inputs(recipe, selected)
    if dry_run:
        for line in plan(recipe, selected):
            say(line)
        return 0
    began = time.monotonic()
    _prepare(recipe)
    run_stages(recipe, selected, say=say)
    if recipe.evaluate is not None and EVALUATE in selected:
        measure.measure(recipe, recipe.evaluate)
    name = [name for name in recipe.stages if name in selected or only is None][-1]
    stage = recipe.stages[name]
    what = "model" if "model" in stage.kind.gives else "output"
    say(
        f"done in {time.monotonic() - began:.0f} s; the {what} of stage {name} is in "
        f"{stage.output()}"
    )
    return 0


def select(recipe: Recipe, *, begin: str | None, only: str | None) -> list[str]:
    """Return the names of what is to run, in order; "evaluate" is one of them."""
    names = [*recipe.stages, *([EVALUATE] if recipe.evaluate is not None else [])]
    if begin is not None and only is not None:
        raise RecipeError("--from and --only exclude each other; give one")
    for name in (begin, only):
        if name is not None and name not in names:
            raise RecipeError(f"the recipe has no stage {name}; it has: {', '.join(names)}")
    if only is not None:
        return [only]
    return names if begin is None else names[names.index(begin) :]


def check_inputs(recipe: Recipe, selected: Sequence[str]) -> None:
    """Raise InputError for data or tasks that are not there, before hours are spent without.

    What a stage that is left out should have made is looked for too.
    """
    for name in selected:
        if name == EVALUATE:
            continue
        stage = recipe.stages[name]
        records = set(stage.kind.records(stage.config))
        for path in stage.files:
            if path in records:
                data_files(path)
            elif not path.exists():
                raise InputError(f"[{name}] {path} does not exist")
        for above in stage.needs:
            if above not in selected:
                _finished(recipe.stages[above], needed_by=name)
    if recipe.evaluate is not None:
        measure.check_tasks(recipe.evaluate)


def _finished(stage: Stage, *, needed_by: str) -> None:
    found = look(stage.folder)
    if found.result is None:
        what = found.damage or f"there is no finished stage in {stage.folder}"
        raise InputError(
            f"{needed_by} reads stage {stage.name}, which is left out, but {what}; run the recipe "
            "without --from and --only"
        )


def run_stages(
    recipe: Recipe, selected: Sequence[str], *, say: Callable[[str], None] = print
) -> None:
    """Run the selected stages in order."""
    known: dict[str, Standing] = {}
    device = _device(recipe.run.device)
    watch = measure.watcher(recipe, recipe.evaluate, device, say) if recipe.evaluate else None
    for name, stage in recipe.stages.items():
        if name not in selected:
            known[name] = Standing("finished", look(stage.folder), None)
            continue
        known[name] = standing(stage, recipe, known)
        if known[name].state == "finished":
            say(f"{name}: finished before, nothing to do")
            continue
        stage.kind.run(Job(stage, device, say, watch))
        known[name] = _after(stage, recipe, known)


def _after(stage: Stage, recipe: Recipe, known: dict[str, Standing]) -> Standing:
    """Return the standing of a stage that has just run, and note what it was run with."""
    found = look(stage.folder)
    if found.result is None or not stage.output().exists():
        raise TrainingError(
            f"stage {stage.name} returned, but {found.damage or 'has not finished'}: expected "
            f"{stage.output()}; run the same command again"
        )
    stamp = stamp_of(stage, recipe, known)
    note(stage, stamp)
    return Standing("finished", found, stamp)


def _prepare(recipe: Recipe) -> None:
    """Set what holds for the whole run."""
    if recipe.run.threads:
        import torch

        torch.set_num_threads(recipe.run.threads)


def _device(name: str) -> str:
    import torch

    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
