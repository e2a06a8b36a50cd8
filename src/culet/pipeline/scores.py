"""Scores of a recipe's models: during a stage, and of every stage at the end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from culet.architecture.embedding_config import check_width
from culet.checkpoints.embedding import read_embedding_model
from culet.errors import InputError
from culet.pipeline.forecast import Forecast
from culet.pipeline.graph import EvaluateConfig, Recipe
from culet.pipeline.stage import Stage
from culet.terminal.lines import show

if TYPE_CHECKING:
    from culet.evaluate.evaluation import TaskResult


def check_tasks(config: EvaluateConfig) -> None:
    """Raise InputError if there are no tasks."""
    from culet.evaluate.tasks import list_tasks

    list_tasks(config.tasks)


def check_widths(recipe: Recipe, config: EvaluateConfig, selected: Collection[str]) -> None:
    """Raise InputError for a width that the last model will not be trained at, if that is known.

    Args:
        recipe: The recipe.
        config: Its section [evaluate].
        selected: Names of the stages that run; the others are taken as they are.
    """
    models = [
        stage
        for stage in recipe.stages.values()
        if "model" in stage.gives and (stage.name in selected or stage.output("model").exists())
    ]
    if config.widths and models:
        forecast = Forecast(recipe, [name for name in recipe.stages if name not in selected])
        trained = getattr(forecast.shape(models[-1].output("model")), "widths", None)
        if trained is not None:
            _check_widths(config.widths, trained)


def _check_widths(widths: Sequence[int], trained: Sequence[int]) -> None:
    for width in widths:
        try:
            check_width(width, trained)
        except InputError as error:
            raise InputError(f"[evaluate] widths: {error}") from None


def watcher(
    recipe: Recipe, config: EvaluateConfig, device: str, say: Callable[[str], None]
) -> Callable[[Stage, Any, int], None]:
    """Return a callback for a stage: it prints the mean score of the model in training."""
    import torch

    from culet.embedder import Embedder
    from culet.evaluate.evaluation import evaluate, mean_main_score
    from culet.evaluate.tasks import list_tasks, read_task
    from culet.runtime.pytorch import TorchEngine

    tasks: list[Any] = []

    def watch(stage: Stage, model: Any, step: int) -> None:
        tasks.extend([] if tasks else [read_task(i.folder) for i in list_tasks(config.tasks)])
        init = stage.inputs["init"]
        if init is None or isinstance(init, tuple):
            raise InputError(f"stage {stage.name} cannot be scored: it has no single checkpoint")
        engine = TorchEngine(model, device=device, dtype=getattr(torch, stage.config.compute_dtype))
        embedder = Embedder(read_embedding_model(init), engine, name=stage.name)
        found = [evaluate(embedder, task) for task in tasks]
        scored = [result for result in found if result.missing is None]
        mean = f"{100 * mean_main_score(scored):.2f}" if scored else "not there"
        say(f"{stage.name}: after step {step} the mean score of {len(scored)} tasks is {mean}")
        for result in found:
            if result.missing:
                say(f"{stage.name}: {result.info.name} is not in that mean: {result.missing}")

    return watch


def measure(recipe: Recipe, config: EvaluateConfig) -> dict[str, str]:
    """Score the models of the stages, print one table, and return what failed by task.

    Raises:
        InputError: If there is no model, or the last was not trained at a width to be scored.
    """
    from culet.evaluate.report import print_report
    from culet.evaluate.results import evaluate_folder
    from culet.loading import load

    models = [s for s in recipe.stages.values() if "model" in s.gives]
    models = [s for s in models if s.output("model").exists()]
    if not models:
        raise InputError(f"there is no model in {recipe.run.folder} to evaluate; run the stages")
    if config.widths:  # before the others are scored
        _check_widths(config.widths, read_embedding_model(models[-1].output("model")).config.widths)
    columns: dict[str, list[TaskResult]] = {}
    failures: dict[str, str] = {}
    for stage in models:
        last = stage is models[-1]
        if not last and config.after is not None and stage.name not in config.after:
            continue
        device = None if recipe.run.device == "auto" else recipe.run.device
        threads = recipe.run.threads or None
        embedder = load(stage.output("model"), device=device, threads=threads)
        widths = (config.widths or embedder.widths) if last else (embedder.dim,)
        outcome = evaluate_folder(
            embedder,
            config.tasks,
            recipe.run.folder / "results",
            name=f"culet/{stage.name}",
            revision=embedder.fingerprint,
            widths=[None if w == embedder.dim else w for w in widths],
        )
        failures |= outcome.failures
        for result in outcome.results:
            columns.setdefault(stage.name, []).append(result)
    print_report(columns, failures=failures, means_only=True)
    if columns:
        show(f"the score of every task is in {recipe.run.folder / 'results'}")
    return failures
