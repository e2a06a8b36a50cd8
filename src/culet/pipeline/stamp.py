"""How a stage that has nothing to do is told without running or importing it.

A stamp is a fingerprint of what a stage would be run with: its kind, its settings, the content of
the files it reads and of the outputs of the stages it reads. It is noted beside the stage's own
files once the stage is finished. A stage whose stamp differs is asked itself: its own fingerprint
decides whether it begins anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from culet.files import fingerprint
from culet.files.atomic import new_file
from culet.files.settings import identity
from culet.pipeline.graph import Recipe
from culet.pipeline.stage import Stage
from culet.stages.folder import PIPELINE_FILE, Finding, look

State = Literal["finished", "unchecked", "changed", "damaged", "interrupted", "new"]


@dataclass(frozen=True)
class Standing:
    """Where a stage stands before a run.

    Attributes:
        state: "finished" needs nothing; "changed" is finished with other settings or inputs, or
            with inputs that are not known yet; "unchecked" is finished, but nobody noted with what,
            so that only the stage itself can tell; "damaged" has lost or changed files;
            "interrupted" has begun; "new" has not.
        found: What lies in its folder.
        stamp: What it would be run with; None if a stage it reads has yet to run.
    """

    state: State
    found: Finding
    stamp: str | None


def standings(recipe: Recipe) -> dict[str, Standing]:
    """Return where every stage stands, reading only."""
    known: dict[str, Standing] = {}
    for name, stage in recipe.stages.items():
        known[name] = standing(stage, recipe, known)
    return known


def standing(stage: Stage, recipe: Recipe, known: Mapping[str, Standing]) -> Standing:
    """Return where a stage stands, given where those above it do."""
    found = look(stage.folder)
    ready = all(known[name].state in ("finished", "unchecked") for name in stage.needs)
    stamp = stamp_of(stage, recipe, known) if ready else None
    if found.damage:
        return Standing("damaged", found, stamp)
    if found.result is None:
        begun = (stage.folder / "run.json").exists()
        return Standing("interrupted" if begun else "new", found, stamp)
    noted = _noted(stage.folder).get("stamp")
    if stamp is not None and noted in (None, stamp):
        return Standing("finished" if noted else "unchecked", found, stamp)
    return Standing("changed", found, stamp)


def stamp_of(stage: Stage, recipe: Recipe, known: Mapping[str, Standing]) -> str:
    """Return the fingerprint of what a stage would be run with."""
    run = recipe.run.folder
    settings = identity(stage.config, run=run)
    for key in stage.kind.unimportant:
        settings.pop(key, None)
    inputs = {}
    for key, value in stage.inputs.items():
        paths = value if isinstance(value, tuple) else (value,)
        inputs[key] = [str(p.relative_to(run)) for p in paths if p and p.is_relative_to(run)]
    outputs = {name: known[name].found.output for name in stage.needs}
    files = fingerprint.of_files(_all_files(stage.files))
    extra = None if stage.extra is None else identity(stage.extra, run=run)
    return fingerprint.of_settings([stage.kind.name, settings, extra, inputs, files, outputs])


def note(stage: Stage, stamp: str) -> None:
    """Note what a finished stage was run with."""
    with new_file(stage.folder / PIPELINE_FILE) as aside:
        aside.write_text(json.dumps({"stamp": stamp}) + "\n", encoding="utf-8")


def _noted(folder: Path) -> dict[str, Any]:
    try:
        noted = json.loads((folder / PIPELINE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _all_files(paths: Iterable[Path]) -> list[Path]:
    """Return the files behind some paths; one that does not exist is reported elsewhere."""
    files: list[Path] = []
    for path in paths:
        files += [f for f in sorted(path.rglob("*")) if f.is_file()] if path.is_dir() else [path]
    return [file for file in files if file.is_file()]
