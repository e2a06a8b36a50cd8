"""A recipe from start to end: stages that read and write folders, each skipped once finished.

[run]          folder, device, threads
[start]        tokenizer and random weights (or `init` of the first stage names a checkpoint)
[prefinetune]  contrastive, pairs
[finetune]     contrastive, pairs with hard negatives
[evaluate]     scores after each stage, at several widths
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from culet.checkpoint import read_checkpoint
from culet.data.records import data_files
from culet.embedder import Embedder
from culet.errors import RecipeError
from culet.evaluate.report import print_report
from culet.evaluate.results import evaluate_folder
from culet.evaluate.run import TaskResult, evaluate
from culet.evaluate.tasks import list_tasks, read_task
from culet.loading import load
from culet.model.embedding import EmbeddingModel
from culet.model.engine import TorchEngine
from culet.recipe import build, read_toml
from culet.stages import start, tune
from culet.stages.start import StartConfig
from culet.stages.tune import TuneConfig

TUNE_STAGES = ("prefinetune", "finetune")
SECTIONS = ("run", "start", *TUNE_STAGES, "evaluate")


@dataclass(frozen=True)
class RunConfig:
    """Where and on what a recipe runs.

    Attributes:
        folder: Receives a folder for each stage.
        device: "auto" takes the best there is.
        threads: CPU threads of PyTorch; 0 leaves its choice. Part of bit-identical resume.
    """

    folder: Path
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    threads: int = 0


@dataclass(frozen=True)
class EvaluateConfig:
    """What is measured after the stages.

    Attributes:
        tasks: Folder of evaluation tasks.
        widths: Widths at which the last checkpoint is scored; empty means all it was trained at.
        after: Stages whose checkpoints are scored at full width.
    """

    tasks: Path
    widths: tuple[int, ...] = ()
    after: tuple[str, ...] = ("start", *TUNE_STAGES)

    def __post_init__(self) -> None:
        if unknown := [name for name in self.after if name not in ("start", *TUNE_STAGES)]:
            raise RecipeError(
                f"after must name stages (start, {', '.join(TUNE_STAGES)}), got {unknown}"
            )


@dataclass(frozen=True)
class Recipe:
    """A whole recipe, checked."""

    run: RunConfig
    start: StartConfig | None
    tune: dict[str, TuneConfig]
    evaluate: EvaluateConfig | None


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe in a TOML file after overrides; relative paths start at the working folder.

    Raises:
        RecipeError: Unknown sections or keys, wrong types, or no stage to start from.
    """
    tables = read_toml(path, overrides)
    if unknown := sorted(set(tables) - set(SECTIONS)):
        raise RecipeError(
            f"{path} has unknown sections: {', '.join(unknown)}; known are: {', '.join(SECTIONS)}"
        )
    if "run" not in tables:
        raise RecipeError(f"{path} needs a section [run] with a folder")

    def section(kind: Any, name: str) -> Any:
        return build(kind, tables[name], where=name) if name in tables else None

    recipe = Recipe(
        run=section(RunConfig, "run"),
        start=section(StartConfig, "start"),
        tune={name: section(TuneConfig, name) for name in TUNE_STAGES if name in tables},
        evaluate=section(EvaluateConfig, "evaluate"),
    )
    for name, config in recipe.tune.items():
        if config.eval_every and recipe.evaluate is None:
            raise RecipeError(f"{name}.eval_every needs a section [evaluate] with tasks")
    first = next(iter(recipe.tune.values()), None)
    if recipe.start is None and (first is None or first.init is None):
        raise RecipeError(
            f"{path}: nothing to start from; add a section [start], or `init` to the first stage"
        )
    return recipe


def run_recipe(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    dry_run: bool = False,
    say: Callable[[str], None] = print,
) -> int:
    """Run every stage of a recipe that is not finished and return the exit code 0."""
    recipe = read_recipe(path, overrides)
    check_inputs(recipe)
    if dry_run:
        for line in plan(recipe):
            say(line)
        return 0
    if recipe.run.threads:
        torch.set_num_threads(recipe.run.threads)
    began = time.monotonic()
    checkpoints = run_stages(recipe, say=say)
    if recipe.evaluate is not None:
        measure(recipe, recipe.evaluate, checkpoints)
    name, folder = list(checkpoints.items())[-1]
    say(f"done in {time.monotonic() - began:.0f} s; the model of stage {name} is in {folder}")
    return 0


