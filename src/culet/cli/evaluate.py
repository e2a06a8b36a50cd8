"""The verb `culet evaluate`."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from culet.cli.options import (
    DeviceOption,
    JsonOption,
    ModelOption,
    PrecisionOption,
    QuietOption,
    ThreadsOption,
    load_model,
    print_json,
)
from culet.errors import CheckpointError, InputError, need
from culet.terminal.lines import say

if TYPE_CHECKING:
    from culet.evaluate import TaskResult


class Precision(StrEnum):
    """How vectors are stored when they are scored."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    int8 = "int8"
    binary = "binary"


def evaluate(
    folders: Annotated[list[Path], typer.Argument(help="Folders of task folders.")],
    model: ModelOption = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where results are written.")] = Path(
        "results"
    ),
    truncate_to: Annotated[
        list[int] | None, typer.Option(help="A width to score; may be repeated.")
    ] = None,
    vector_precision: Annotated[
        list[Precision] | None, typer.Option(help="Of the vectors; may be repeated.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="The name of a task; may be repeated.")
    ] = None,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            help="A column beside the model: letters or tf-idf (floors without training), or "
            "another model, any sentence-transformers folder among them; may be repeated."
        ),
    ] = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Score a model on evaluation tasks by MTEB's protocols."""
    from culet.architecture.embedding_config import check_width

    evaluation = need("culet.evaluate", extra="eval", purpose="culet evaluate")
    tasks = _chosen_tasks(evaluation, folders, only)
    _check_folder(out)
    embedder = load_model(model, device, precision, threads)
    for width in truncate_to or ():
        check_width(width, embedder.widths)
    # None names the full width in results, so that it is one column under both of its names.
    asked = dict.fromkeys(truncate_to or [embedder.dim])
    widths = [None if width == embedder.dim else width for width in asked]
    precisions = [str(item) for item in dict.fromkeys(vector_precision or [Precision.float32])]
    peers = [_peer(name, device, precision, threads) for name in beside or ()]
    columns: dict[str, list[TaskResult]] = {}
    failures: dict[str, str] = {}
    for peer in peers:
        show = not quiet
        found, failed = _score(evaluation, peer, tasks, out, [None], ["float32"], show)
        columns[peer.name] = found
        failures |= {f"{peer.name}: {task}": error for task, error in failed.items()}
    results, failed = _score(evaluation, embedder, tasks, out, widths, precisions, not quiet)
    columns[embedder.name] = results
    failures |= failed
    if as_json:
        print_json(_facts(columns, failures, out))
    else:
        evaluation.print_report(columns, failures=failures)
    if results:
        say(f"results, computed in {embedder.precision} by {embedder.backend}, are in {out}")
    if failures:
        raise typer.Exit(1)


def _facts(
    columns: dict[str, list[TaskResult]], failures: dict[str, str], out: Path
) -> dict[str, Any]:
    """Return the scores of every model and what failed, as JSON."""
    scores = [
        {
            "model": model,
            "task": result.info.name,
            "type": result.info.type,
            "metric": result.info.metric,
            "main_score": result.main_score,
            "subsets": {name: dict(scores) for name, scores in result.subsets.items()},
            "truncate_to": result.truncate_to,
            "precision": result.precision,
        }
        for model, results in columns.items()
        for result in results
    ]
    return {"folder": str(out), "scores": scores, "failures": failures}


def _peer(name: str, device: str | None, precision: str | None, threads: int | None) -> Any:
    """Return a floor, a model that culet reads, or one of another kind by its own library.

    Raises:
        CheckpointError: If there is a folder and neither culet nor sentence-transformers reads it.
    """
    from culet.evaluate.floors import FLOORS
    from culet.evaluate.peers import SentenceTransformerModel

    if name in FLOORS:
        return FLOORS[name]()
    try:
        return load_model(name, device, precision, threads)
    except CheckpointError:
        if not (Path(name) / "modules.json").exists():
            raise
    return SentenceTransformerModel(Path(name))


def _score(
    evaluation: Any,
    embedder: Any,
    tasks: dict[Path, list[str]],
    out: Path,
    widths: list[int | None],
    precisions: list[str],
    show: bool,
) -> tuple[list[TaskResult], dict[str, str]]:
    """Return the results of the tasks of every folder, and what failed and why."""
    from culet.terminal.progress import Progress

    results: list[TaskResult] = []
    failures: dict[str, str] = {}
    scores = sum(map(len, tasks.values())) * len(widths) * len(precisions)
    with Progress("evaluating", total=scores, unit="scores", show=show) as bar:

        def note(result: TaskResult) -> None:
            bar.advance(1, task=result.info.name, score=100 * result.main_score)

        for folder, names in tasks.items():
            outcome = evaluation.evaluate_folder(
                embedder,
                folder,
                out,
                name=embedder.name,
                revision=embedder.fingerprint,
                only=names,
                widths=widths,
                precisions=precisions,
                on_result=note,
            )
            results += outcome.results
            failures |= outcome.failures
    return results, failures


def _chosen_tasks(
    evaluation: Any, folders: list[Path], only: list[str] | None
) -> dict[Path, list[str]]:
    """Return the names of the tasks to score in each folder that has some of them.

    Raises:
        InputError: If a task is asked for that no folder has, or one that two have: their results
            would have one name.
    """
    names = {folder: [info.name for info in evaluation.list_tasks(folder)] for folder in folders}
    known = sorted({name for found in names.values() for name in found})
    if unknown := sorted(set(only or ()) - set(known)):
        have = "folder has" if len(names) == 1 else "folders have"
        raise InputError(f"unknown task {', '.join(unknown)}; the {have} {', '.join(known)}")
    chosen = {
        folder: [name for name in found if not only or name in only]
        for folder, found in names.items()
    }
    places: dict[str, Path] = {}
    for folder, found in chosen.items():
        for name in found:
            if name in places:
                raise InputError(
                    f"{places[name]} and {folder} both have a task {name}; evaluate them one by "
                    "one, with another --out each"
                )
            places[name] = folder
    return {folder: found for folder, found in chosen.items() if found}


def _check_folder(out: Path) -> None:
    """Raise InputError unless results can be written to a folder, which need not be there yet."""
    nearest = next(place for place in (out, *out.parents) if os.path.exists(place))
    if not nearest.is_dir():
        raise InputError(f"cannot write results to {out}: {nearest} is a file; name a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(
            f"cannot write results to {out}: {nearest} cannot be written; name another folder"
        )
