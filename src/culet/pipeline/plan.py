"""What a recipe would do, without doing it: steps, tokens, time and disk of each stage.

Tokens and speed come from logs where there are any: of the stage itself, of an earlier run that
was moved aside, or of a similar stage of the same run. Otherwise they are the stage's own estimate.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from culet.pipeline.forecast import Forecast
from culet.pipeline.graph import Recipe
from culet.pipeline.stage import Stage
from culet.pipeline.stamp import StageStatus, stage_statuses
from culet.stages.estimate import Disk, Estimate
from culet.terminal.tables import aligned, duration, size, thousands
from culet.train.log import read_log

_WOULD = {
    "finished": "finished",
    "changed": "again: settings or inputs changed",
    "damaged": "again: files damaged or missing",
    "interrupted": "resumes",
    "new": "runs",
}
_NONE = "-"  # of a stage without steps or tokens


@dataclass(frozen=True)
class Planned:
    """What a stage would take from now on; None where that is unknown.

    Attributes:
        estimate: Its own estimate.
        steps: Steps that are left.
        tokens: Tokens of those steps, or tokens to embed.
        at_most: `tokens` is an upper bound.
        seconds: The time it would take.
        basis: Source of that time.
    """

    estimate: Estimate
    steps: int | None
    tokens: float | None
    at_most: bool
    seconds: float | None
    basis: str

    @property
    def cells(self) -> tuple[str, ...]:
        """Return steps, tokens, time and disk as a person reads them."""
        up_to = "up to " if self.at_most else ""
        tokens = (up_to * (self.tokens is not None)) + thousands(self.tokens, about=True)
        disk = self.estimate.disk
        return (
            _NONE if self.steps is None else thousands(self.steps),
            _NONE if self.estimate.speed is None else tokens,
            up_to * (self.seconds is not None) + duration(self.seconds),
            size(None if disk is None else disk.peak),
        )


def plan(recipe: Recipe, selected: Sequence[str], *, as_json: bool = False) -> list[str]:
    """Return the lines of a table, or of JSON, of what would run, with totals."""
    known = stage_statuses(recipe)
    planned = _all_planned(recipe, selected, known)
    if as_json:
        return _json(recipe, selected, known, planned)
    rows: list[Sequence[str]] = [("stage", "would", "steps", "tokens", "time", "disk")]
    rows += [_row(n, known[n], planned.get(n)) for n in recipe.stages if n in selected]
    scores = recipe.evaluate is not None and "evaluate" in selected
    if recipe.evaluate is not None and scores:
        rows.append(("evaluate", f"scores {recipe.evaluate.tasks}", "", "", "", ""))
    lines = aligned(rows)
    lines += [f"{name}: {s.found.damage}" for name, s in known.items() if s.found.damage]
    timed = {name: p for name, p in planned.items() if p.seconds is not None}
    lines += sorted({f"time of {name}: {p.basis}" for name, p in timed.items()})
    if bounds := [name for name, p in planned.items() if p.at_most]:
        lines.append(
            f"tokens of {', '.join(bounds)}: an upper bound, as the texts do not exist yet"
        )
    return lines + _in_all(recipe, planned, scores=scores)


def _json(
    recipe: Recipe,
    selected: Sequence[str],
    known: Mapping[str, StageStatus],
    planned: Mapping[str, Planned],
) -> list[str]:
    """Return the lines of the JSON; null where something is not known."""
    stages = []
    for name in (n for n in recipe.stages if n in selected):
        facts: dict[str, Any] = {"stage": name, "state": known[name].state, "runs": name in planned}
        if (p := planned.get(name)) is not None:
            disk = p.estimate.disk
            facts |= {"steps": p.steps, "tokens": p.tokens, "tokens_at_most": p.at_most}
            facts |= {"seconds": p.seconds, "seconds_basis": p.basis or None}
            facts |= {"disk_bytes": None if disk is None else disk.peak}
        stages.append(facts)
    needs = fullest([p.estimate.disk for p in planned.values() if p.estimate.disk is not None])
    whole = {"stages": stages, "evaluates": recipe.evaluate is not None and "evaluate" in selected}
    return json.dumps(whole | {"disk_bytes": needs}, indent=2).split("\n")


def _all_planned(
    recipe: Recipe, selected: Sequence[str], known: Mapping[str, StageStatus]
) -> dict[str, Planned]:
    """Return what each stage that would run would take."""
    ready = {n for n, s in known.items() if n not in selected or s.state == "finished"}
    forecast = Forecast(recipe, ready)
    return {
        name: _planned(stage, forecast.of(stage), recipe)
        for name, stage in recipe.stages.items()
        if name in selected and known[name].state != "finished"
    }


def _row(name: str, status: StageStatus, planned: Planned | None) -> tuple[str, ...]:
    cells = ("", "", "", "") if planned is None else planned.cells
    return (name, _WOULD[status.state], *cells)


def _in_all(recipe: Recipe, planned: Mapping[str, Planned], *, scores: bool) -> list[str]:
    """Return the totals, what they leave out, and a warning if the disk is too small."""
    if not planned:
        return ["nothing to do"]
    untimed = [name for name, p in planned.items() if p.seconds is None]
    untimed += ["evaluate"] if scores else []
    seconds = sum(p.seconds or 0 for p in planned.values())
    disks = {name: p.estimate.disk for name, p in planned.items()}
    need = fullest([disk for disk in disks.values() if disk is not None])
    unsized = [name for name, disk in disks.items() if disk is None]
    folder = recipe.run.folder.absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    time = f"about {duration(seconds)}{_without(untimed)}" if seconds else "time unknown"
    lines = [f"in all: {time}; disk {size(need)} of {size(free)} free{_without(unsized)}"]
    if need > free:
        lines.append("the disk is too small for this")
    return lines


def _without(names: Sequence[str]) -> str:
    return f", without {', '.join(names)}" if names else ""


def fullest(disks: Sequence[Disk]) -> float:
    """Return the peak bytes of stages that run one after the other and keep their output."""
    kept = peak = 0.0
    for disk in disks:
        peak = max(peak, kept + disk.peak)
        kept += disk.kept
    return max(peak, kept)


def _planned(stage: Stage, estimate: Estimate, recipe: Recipe) -> Planned:
    """Return what a stage would take, from logs in preference to its own estimate."""
    steps, tokens, at_most = estimate.steps, estimate.tokens, estimate.at_most
    log = [] if steps is None else read_log(stage.folder / "log.jsonl")
    earlier = log or ([] if steps is None else _log_aside(stage))
    if steps is not None:
        done = log[-1]["step"] if log and (stage.folder / "state").exists() else 0
        per_step = None if tokens is None else tokens / steps
        if earlier:
            per_step, at_most = sum(line["tokens"] for line in earlier) / len(earlier), False
        steps = max(0, steps - done)
        tokens = None if per_step is None else steps * per_step
    if tokens is None or estimate.speed is None:
        return Planned(estimate, steps, tokens, at_most, None, "")
    speed, basis = _speed(stage, estimate, recipe, earlier)
    return Planned(estimate, steps, tokens, at_most, tokens / speed if speed else None, basis)


def _speed(
    stage: Stage, estimate: Estimate, recipe: Recipe, earlier: Sequence[Mapping[str, Any]]
) -> tuple[float | None, str]:
    """Return tokens per second, waiting for data included, and the source of that."""
    if earlier:
        return _logged(earlier), "from its own log"
    module = estimate.logged_by or stage.kind.module
    for other in reversed(list(recipe.stages.values())):
        log = read_log(other.folder / "log.jsonl")
        if log and other.kind.module == module:
            return _logged(log), f"at the rate of {other.name}"
    assert estimate.speed is not None  # _planned
    return estimate.speed(), "measured for a moment"


def _logged(log: Sequence[Mapping[str, Any]]) -> float:
    waited = [line["tokens"] / (line["seconds"] + line["waited_seconds"]) for line in log]
    return float(median(waited))


def _log_aside(stage: Stage) -> list[dict[str, Any]]:
    """Return the log of the latest run of a stage that was moved aside."""
    logs = sorted(
        stage.folder.parent.glob(f"{stage.name}.*/log.jsonl"), key=lambda file: file.stat().st_mtime
    )
    return read_log(logs[-1]) if logs else []
