"""Checks before a recipe runs: missing data, tasks and stages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from culet.errors import InputError
from culet.files.rows import data_files
from culet.pipeline import scores
from culet.pipeline.graph import Recipe
from culet.pipeline.stage import Stage
from culet.stages.folder import inspect

EVALUATE = "evaluate"


def check_inputs(recipe: Recipe, selected: Sequence[str]) -> None:
    """Raise InputError for missing data or tasks, before hours are spent in vain.

    The same goes for what a stage would refuse from its settings and the folders it reads, as far
    as these exist, for widths that would be scored but not trained, and for the missing output of a
    stage that is left out.
    """
    for name in selected:
        if name == EVALUATE:
            continue
        stage = recipe.stages[name]
        records = _records(stage)
        for path in stage.files:
            if path in records:
                data_files(path)
            elif not path.exists():
                raise InputError(f"[{name}] {path} does not exist")
        for above in stage.needs:
            if above not in selected:
                _finished(recipe.stages[above], needed_by=name)
        if not set(stage.needs) & set(selected):  # all that it reads lies there
            _check_settings(stage)
    if recipe.evaluate is not None:
        scores.check_tasks(recipe.evaluate)
        if EVALUATE in selected:
            scores.check_widths(recipe, recipe.evaluate, selected)


def _check_settings(stage: Stage) -> None:
    config = stage.contract.settle(stage.config, stage.inputs)
    inputs = {key: path or getattr(config, key, None) for key, path in stage.inputs.items()}
    stage.contract.check(config, inputs)


def _records(stage: Stage) -> set[Path]:
    """Return the paths of training records among a stage's settings."""
    found: set[Path] = set()
    for key in stage.contract.records:
        value = stage.config
        for part in key.split("."):
            value = getattr(value, part, ())
        found |= {item if isinstance(item, Path) else item.path for item in value}
    return found


def _finished(stage: Stage, *, needed_by: str) -> None:
    found = inspect(stage.folder)
    if found.result is None:
        what = found.damage or f"there is no finished stage in {stage.folder}"
        raise InputError(
            f"{needed_by} reads stage {stage.name}, which is left out, but {what}; run the recipe "
            "without --from and --only"
        )
