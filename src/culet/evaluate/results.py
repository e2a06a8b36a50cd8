"""Results on disk in MTEB's layout, and the evaluation of a whole folder of tasks into it.

    <out>/<organisation>__<model>/<revision>/<Task>.json and model_meta.json

A backend other than OpenVINO in float32, and a width or precision of the vectors other than the
model's own, are appended to the revision: `<revision>-torch-in-bfloat16-256d-int8`. mteb's
TaskResult and ResultCache read these files; fields of culet's own are under `culet`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from culet.errors import InputError
from culet.evaluate.encoding import Model, Settings, TaskModel
from culet.evaluate.evaluation import TaskResult, evaluate_widths
from culet.evaluate.report import label
from culet.evaluate.tasks import WHOLE, TaskInfo, chosen_subsets, list_tasks, read_task
from culet.files.atomic import write_json
from culet.files.fingerprint import of_folder

PROTOCOL_VERSION = "2.26.24"
"""The mteb release whose protocols these scores follow; mteb requires it in every file."""


@dataclass(frozen=True)
class Evaluation:
    """The outcome of evaluate_folder: results, names of tasks read back, and failures."""

    results: tuple[TaskResult, ...]
    skipped: tuple[str, ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict)


def evaluate_folder(
    model: Model | TaskModel,
    tasks: Path | str,
    out: Path | str,
    *,
    name: str,
    revision: str,
    only: Collection[str] | None = None,
    types: Collection[str] | None = None,
    subsets: Collection[str] | None = None,
    widths: Sequence[int | None] = (None,),
    precisions: Sequence[str] = ("float32",),
    settings: Settings | None = None,
    on_result: Callable[[TaskResult], None] = lambda result: None,
) -> Evaluation:
    """Evaluate the tasks of a folder, writing each result as soon as it is known.

    A result already written for the same revision, backend, width, precisions, subsets and
    settings is read back and not computed again. A task that fails is reported at the end and
    does not stop the others.

    Args:
        model: with encode_query and encode_document, or one that is fitted to the texts of a task.
            Its `backend` and `precision`, if it has them, become part of the revision.
        tasks: a folder of task folders.
        out: where the results go.
        name: of the model, organisation/model; without an organisation it becomes local/name.
        revision: of the model's weights.
        only: names of tasks; None takes all.
        types: task types; None takes all.
        subsets: names of subsets; tasks that have subsets but none of these are left out.
        widths: kept widths, each scored once; None for the model's own.
        precisions: of the vectors; likewise.
        settings: seed, instructions and titles.
        on_result: called with each result, including those read back.

    Raises:
        InputError: when the folder has no tasks or a name or type is unknown.
    """
    own = revision_of(revision, **engine_of(model))
    once = tuple(dict.fromkeys(widths)), tuple(dict.fromkeys(precisions))
    run = _Run(model, Path(out), name, own, *once, settings or Settings())
    results: list[TaskResult] = []
    skipped: list[str] = []
    failures: dict[str, str] = {}
    for info in _chosen(list_tasks(tasks), only, types, subsets):
        try:
            found, computed = run.results(info, chosen_subsets(info, subsets))
        except Exception as error:  # one bad task must not waste the hours of the others
            failures[info.name] = f"{type(error).__name__}: {error}"
            continue
        skipped += [] if computed else [info.name]
        for result in found:
            if (missing := result.missing) is not None:
                column = f" ({label(result)})" if label(result) else ""
                failures[info.name + column] = missing
                continue
            results.append(result)
            on_result(result)
    return Evaluation(tuple(results), tuple(skipped), failures)


@dataclass(frozen=True)
class _Run:
    """One model's evaluation into a folder; arguments are those of `evaluate_folder`."""

    model: Model | TaskModel
    out: Path
    name: str
    revision: str
    widths: tuple[int | None, ...]
    precisions: tuple[str, ...]
    settings: Settings

    def results(self, info: TaskInfo, subsets: tuple[str, ...]) -> tuple[list[TaskResult], bool]:
        """Return the results of some subsets of a task, and whether they were computed now."""
        paths = [
            result_path(self.out, info, self.name, self.revision, width, precision)
            for width in self.widths
            for precision in self.precisions
        ]
        record = _record(info, subsets, self.settings) | engine_of(self.model)
        found = [result for path in paths if (result := _read_back(path, info, record))]
        if len(found) == len(paths):
            return found, False
        task = read_task(info.folder, subsets=subsets)
        model = self.model.fitted(task) if isinstance(self.model, TaskModel) else self.model
        found = evaluate_widths(
            model,
            task,
            widths=self.widths,
            precisions=self.precisions,
            settings=self.settings,
        )
        for result, path in zip(found, paths, strict=True):
            if result.missing is None:
                write_result(result, path, name=self.name, record=record)
        return found, True


def _chosen(
    infos: list[TaskInfo],
    only: Collection[str] | None,
    types: Collection[str] | None,
    subsets: Collection[str] | None,
) -> list[TaskInfo]:
    for wanted, known, what in (
        (only, [info.name for info in infos], "task"),
        (types, sorted({info.type for info in infos}), "type"),
    ):
        unknown = sorted(set(wanted or ()) - set(known))
        if unknown:
            raise InputError(
                f"unknown {what} {', '.join(unknown)}; the folder has {', '.join(known)}"
            )
    return [
        info
        for info in infos
        if (only is None or info.name in only)
        and (types is None or info.type in types)
        and (subsets is None or info.subsets == (WHOLE,) or set(info.subsets) & set(subsets))
    ]


