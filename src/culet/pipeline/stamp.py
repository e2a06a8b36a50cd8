"""The status of each stage, from its fingerprint and files, without running it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from culet.errors import CuletError
from culet.pipeline.graph import Recipe
from culet.pipeline.stage import Stage
from culet.stages.contract import run_fingerprint
from culet.stages.folder import FolderState, inspect, recorded_fingerprint

State = Literal["finished", "changed", "damaged", "interrupted", "new"]


@dataclass(frozen=True)
class StageStatus:
    """The status of a stage before a run.

    Attributes:
        state: "finished" needs nothing; "changed" is finished with other settings or inputs, or
            with inputs that are not known yet; "damaged" has lost or changed files; "interrupted"
            has begun; "new" has not.
        found: What is in its folder.
        fingerprint: Of the run it would be; None if that is not known yet.
    """

    state: State
    found: FolderState
    fingerprint: str | None = None


def stage_statuses(recipe: Recipe) -> dict[str, StageStatus]:
    """Return the status of every stage; nothing is written."""
    known: dict[str, StageStatus] = {}
    for name, stage in recipe.stages.items():
        known[name] = stage_status(stage, known)
    return known


def stage_status(stage: Stage, known: Mapping[str, StageStatus]) -> StageStatus:
    """Return the status of a stage, given that of those above it."""
    found = inspect(stage.folder)
    fingerprint = None
    if all(known[name].state == "finished" for name in stage.needs):
        fingerprint = _fingerprint(stage)
    if found.damage:
        return StageStatus("damaged", found, fingerprint)
    recorded = recorded_fingerprint(stage.folder)
    if found.result is None:
        return StageStatus("new" if recorded is None else "interrupted", found, fingerprint)
    alike = fingerprint is not None and recorded in (None, fingerprint)
    if alike and stage.contract.is_current(stage.config, stage.folder):
        return StageStatus("finished", found, fingerprint)
    return StageStatus("changed", found, fingerprint)


def _fingerprint(stage: Stage) -> str | None:
    contract, run = stage.contract, stage.folder.parent
    try:
        config = contract.settle(stage.config, stage.inputs)
        found = run_fingerprint(contract, config, stage.inputs, run=run)
        recorded = recorded_fingerprint(stage.folder)
        if recorded not in (None, found):
            older = run_fingerprint(contract, config, stage.inputs, run=run, by_path=True)
            return older if recorded == older else found
        return found
    except (CuletError, OSError):
        return None  # the stage reports what is missing or wrong