def check_inputs(recipe: Recipe) -> None:
    """Raise InputError for data or tasks that are not there, before hours are spent without."""
    if recipe.start is not None:
        for corpus in recipe.start.corpus:
            data_files(corpus)
    for config in recipe.tune.values():
        for source in config.sources:
            data_files(source.path)
    if recipe.evaluate is not None:
        list_tasks(recipe.evaluate.tasks)


def run_stages(recipe: Recipe, *, say: Callable[[str], None] = print) -> dict[str, Path]:
    """Run the stages in order and return each one's checkpoint folder."""
    checkpoints: dict[str, Path] = {}
    if recipe.start is not None:
        checkpoints["start"] = start.run(recipe.start, out=recipe.run.folder / "start", say=say)
    for name, config in recipe.tune.items():
        init = config.init or next(reversed(checkpoints.values()))
        result = tune.run(
            config,
            init=init,
            out=recipe.run.folder / name,
            name=name,
            device=_device(recipe.run.device),
            say=say,
            evaluate=_watch(recipe, config, init, name=name, say=say),
        )
        checkpoints[name] = result.checkpoint
    return checkpoints


def _watch(
    recipe: Recipe, config: TuneConfig, init: Path, *, name: str, say: Callable[[str], None]
) -> Callable[[EmbeddingModel, int], None] | None:
    """Return what a stage calls as it goes: a line with the mean score of the model as it is."""
    if recipe.evaluate is None or not config.eval_every:
        return None
    checkpoint, device = read_checkpoint(init), _device(recipe.run.device)
    tasks = [read_task(info.folder) for info in list_tasks(recipe.evaluate.tasks)]

    def watch(model: EmbeddingModel, step: int) -> None:
        dtype = getattr(torch, config.compute_dtype)
        engine = TorchEngine(model, device=device, dtype=dtype)
        embedder = Embedder(checkpoint, engine, name=name)
        mean = sum(evaluate(embedder, task).main_score for task in tasks) / len(tasks)
        say(f"{name}: after step {step} the mean score of {len(tasks)} tasks is {100 * mean:.2f}")

    return watch


def measure(
    recipe: Recipe, config: EvaluateConfig, checkpoints: dict[str, Path]
) -> dict[str, list[TaskResult]]:
    """Score the checkpoints, print one table, and return the results by column."""
    columns: dict[str, list[TaskResult]] = {}
    failures: dict[str, str] = {}
    last = next(reversed(checkpoints))
    for name, folder in checkpoints.items():
        if name not in config.after and name != last:
            continue
        embedder = load(folder, device=_device(recipe.run.device))
        widths = (config.widths or embedder.widths) if name == last else (embedder.dim,)
        outcome = evaluate_folder(
            embedder,
            config.tasks,
            recipe.run.folder / "results",
            name=f"culet/{name}",
            revision=embedder.fingerprint,
            widths=[None if w == embedder.dim else w for w in widths],
        )
        failures |= outcome.failures
        for result in outcome.results:
            columns.setdefault(name, []).append(result)
    print_report(columns, failures=failures, means_only=True)
    print(f"the score of every task is in {recipe.run.folder / 'results'}")
    return columns


def plan(recipe: Recipe) -> list[str]:
    """Return a line for each stage that would run."""
    lines = []
    if recipe.start is not None:
        shape = start.model_config(recipe.start.shape, vocab_size=recipe.start.vocab_size)
        lines.append(
            f"start: tokenizer of {recipe.start.vocab_size} tokens, "
            f"{shape.num_parameters():,} random parameters"
        )
    for name, config in recipe.tune.items():
        done = (recipe.run.folder / name / "done.json").exists()
        lines.append(
            f"{name}: {config.steps} steps of {config.batch_size} pairs from "
            f"{len(config.sources)} sources{' (a finished run is there)' if done else ''}"
        )
    if recipe.evaluate is not None:
        lines.append(f"evaluate: {recipe.evaluate.tasks}")
    return lines


def _device(name: str) -> str:
    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
