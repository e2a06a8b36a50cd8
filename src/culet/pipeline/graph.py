"""A recipe file as a graph of stages.

Each section but [run] and [evaluate] is a stage. It reads stages above it: by default the
nearest one that gives what it needs, otherwise the ones it names. A name alone means a stage's
output where a stage is expected (`init = "prefinetune"`); anywhere else a path may begin
with "@": "@mine" is the main output of stage mine, "@mine/report.json" a file in its folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from culet.checkpoints.recognize import Kind as CheckpointKind
from culet.checkpoints.recognize import recognize
from culet.errors import CheckpointError, InputError, RecipeError
from culet.files.addresses import shown
from culet.files.settings import build, read_toml
from culet.pipeline.kinds import KINDS, Kind
from culet.pipeline.stage import Stage
from culet.stages.contract import Input, Output

_OUTPUTS: dict[CheckpointKind, Output] = {
    "embedding model": "model",
    "decoder": "decoder",
    "encoder-decoder": "seq2seq",
}


@dataclass(frozen=True)
class RunConfig:
    """Where and on what a recipe runs.

    Attributes:
        folder: Receives a folder for each stage.
        device: "auto" takes the best one available.
        threads: CPU threads of training and scoring; 0 leaves the choice to them. A run resumes
            bit-identically only with the same number.
        parallel: How several processes hold the weights: "ddp" all in each, "fsdp" sharded.
    """

    folder: Path
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    threads: int = 0
    parallel: Literal["ddp", "fsdp"] = "ddp"


@dataclass(frozen=True)
class EvaluateConfig:
    """What is measured after the stages.

    Attributes:
        tasks: Folder of evaluation tasks.
        widths: Widths at which the last checkpoint is scored; empty means all it was trained at.
        after: Stages whose checkpoints are scored at full width; all that give a model, if left
            out. The last one always is.
    """

    tasks: Path
    widths: tuple[int, ...] = ()
    after: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Recipe:
    """A whole recipe, checked; stages in the order in which they run."""

    run: RunConfig
    stages: Mapping[str, Stage]
    evaluate: EvaluateConfig | None


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe in a TOML file after overrides; relative paths start at the working folder.

    Raises:
        RecipeError: Unknown kinds or keys, wrong types, a reference to a stage that is not
            above, or no stage to start from.
    """
    tables = read_toml(path, overrides)
    if "run" not in tables:
        raise RecipeError(f"{path} needs a section [run] with a folder")
    run = build(RunConfig, tables["run"], where="run")
    evaluate = None
    if "evaluate" in tables:
        evaluate = build(EvaluateConfig, tables["evaluate"], where="evaluate")
    names = [name for name in tables if name not in ("run", "evaluate")]
    places = _fill_in(tables, names, path)
    if not names:
        raise RecipeError(f"{path} has no stage; add a section such as [start] or [finetune]")
    stages: dict[str, Stage] = {}
    for name in names:
        tasks = None if evaluate is None else evaluate.tasks
        references = _References(name, stages, names[: places[name]], path, tasks)
        stages[name] = _stage(name, tables[name], references, run.folder)
        if getattr(stages[name].config, "eval_every", 0) and evaluate is None:
            raise RecipeError(f"{name}.eval_every needs a section [evaluate] with tasks")
    after = () if evaluate is None else evaluate.after or ()
    if unknown := [name for name in after if name not in stages]:
        raise RecipeError(f"[evaluate] after must name stages ({', '.join(stages)}), got {unknown}")
    return Recipe(run, stages, evaluate)


def _stage(name: str, table: Any, references: _References, run: Path) -> Stage:
    """Return the stage of a section, its references resolved."""
    kind = _kind(name, table, references.file)
    contract = kind.contract()
    settings = {key: value for key, value in table.items() if key != "kind"}
    own = {field.name for field in fields(contract.config)}
    inputs = {}
    for spec in contract.inputs:
        others = len(references.needs)
        inputs[spec.key] = references.input(spec, settings.get(spec.key))
        # a path stays among the settings that have a place for it
        if spec.key not in own or len(references.needs) > others:
            settings.pop(spec.key, None)
    optional = [_at(settings, key.split(".")) for key in contract.optional]
    config = build(contract.config, settings, where=name, path=references.path)
    try:
        contract.settle(config, inputs)
    except RecipeError as error:
        raise RecipeError(f"[{name}] {error}") from None
    except InputError:
        pass  # an earlier run's files; the stage that makes them again runs first
    return Stage(
        name=name,
        kind=kind,
        config=config,
        folder=run / name,
        inputs=inputs,
        needs=tuple(dict.fromkeys(references.needs)),
        files=tuple(f for f in dict.fromkeys(references.files) if str(f) not in optional),
        gives=contract.gives or {references.matched["init"]: "checkpoint"},
    )


def _at(table: Any, keys: Sequence[str]) -> Any:
    """Return the value of a dotted key, None where there is none."""
    for key in keys:
        table = table.get(key) if isinstance(table, Mapping) else None
    return table


