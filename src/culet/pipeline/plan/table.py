"""What a recipe would do, without doing it: steps, tokens, time and disk of each stage.

Tokens and rates come from logs where there are some: of the stage itself, of an earlier run that
was moved aside, of another stage of the same run. Without any, tokens are counted in a sample of
the texts (`culet.pipeline.plan.samples`) and the rate is measured for a moment
(`culet.pipeline.plan.rates`). The rest is not guessed.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from culet.errors import InputError
from culet.pipeline.graph import Recipe
from culet.pipeline.plan import rates
from culet.pipeline.plan.architectures import Shapes
from culet.pipeline.plan.disk import Disk, Writes
from culet.pipeline.plan.samples import Samples, Texts, tokens
from culet.pipeline.stage import Stage
from culet.pipeline.stamp import Standing, standings
from culet.terminal.tables import aligned, duration, size, thousands

_WHAT = {
    "finished": "finished",
    "unchecked": "finished, to be checked",
    "changed": "again: settings or inputs changed",
    "damaged": "again: files damaged or gone",
    "interrupted": "goes on",
    "new": "runs",
}
_TUNE = "culet.stages.tune"
_LANGUAGE = ("decoder", "pretrain", "encoder", "seq2seq")
_NONE = "-"  # of a stage without steps or tokens


@dataclass(frozen=True)
class Estimate:
    """What a stage would take; None where nobody knows.

    Attributes:
        steps: Steps that are left.
        tokens: Tokens of those, or that are embedded.
        most: The tokens are the most that there can be: no text can be looked at yet.
        rate: Tokens a second.
        basis: Where the rate comes from.
        disk: What is written.
        learns: It takes steps, on tokens.
        reads: It takes tokens.
    """

    steps: int | None = None
    tokens: float | None = None
    most: bool = False
    rate: float | None = None
    basis: str = ""
    disk: Disk | None = None
    learns: bool = False
    reads: bool = False

    @property
    def seconds(self) -> float | None:
        """Return the time it would take."""
        return self.tokens / self.rate if self.tokens is not None and self.rate else None

    @property
    def cells(self) -> tuple[str, ...]:
        """Return steps, tokens, time and disk as a person reads them."""
        up_to = "up to " if self.most else ""
        number, time = thousands(self.tokens, about=True), duration(self.seconds)
        return (
            thousands(self.steps) if self.learns else _NONE,
            (up_to * (self.tokens is not None) + number) if self.reads else _NONE,
            up_to * (self.seconds is not None) + time,
            size(None if self.disk is None else self.disk.peak),
        )


def plan(recipe: Recipe, selected: Sequence[str]) -> list[str]:
    """Return the lines of a table of what would run, and of what it would take in all."""
    known = standings(recipe)
    estimator = _Estimator(recipe, selected, known)
    estimates = {
        name: estimator.of(stage)
        for name, stage in recipe.stages.items()
        if name in selected and known[name].state != "finished"
    }
    rows: list[Sequence[str]] = [("stage", "would", "steps", "tokens", "time", "disk")]
    rows += [_row(n, known[n], estimates.get(n)) for n in recipe.stages if n in selected]
    scores = recipe.evaluate is not None and "evaluate" in selected
    if recipe.evaluate is not None and scores:
        rows.append(("evaluate", f"scores {recipe.evaluate.tasks}", "", "", "", ""))
    lines = aligned(rows)
    lines += [f"{name}: {s.found.damage}" for name, s in known.items() if s.found.damage]
    timed = {name: e for name, e in estimates.items() if e.seconds is not None}
    lines += sorted({f"time of {name}: {e.basis}" for name, e in timed.items()})
    if most := [name for name, e in estimates.items() if e.most]:
        lines.append(f"tokens of {', '.join(most)}: the most there can be; its texts are not there")
    return lines + _in_all(recipe, estimates, scores=scores)


def _row(name: str, standing: Standing, estimate: Estimate | None) -> tuple[str, ...]:
    cells = ("", "", "", "") if estimate is None else estimate.cells
    return (name, _WHAT[standing.state], *cells)


def _in_all(recipe: Recipe, estimates: Mapping[str, Estimate], *, scores: bool) -> list[str]:
    """Return the sums with what is not in them, and a warning if the disk is too small."""
    if not estimates:
        return ["nothing to do"]
    untimed = [name for name, estimate in estimates.items() if estimate.seconds is None]
    untimed += ["evaluate"] if scores else []
    seconds = sum(estimate.seconds or 0 for estimate in estimates.values())
    disks = {name: estimate.disk for name, estimate in estimates.items()}
    need = most_at_once([disk for disk in disks.values() if disk is not None])
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


def most_at_once(disks: Sequence[Disk]) -> float:
    """Return the bytes that stages need which run one after the other and keep what they leave."""
    kept = most = 0.0
    for disk in disks:
        most = max(most, kept + disk.peak)
        kept += disk.kept
    return max(most, kept)


class _Estimator:
    """Estimates stages of a recipe."""

    def __init__(
        self, recipe: Recipe, selected: Sequence[str], known: Mapping[str, Standing]
    ) -> None:
        done = ("finished", "unchecked")
        ready = {n for n, s in known.items() if n not in selected or s.state in done}
        self._recipe = recipe
        self._samples = Samples(recipe.stages, ready)
        self._shapes = Shapes(recipe.stages, ready)
        self._writes = Writes(self._samples, self._shapes)

    def of(self, stage: Stage) -> Estimate:
        """Return what a stage would take."""
        found = Estimate()
        if stage.kind.module == _TUNE or stage.kind.name in _LANGUAGE:
            found = self._training(stage)
        elif stage.kind.name == "search_mixture":
            found = self._search(stage)
        elif stage.kind.name in ("mine", "teach"):
            found = self._embedding(stage)
        return replace(found, disk=self._writes.of(stage))

    def _training(self, stage: Stage) -> Estimate:
        """Return what steps on tokens take."""
        if getattr(stage.config, "objective", "") == "none":
            return Estimate()  # nothing is trained
        steps = stage.config.steps
        log = rates.log_of(stage)
        done = log[-1]["step"] if log and (stage.folder / "state").exists() else 0
        earlier = log or rates.log_aside(stage)
        if earlier:
            per_step, most = sum(line["tokens"] for line in earlier) / len(earlier), False
        else:
            per_step, most = self._tokens_per_step(stage)
        left = max(0, steps - done)
        rate, basis = self._rate(stage, earlier)
        return Estimate(left, left * per_step, most, rate, basis, learns=True, reads=True)

    def _search(self, stage: Stage) -> Estimate:
        """Return what the trials of a search take, but for their scores."""
        config, trial = stage.config, stage.extra.trial
        runs = (1 + config.random + config.rounds) * config.seeds
        per_step, most = pairs_per_step(trial, self._samples)
        steps = runs * trial.steps
        rate, basis = self._rate(stage, [])
        return Estimate(steps, steps * per_step, most, rate, basis, learns=True, reads=True)

    def _embedding(self, stage: Stage) -> Estimate:
        """Return what it takes to embed each text of some records once."""
        config = stage.config
        paths = [s.path for s in config.sources]
        paths += [path for s in config.sources for path in getattr(s, "corpus", ())]
        rows = self._samples.all_of(paths)
        teaches = stage.kind.name == "teach"
        shape = self._shapes.at(config.teacher if teaches else stage.inputs["init"])
        longest = getattr(getattr(shape, "encoder", None), "max_length", float("inf"))
        if rows is None:
            return Estimate(reads=True)

        def per_row(texts: Texts) -> float:
            return sum(tokens(one, longest) for one in texts.own)

        count, texts = rows.total(per_row), rows.total(lambda row: len(row.own))
        precision = getattr(config, "precision", None)
        rate = rates.of_embedding(shape, round(count / texts), precision, self._recipe.run)
        return Estimate(tokens=count, rate=rate, basis="measured for a moment", reads=True)

    def _tokens_per_step(self, stage: Stage) -> tuple[float, bool]:
        """Return the tokens of a step, and whether that is the most there can be."""
        config = stage.config
        if stage.kind.module == _TUNE:
            return pairs_per_step(self._mixed(stage), self._samples)
        if stage.kind.name != "seq2seq":
            return float(config.batch_size * config.window), False
        longest = config.max_source_tokens, config.max_target_tokens
        rows = self._samples.all_of(config.train)
        if rows is None:
            return float(config.batch_size * sum(longest)), True

        def per_row(texts: Texts) -> float:
            return sum(map(tokens, texts.sides, longest))

        return config.batch_size * rows.mean(per_row), False

    def _mixed(self, stage: Stage) -> Any:
        """Return the settings of a tuning stage, with the mixture that it would take if known."""
        file = stage.inputs.get("mixture")
        if not isinstance(file, Path) or not file.exists():
            return stage.config
        from culet.pipeline.adapters import with_mixture

        try:
            return with_mixture(stage.config, file, stage.extra.mixture_number)
        except InputError:
            return stage.config  # the stage will say what does not fit

    def _rate(self, stage: Stage, earlier: Sequence[Mapping[str, Any]]) -> tuple[float | None, str]:
        """Return tokens a second, waiting for data included, and where that comes from."""
        if earlier:
            return rates.logged(earlier), "from its own log"
        searches = stage.kind.name == "search_mixture"
        module = _TUNE if searches else stage.kind.module
        for other in reversed(list(self._recipe.stages.values())):
            log = rates.log_of(other)
            if log and other.kind.module == module:
                return rates.logged(log), f"at the rate of {other.name}"
        run, before = self._recipe.run, self._shapes.at(stage.inputs.get("init"))
        if module == _TUNE:
            config = stage.extra.trial if searches else stage.config
            return rates.of_pairs(before, config, run), "measured for a moment"
        shape = self._shapes.of(stage, next(iter(stage.gives)))
        return rates.of_language(shape, stage, before, run), "measured for a moment"


def pairs_per_step(config: Any, samples: Samples) -> tuple[float, bool]:
    """Return the tokens of a contrastive step, and whether that is the most there can be.

    Args:
        config: Settings of a tuning stage.
        samples: What its sources hold.
    """
    total = weights = 0.0
    most = False
    for source in config.sources:
        rows = samples.rows(source.path)
        batch = source.batch_size or config.batch_size
        number = config.num_negatives if source.num_negatives is None else source.num_negatives

        def per_row(texts: Texts, number: int = number) -> float:
            read = (*texts.sides, *texts.negatives[:number])
            return sum(tokens(one, config.max_tokens) for one in read)

        share = source.weight
        if rows is not None:
            mixing = config.mixing
            share *= min(rows.count, mixing.size_cap or rows.count) ** mixing.size_exponent
            batch = min(batch, rows.count)  # a batch takes no row twice
        each = (2 + number) * config.max_tokens if rows is None else rows.mean(per_row)
        most |= rows is None
        total += share * batch * each
        weights += share
    return total / weights, most
