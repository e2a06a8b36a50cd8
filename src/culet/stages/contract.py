"""What a stage's module offers, and how a stage is run: once for each state of its inputs.

A new stage is a module with `STAGE`, a `Contract`, and a line in `culet.pipeline.kinds`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from culet.errors import RecipeError
from culet.files import fingerprint
from culet.files.rows import data_files
from culet.files.settings import identity, to_tables
from culet.stages.estimate import Context, Estimate
from culet.stages.folder import StageFolder

Output = Literal["model", "decoder", "seq2seq", "data", "vectors", "mixture", "tasks"]
Inputs = Mapping[str, Any]  # by key: a path, a tuple of them, or None; see `run_fingerprint` too
Config = TypeVar("Config")


@dataclass(frozen=True)
class Input:
    """One thing a stage reads: the output of a stage above it, or a path.

    Attributes:
        key: Key of its section, and parameter of the stage's `run`.
        takes: Outputs that fit, the preferred one first; "tasks" are those of [evaluate].
        many: A list of them; `run` gets a tuple of paths.
        needed: Without the key, the nearest stage above that gives one is taken, and it is an
            error if there is none. Otherwise the input is left out.
    """

    key: str
    takes: tuple[Output, ...]
    many: bool = False
    needed: bool = True


@dataclass(frozen=True)
class Job:
    """How and for whom a stage runs.

    Attributes:
        name: Name of the stage in messages.
        device: Where it computes.
        threads: CPU threads of its embedders; None leaves the backend's choice.
        say: Takes lines for the person watching.
        watch: Scores a model during training: (model, step).
        score: Returns the mean score of a checkpoint on a folder of tasks, from 0 to 1.
        trial: Returns an objective, which trains with some shares and scores the result; see
            `culet.stages.trials.Objective`.
    """

    name: str
    device: str = "cpu"
    threads: int | None = None
    say: Callable[[str], None] = print
    watch: Callable[[Any, int], None] | None = None
    score: Callable[[Path, Path], float] | None = None
    trial: Callable[..., Any] | None = None


def _as_it_is(config: Any, inputs: Inputs) -> Any:
    return config


def _holds(config: Any, folder: Path) -> bool:
    return True


def _fits(config: Any, inputs: Inputs) -> None:
    pass


@dataclass(frozen=True)
class Contract(Generic[Config]):
    """What the pipeline knows about a kind of stage.

    Attributes:
        config: Class of its settings.
        gives: Each output and its place inside the stage's folder, the main one first; empty if
            it gives what its input `init` is.
        run: Does the work: (config, folder, job, **inputs), the folder opened and not finished.
        reads: Fingerprints of the content of all that it reads.
        estimate: What it would take.
        inputs: What it reads from other stages.
        unimportant: Dotted keys of settings that do not change what it leaves, or whose content is
            among what it reads.
        records: Keys of settings with paths of training records, which must hold some.
        optional: Dotted keys of paths that need not be there: those that the stage makes itself,
            such as a cache, and ids of the hub.
        everywhere: It runs in every process of a distributed run, not in the first alone.
        settle: Returns the settings completed by its inputs, as far as these exist.
        check: Raises for settings that do not fit the content of its inputs.
        is_current: Whether the output of a finished run fits the unimportant settings as well;
            if not, `run` gets the finished folder.
    """

    config: type[Config]
    gives: Mapping[Output, str]
    run: Callable[..., None]
    reads: Callable[[Config, Inputs], Sequence[Any]]
    estimate: Callable[[Config, Context], Estimate]
    inputs: tuple[Input, ...] = ()
    unimportant: tuple[str, ...] = ()
    records: tuple[str, ...] = ("sources",)
    optional: tuple[str, ...] = ()
    everywhere: bool = False
    settle: Callable[[Config, Inputs], Config] = _as_it_is
    check: Callable[[Config, Inputs], object] = _fits
    is_current: Callable[[Config, Path], bool] = _holds


def run_fingerprint(
    stage: Contract[Config],
    config: Config,
    inputs: Inputs,
    *,
    run: Path | None = None,
    by_path: bool = False,
) -> str:
    """Return the fingerprint of a run of a stage: of its settings, and of what it reads.

    Args:
        stage: The stage.
        config: Its settings.
        inputs: Its inputs by key.
        run: Folder of the run; where that lies does not matter. See
            `culet.files.settings.identity`.
        by_path: Order files by their whole paths, as an earlier culet did.
    """
    settings = identity(config, run=run)
    for key in stage.unimportant:
        *tables, last = key.split(".")
        table: Any = settings
        for name in tables:
            table = table.get(name, {})
        table.pop(last, None)
    given = {**inputs, "run": run, "by_path": by_path}
    return fingerprint.of_settings([settings, *stage.reads(config, given)])


def run_stage(
    stage: Contract[Config],
    config: Config,
    *,
    out: Path,
    name: str = "",
    known: str | None = None,
    **given: Any,
) -> Path:
    """Run a stage, unless it is finished, and return where its main output lies.

    A folder of other settings or data is moved aside; an interrupted run is resumed.

    Args:
        stage: The stage.
        config: Its settings.
        out: Its folder.
        name: Its name in messages; the folder's name if empty.
        known: Its `run_fingerprint`, if already computed.
        given: Its inputs by key (one that is left out is None), and other fields of `Job`.
    """
    from culet.train.processes import current

    named = {spec.key: given.pop(spec.key, None) for spec in stage.inputs}
    inputs = {key: path or getattr(config, key, None) for key, path in named.items()}
    job = Job(name or out.name, **given)
    config = stage.settle(config, inputs)
    stage.check(config, inputs)
    world = current()
    with world.first_then_others():
        folder = StageFolder(
            out,
            fingerprint=known or run_fingerprint(stage, config, inputs, run=out.parent),
            settings={job.name: to_tables(config)},
            writes=world.first,
        )
    if not stage.is_current(config, out) or folder.reported_result(job.name, job.say) is None:
        stage.run(config, folder, job, **inputs)
    return out / next(iter(stage.gives.values()), "checkpoint")


def of_records(inputs: Inputs, *paths: Path) -> str:
    """Return the fingerprint of the content of some files or folders of records."""
    return of_content(inputs, data_files(*paths))


def of_content(inputs: Inputs, files: Iterable[Path]) -> str:
    """Return the fingerprint of some files; those inside the run move with it."""
    run: Path | None = inputs["run"]

    def place(path: Path) -> Path:
        inside = run is not None and path.is_relative_to(run) and not inputs["by_path"]
        return Path("@", path.relative_to(run)) if inside and run is not None else path

    return fingerprint.of_files(files, place=place)


def check_sources(sources: Iterable[object], table: str = "<stage>.sources") -> None:
    """Raise RecipeError if there is none."""
    if not tuple(sources):
        raise RecipeError(f"at least one source is needed: add a [[{table}]] table")
