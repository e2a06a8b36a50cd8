"""What a recipe has done so far, stage by stage, from the contents of its folders."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from culet.pipeline.graph import Recipe
from culet.pipeline.stage import Stage
from culet.pipeline.stamp import StageStatus, stage_statuses
from culet.terminal.tables import aligned, size
from culet.train.log import read_log

_STATES = {
    "finished": "finished",
    "changed": "finished with other settings or inputs",
    "damaged": "damaged",
    "interrupted": "unfinished",
    "new": "not begun",
}


def status(recipe: Recipe, *, as_json: bool = False) -> list[str]:
    """Return the lines of a table, or of JSON: stage, kind, state, step, last loss, when, size."""
    if as_json:
        return _json(recipe)
    rows: list[tuple[str, ...]] = [("stage", "kind", "state", "step", "loss", "when", "size")]
    known = stage_statuses(recipe)
    rows += [_row(stage, known[name]) for name, stage in recipe.stages.items()]
    damage = [f"{name}: {s.found.damage}" for name, s in known.items() if s.found.damage]
    return aligned(rows) + damage


def _json(recipe: Recipe) -> list[str]:
    """Return the lines of the JSON; null for what is not known."""
    stages = []
    for name, status in stage_statuses(recipe).items():
        stage = recipe.stages[name]
        log = read_log(stage.folder / "log.jsonl")
        last: dict[str, Any] = log[-1] if log else {}
        files = [file for file in stage.folder.rglob("*") if file.is_file()]
        stages.append(
            {
                "stage": name,
                "kind": stage.kind.name,
                "state": status.state,
                "step": last.get("step"),
                "steps": getattr(stage.config, "steps", None),
                "loss": last.get("loss"),
                "written": max((file.stat().st_mtime for file in files), default=None),
                "bytes": sum(file.stat().st_size for file in files),
                "folder": str(stage.folder),
                "damage": status.found.damage or None,
            }
        )
    return json.dumps({"stages": stages}, indent=2).split("\n")


def _row(stage: Stage, status: StageStatus) -> tuple[str, ...]:
    log = read_log(stage.folder / "log.jsonl")
    last: dict[str, Any] = log[-1] if log else {}
    steps = getattr(stage.config, "steps", None)
    step = "" if steps is None else f"{last.get('step', 0):,}/{steps:,}"
    loss = f"{last['loss']:.4g}" if "loss" in last else ""
    files = [file for file in stage.folder.rglob("*") if file.is_file()]
    return (
        stage.name,
        stage.kind.name,
        _STATES[status.state],
        step,
        loss,
        _when(files),
        size(sum(file.stat().st_size for file in files)) if files else "",
    )


def _when(files: list[Path]) -> str:
    """Return when the newest of some files was written."""
    if not files:
        return ""
    newest = max(file.stat().st_mtime for file in files)
    return datetime.fromtimestamp(newest).strftime("%Y-%m-%d %H:%M")
