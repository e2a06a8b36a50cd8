"""What a recipe would do, without doing it."""

from __future__ import annotations

from collections.abc import Sequence

from culet.pipeline.graph import Recipe
from culet.pipeline.stage import Stage
from culet.pipeline.stamp import Standing, standings

_WHAT = {
    "finished": "finished, nothing to do",
    "changed": "would run again: its settings or what it reads have changed",
    "damaged": "would run again",
    "interrupted": "would go on where it was interrupted",
    "new": "would run",
}


def plan(recipe: Recipe, selected: Sequence[str]) -> list[str]:
    """Return a line for each stage that was selected."""
    known = standings(recipe)
    lines = [
        f"{name}: {_line(stage, known[name])}"
        for name, stage in recipe.stages.items()
        if name in selected
    ]
    if recipe.evaluate is not None and "evaluate" in selected:
        lines.append(f"evaluate: {recipe.evaluate.tasks}")
    return lines


def _line(stage: Stage, standing: Standing) -> str:
    what = _WHAT[standing.state]
    if standing.found.damage:
        what += f": {standing.found.damage}"
    if not hasattr(stage.config, "steps"):
        return what
    size = f" of {stage.config.batch_size}" if hasattr(stage.config, "batch_size") else ""
    return f"{what}; {stage.config.steps:,} steps{size}"