class _References:
    """Resolves the references of a section, and records which stages and files it reads."""

    def __init__(
        self,
        name: str,
        above: Mapping[str, Stage],
        before: Sequence[str],
        file: Path,
        tasks: Path | None,
    ) -> None:
        self._name = name
        self._above = dict(above)
        self._before = before  # where the nearest stage is looked for
        self.file = file
        self._tasks = tasks
        self.needs: list[str] = []
        self.files: list[Path] = []
        self.matched: dict[str, Output] = {}  # what the input of a key is

    def path(self, text: str) -> Path:
        """Return a path as it is, or the one that "@stage" or "@stage/inside" refers to."""
        if not text.startswith("@"):
            self.files.append(Path(text))
            return Path(text)
        name, _, inside = text[1:].partition("/")
        stage = self._stage(name, text)
        return stage.folder / inside if inside else stage.output()

    def input(self, spec: Input, given: Any) -> Path | tuple[Path, ...] | None:
        """Return the path or paths of one input."""
        if given is None:
            if not spec.needed:
                return self._tasks if "tasks" in spec.takes else None
            before = [self._above[name] for name in self._before]
            fitting = [s for s in before if set(spec.takes) & set(s.gives)]
            if not fitting or spec.many:
                raise RecipeError(
                    f"{self.file}: [{self._name}] has nothing to start from; add a section "
                    f"[start], or `{spec.key}` to [{self._name}]: {' or '.join(spec.takes)} of a "
                    "stage above, or a path"
                )
            return self._place(spec, fitting[-1].name)
        if not spec.many:
            return self._place(spec, given)
        if not isinstance(given, list) or not given:
            raise RecipeError(
                f"{self._name}.{spec.key} must be a list of stages or paths, got {shown(given)}"
            )
        return tuple(self._place(spec, text) for text in given)

    def _place(self, spec: Input, text: Any) -> Path:
        if not isinstance(text, str):
            raise RecipeError(
                f"{self._name}.{spec.key} must name a stage or a path, got {shown(text)}"
            )
        name, _, inside = text.removeprefix("@").partition("/")
        if inside or not (text.startswith("@") or name in self._above):
            self.matched[spec.key] = _kind_of(Path(text), spec.takes[0])
            return self.path(text)
        stage = self._stage(name, text)
        fitting = [output for output in spec.takes if output in stage.gives]
        if not fitting:
            raise RecipeError(
                f"[{self._name}] {spec.key} = {text!r}: expected a stage that gives "
                f"{' or '.join(spec.takes)}; {name} gives {', '.join(stage.gives)}"
            )
        self.matched[spec.key] = fitting[0]
        return stage.output(fitting[0])

    def _stage(self, name: str, text: str) -> Stage:
        if name not in self._above:
            raise RecipeError(
                f"[{self._name}] {text!r}: there is no stage {name} above it; those above: "
                f"{', '.join(self._above) or 'none'}"
            )
        self.needs.append(name)
        return self._above[name]


def _kind_of(path: Path, otherwise: Output) -> Output:
    """Return the kind of the checkpoint at a path, `otherwise` if it cannot be recognised."""
    try:
        kind = recognize(path)
    except CheckpointError:  # the stage reports what is wrong
        return otherwise
    return otherwise if kind is None else _OUTPUTS[kind]


def _fill_in(tables: dict[str, Any], names: Sequence[str], file: Path) -> dict[str, int]:
    """Give sections with `like = "other"` the keys of the other one that they do not have.

    The same goes for the keys of their tables; a list is taken whole.

    Returns the position of each section; one that is like another has the position of the other, so
    that both start from the same stage.
    """
    places = {}
    for place, name in enumerate(names):
        places[name] = place
        if not isinstance(tables[name], Mapping) or "like" not in tables[name]:
            continue
        own = dict(tables[name])
        other = own.pop("like")
        if other not in names[:place]:
            raise RecipeError(
                f"{file}: [{name}] like = {other!r}: there is no section of that name above it"
            )
        tables[name] = _merged({"kind": other} | tables[other], own)
        places[name] = places[other]
    return places


def _merged(table: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(table[key], value)
        for key, value in own.items()
        if isinstance(value, Mapping) and isinstance(table.get(key), Mapping)
    }
    return {**table, **own, **both}


def _kind(name: str, table: Any, file: Path) -> Kind:
    """Return the kind of a section."""
    if not isinstance(table, Mapping):
        raise RecipeError(f"{file}: {name} must be a section, got {name} = {shown(table)}")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise RecipeError(
            f"{file}: a stage is named with letters, digits, - and _, since its folder has its "
            f"name; got [{name}]"
        )
    kind = table.get("kind", name)
    if kind not in KINDS:
        known = f"known are: run, {', '.join(KINDS)}, evaluate"
        if "kind" in table:
            raise RecipeError(f"{file}: [{name}] has the unknown kind {kind!r}; {known}")
        raise RecipeError(
            f"{file} has an unknown section: {name}; {known}; or give it one of these as `kind`"
        )
    return KINDS[kind]