def result_path(
    out: Path | str,
    info: TaskInfo,
    name: str,
    revision: str,
    truncate_to: int | None = None,
    precision: str = "float32",
) -> Path:
    """Return the file of one task's result."""
    folder = revision_name(revision, truncate_to, precision)
    return Path(out) / _model_name(name).replace("/", "__") / folder / f"{task_name(info)}.json"


def engine_of(model: Model | TaskModel) -> dict[str, str]:
    """Return the backend and precision of a model: a precision changes scores as weights do.

    Results written before these were recorded are computed again, since theirs are unknown.
    """
    names = {"backend": "backend", "precision": "computed_in"}
    return {key: str(getattr(model, name)) for name, key in names.items() if hasattr(model, name)}


def revision_of(revision: str, *, backend: str = "openvino", computed_in: str = "float32") -> str:
    """Return the revision of weights with the backend and precision they are computed with."""
    by = "" if backend == "openvino" else f"-{backend}"
    return f"{revision}{by}{'' if computed_in == 'float32' else f'-in-{computed_in}'}"


def revision_name(revision: str, truncate_to: int | None, precision: str) -> str:
    """Return the revision with the width and precision that differ from the model's own."""
    width = f"-{truncate_to}d" if truncate_to is not None else ""
    return f"{revision}{width}{'' if precision == 'float32' else f'-{precision}'}"


def task_name(info: TaskInfo) -> str:
    """Return the MTEB name of a task with scores comparable to MTEB's, else its own name."""
    return info.mteb_name if info.comparable and info.mteb_name else info.name


def _model_name(name: str) -> str:
    return name if "/" in name else f"local/{name}"


def write_result(
    result: TaskResult, path: Path, *, name: str, record: Mapping[str, Any] | None = None
) -> None:
    """Write a result in MTEB's JSON layout, and model_meta.json beside it if that is missing."""
    info = result.info
    document = {
        "dataset_revision": info.dataset_revision or "none",
        "task_name": task_name(info),
        "mteb_version": PROTOCOL_VERSION,
        "scores": {
            info.split: [
                {**scores, "hf_subset": subset, "languages": subset_languages(info, subset)}
                for subset, scores in result.subsets.items()
            ]
        },
        "evaluation_time": result.seconds,
        "kg_co2_emissions": None,
        "culet": {**(record or {}), "truncate_to": result.truncate_to}
        | {"precision": result.precision, "main_score": result.main_score}
        | {"replicates": dict(result.replicates), "degenerate": dict(result.degenerate)},
    }
    write_json(path, _finite(document), together=True)
    meta = path.parent / "model_meta.json"
    if not meta.exists():
        write_json(meta, _model_meta(name, path.parent.name, result.truncate_to), together=True)


def _finite(value: Any) -> Any:
    """Return a value with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _model_meta(name: str, revision: str, width: int | None) -> dict[str, Any]:
    unknown = (
        "loader release_date languages n_parameters memory_usage_mb max_tokens license "
        "open_weights public_training_code public_training_data training_datasets"
    )
    return dict.fromkeys(unknown.split()) | {
        "name": _model_name(name),
        "revision": revision,
        "embed_dim": width,
        "framework": [],
        "similarity_fn_name": "cosine",
        "use_instructions": True,
        "modalities": ["text"],
        "model_type": ["dense"],
    }


def subset_languages(info: TaskInfo, subset: str) -> list[str]:
    """Return the languages that a subset's name spells out (`deu_Latn-eng_Latn`), else all."""
    named: list[str] = []
    for part in re.split("-", subset):
        code = part.replace("_", "-")
        named += [x for x in info.languages if x == code or x.startswith(f"{code}-")][:1] or [""]
    return named if all(named) else list(info.languages)


def _record(info: TaskInfo, subsets: Sequence[str], settings: Settings) -> dict[str, Any]:
    """Return the settings that a stored result must have been made with to be reused."""
    return {
        "subsets": list(subsets),
        "seed": settings.seed,
        "instruction": settings.instruction(info),
        "query_task": settings.query_task(info),
        "titles": settings.titles,
        "protocol": dict(info.protocol),
        # tasks of two folders may share a name, and a folder's rows may change
        "data": of_folder(info.folder),
    }


def _read_back(path: Path, info: TaskInfo, record: Mapping[str, Any]) -> TaskResult | None:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        result = _result(document, info)
        made_with = {key: document["culet"][key] for key in record}
    except (OSError, ValueError, KeyError, TypeError):
        return None  # absent, or not written by culet: compute it
    return result if made_with == dict(record) else None


def _result(document: Mapping[str, Any], info: TaskInfo) -> TaskResult:
    entries = document["scores"][info.split]
    drop = ("hf_subset", "languages", "mteb_version")
    return TaskResult(
        info,
        {
            entry["hf_subset"]: {key: entry[key] for key in entry if key not in drop}
            for entry in entries
        },
        document["culet"]["truncate_to"],
        document["culet"]["precision"],
        document["evaluation_time"],
        {s: tuple(r) for s, r in document["culet"]["replicates"].items()},
        document["culet"].get("degenerate", {}),
    )


def read_results(folder: Path | str, tasks: Path | str) -> list[TaskResult]:
    """Read the results of one revision folder for those tasks of a task folder that it has.

    Raises:
        InputError: when it has none, or a file is damaged.
    """
    results = []
    for info in list_tasks(tasks):
        path = Path(folder) / f"{task_name(info)}.json"
        if not path.exists():
            continue
        try:
            results.append(_result(json.loads(path.read_text(encoding="utf-8")), info))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: expected a result written by culet, got {error!r}; evaluate again"
            ) from None
    if not results:
        raise InputError(f"{folder}: expected results of the tasks in {tasks}, found none")
    return results
