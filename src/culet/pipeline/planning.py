"""What a recipe would do, without doing it: steps, tokens, time and disk of each stage.

Tokens and rates come from logs where there are some: of the stage itself, of an earlier run that
was moved aside, of another stage of the same run. Without any, tokens are counted in a sample of
the records, and the rate of a contrastive stage is measured for a moment. The rest is not guessed.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from culet.data.records import data_files, stream_records
from culet.pipeline.graph import Recipe, RunConfig
from culet.pipeline.stage import Stage
from culet.pipeline.stamp import Standing, standings
from culet.pipeline.tables import aligned, duration, size, thousands
from culet.train.report import read_log

_WHAT = {
    "finished": "finished",
    "unchecked": "finished, to be checked",
    "changed": "again: settings or inputs changed",
    "damaged": "again: files damaged or gone",
    "interrupted": "goes on",
    "new": "runs",
}
_SAMPLED_RECORDS = 200
_CHARACTERS_PER_TOKEN = 4.0  # of a tokenizer that is not there yet
_PROMPT_TOKENS = 8
_MEASURED_TOKENS = 2048
_STATE_BYTES = 12  # of a parameter in a resumable state: the weight and two moments


@dataclass(frozen=True)
class Estimate:
    """What a stage would take; None where nobody knows.

    Attributes:
        steps: Steps that are left.
        tokens: Tokens of those.
        rate: Tokens a second.
        basis: Where the rate comes from.
        disk: Bytes at most, while it runs and once it is finished.
    """

    steps: int | None = None
    tokens: float | None = None
    rate: float | None = None
    basis: str = ""
    disk: float | None = None

    @property
    def seconds(self) -> float | None:
        """Return the time it would take."""
        return self.tokens / self.rate if self.tokens is not None and self.rate else None


def plan(recipe: Recipe, selected: Sequence[str]) -> list[str]:
    """Return the lines of a table of what would run, and of what it would take in all."""
    known = standings(recipe)
    estimates = {
        name: _estimate(stage, recipe)
        for name, stage in recipe.stages.items()
        if name in selected and known[name].state != "finished"
    }
    rows: list[Sequence[str]] = [("stage", "would", "steps", "tokens", "time", "disk")]
    rows += [_row(n, known[n], estimates.get(n)) for n in recipe.stages if n in selected]
    if recipe.evaluate is not None and "evaluate" in selected:
        rows.append(("evaluate", f"scores {recipe.evaluate.tasks}", "", "", "", ""))
    lines = aligned(rows)
    lines += [f"{name}: {s.found.damage}" for name, s in known.items() if s.found.damage]
    lines += sorted({f"time of {n}: {e.basis}" for n, e in estimates.items() if e.basis})
    return lines + _in_all(recipe, estimates)


def _row(name: str, standing: Standing, estimate: Estimate | None) -> tuple[str, ...]:
    what = _WHAT[standing.state]
    if estimate is None:
        return (name, what, "", "", "", "")
    return (
        name,
        what,
        thousands(estimate.steps),
        thousands(estimate.tokens, about=True),
        duration(estimate.seconds),
        size(estimate.disk),
    )


def _in_all(recipe: Recipe, estimates: Mapping[str, Estimate]) -> list[str]:
    """Return the sums, and a warning if the disk is too small for them."""
    if not estimates:
        return ["nothing to do"]
    unknown = [name for name, estimate in estimates.items() if estimate.seconds is None]
    seconds = sum(estimate.seconds or 0 for estimate in estimates.values())
    disk = sum(estimate.disk or 0 for estimate in estimates.values())
    folder = recipe.run.folder.absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    timed = f"about {duration(seconds)}" if seconds else "time unknown"
    without = f", without {', '.join(unknown)}" if unknown and seconds else ""
    lines = [f"in all: {timed}{without}; disk {size(disk)} of {size(free)} free"]
    if disk > free:
        lines.append("the disk is too small for this")
    return lines


def _estimate(stage: Stage, recipe: Recipe) -> Estimate:
    """Return what a stage would take."""
    steps = getattr(stage.config, "steps", None)
    if steps is None:
        return Estimate(disk=_disk(stage, recipe))
    log = _log(stage.folder)
    done = log[-1]["step"] if log and (stage.folder / "state").exists() else 0
    earlier = log or _log_aside(stage)
    left = max(0, steps - done)
    if earlier:
        per_step = sum(line["tokens"] for line in earlier) / len(earlier)
    else:
        per_step = _tokens_per_step(stage)
    rate, basis = _rate(stage, recipe, earlier)
    tokens = None if per_step is None else left * per_step
    return Estimate(left, tokens, rate, basis, _disk(stage, recipe))


def _rate(
    stage: Stage, recipe: Recipe, earlier: Sequence[Mapping[str, Any]]
) -> tuple[float | None, str]:
    """Return tokens a second, waiting for data included, and where that comes from."""
    if earlier:
        return _logged_rate(earlier), "from its own log"
    for other in reversed(list(recipe.stages.values())):
        log = _log(other.folder)
        if log and other.kind.module == stage.kind.module:
            return _logged_rate(log), f"at the rate of {other.name}"
    if stage.kind.module != "culet.stages.tune":
        return None, ""
    measured = _measure(stage, recipe)
    return measured, "measured for a moment" if measured else ""


def _logged_rate(log: Sequence[Mapping[str, Any]]) -> float:
    waited = [line["tokens"] / (line["seconds"] + line["waited_seconds"]) for line in log]
    return float(median(waited))


def _measure(stage: Stage, recipe: Recipe) -> float | None:
    """Return the tokens a second of a contrastive step on random texts."""
    shape = _shape(stage, recipe)
    if shape is None:
        return None
    config = stage.config
    length = min(config.max_tokens, 32)
    return _measured(shape, length, config.loss, config.compute_dtype, recipe.run)


@cache
def _measured(shape: Any, length: int, loss: Any, dtype: str, run: RunConfig) -> float:
    """Measure that once for all stages that are alike in it."""
    import numpy as np
    import torch

    from culet.data.collate import PairBatch
    from culet.model.embedding import EmbeddingModel, initialize
    from culet.train.contrastive import contrastive_step
    from culet.train.distributed import find_device

    if run.threads:
        torch.set_num_threads(run.threads)
    device = find_device(run.device, 0, 1)
    model = initialize(EmbeddingModel(shape), seed=0).to(device)
    rng = np.random.default_rng(0)
    texts = rng.integers(5, shape.encoder.vocab_size, (_MEASURED_TOKENS // length, length))
    pairs = len(texts) // 2
    first = np.arange(pairs)
    batch = PairBatch(list(texts), first, pairs + first, np.empty((pairs, 0), dtype=np.int64))
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        contrastive_step(model, batch, loss, compute_dtype=getattr(torch, dtype))
        seconds.append(time.perf_counter() - began)
    return batch.num_tokens / min(seconds[1:])


def _shape(stage: Stage, recipe: Recipe) -> Any:
    """Return the architecture a tuning stage would train, if it is known before it runs."""
    from culet.checkpoint import read_checkpoint
    from culet.stages.start import model_config

    init = stage.inputs.get("init")
    if isinstance(init, Path) and (init / "modules.json").exists():
        return read_checkpoint(init).config
    above = [recipe.stages[name] for name in stage.needs]
    for other in above:
        if other.kind.name == "start":
            return model_config(other.config.shape, vocab_size=other.config.vocab_size)
        if "init" in other.inputs and (shape := _shape(other, recipe)) is not None:
            return shape
    return None


def _tokens_per_step(stage: Stage) -> float | None:
    """Return the tokens of a step, by a sample of the records."""
    config = stage.config
    if hasattr(config, "window"):
        return float(config.batch_size * config.window)
    if stage.kind.module != "culet.stages.tune":
        return None
    total = weights = 0.0
    for source in config.sources:
        lengths = _lengths(source.path, config.num_negatives, config.max_tokens)
        if lengths:
            batch = source.batch_size or config.batch_size
            total += source.weight * batch * sum(lengths) / len(lengths)
            weights += source.weight
    return total / weights if weights else None


def _lengths(path: Path, negatives: int, most: int) -> list[float]:
    """Return about how many tokens each of the first records of a source has."""
    if not path.exists():
        return []
    lengths = []
    for record, _ in stream_records(data_files(path)[:1], skip_bad=True):
        texts = [record.query, record.positive, *record.negatives[:negatives]]
        tokens = (len(text) / _CHARACTERS_PER_TOKEN + _PROMPT_TOKENS for text in texts)
        lengths.append(sum(min(most, number) for number in tokens))
        if len(lengths) == _SAMPLED_RECORDS:
            break
    return lengths


def _disk(stage: Stage, recipe: Recipe) -> float | None:
    """Return the bytes a stage needs at most: what it leaves, and its state, twice at a save."""
    if "data" in stage.gives:
        return float(_bytes(file for path in stage.kind.records(stage) for file in _files(path)))
    weights = _weights(stage, recipe)
    if weights is None:
        return None
    saved = 2 if getattr(stage.config, "save_dtype", "float32") == "bfloat16" else 4
    state = 2 * _STATE_BYTES if hasattr(stage.config, "save_every") else 0
    average = 2 * 4 if getattr(getattr(stage.config, "optim", None), "ema", 0) else 0
    return weights * (saved + state + average)


def _weights(stage: Stage, recipe: Recipe) -> float | None:
    """Return the number of weights a stage would leave, from what it starts from."""
    if stage.kind.name == "start":
        from culet.stages.start import model_config

        shape = model_config(stage.config.shape, vocab_size=stage.config.vocab_size)
        return float(shape.num_parameters())
    if stage.kind.name == "decoder" and stage.inputs["init"] is None:
        from culet.stages.decoder import decoder_config

        return float(decoder_config(stage.config.shape, stage.config.vocab_size).num_parameters())
    found = [place for place in stage.inputs.values() if isinstance(place, Path)]
    found += [p for place in stage.inputs.values() if isinstance(place, tuple) for p in place]
    for place in found[:1]:
        if stored := _bytes(_files(place, "*.safetensors")):
            return stored / 4
    for name in stage.needs:
        if (weights := _weights(recipe.stages[name], recipe)) is not None:
            return weights * (2 if stage.kind.name == "adapt" else 1)
    return None


def _files(path: Path, pattern: str = "*") -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob(pattern) if file.is_file()]


def _bytes(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _log(folder: Path) -> list[dict[str, Any]]:
    return read_log(folder / "log.jsonl")


def _log_aside(stage: Stage) -> list[dict[str, Any]]:
    """Return the log of the youngest earlier run of a stage that was moved aside."""
    logs = sorted(
        stage.folder.parent.glob(f"{stage.name}.*/log.jsonl"), key=lambda file: file.stat().st_mtime
    )
    return _log(logs[-1].parent) if logs else []
