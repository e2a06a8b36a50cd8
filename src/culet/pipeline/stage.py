"""What a pipeline knows of a stage before it runs: its kind, settings, inputs and folder.

Nothing here imports a stage: its module is imported when its settings are read, and the heavy
part of it when it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from culet.errors import need

Output = Literal["model", "decoder", "seq2seq", "data", "vectors", "mixture"]


@dataclass(frozen=True)
class Input:
    """One thing a stage reads: the output of a stage above it, or a path.

    Attributes:
        key: Key of its section, and parameter of the stage's `run`.
        takes: Outputs that fit, the preferred one first.
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
    """A stage about to run.

    Attributes:
        stage: The stage.
        device: Where it computes.
        say: Takes lines for the person watching.
        watch: Scores a model as it is, where the recipe has tasks: (stage, step, model).
        threads: CPU threads of scoring and embedding; None leaves the backend's choice.
    """

    stage: Stage
    device: str
    say: Callable[[str], None]
    watch: Callable[[Stage, int, Any], None] | None = None
    threads: int | None = None


def run_plainly(job: Job) -> object:
    """Call a stage's `run` by the stage contract."""
    stage = job.stage
    run = stage.kind.load("run")
    threads = {"threads": job.threads} if stage.kind.embeds else {}
    return run(
        stage.config,
        **stage.inputs,
        **threads,
        out=stage.folder,
        name=stage.name,
        device=job.device,
        say=job.say,
    )


@dataclass(frozen=True)
class Kind:
    """One entry of the registry.

    Attributes:
        name: What `kind` is in a recipe.
        module: Module of the stage.
        config: Its config class.
        gives: Each output and its place inside the stage's folder, the main one first; none if it
            gives what its input `init` is.
        inputs: What it reads from other stages.
        run: Runs a job; what it returns is not looked at.
        unimportant: Settings that do not change what the stage leaves.
        writes: Dotted keys of paths that the stage makes itself, such as a cache.
        hub: Paths among its settings that may be ids of the hub.
        packaged: Whether it goes by the packaged model, which then counts as a file it reads.
        records: Paths of training records among its settings, which must hold some.
        extra: Module and class of the keys of its section that the pipeline reads itself.
        complete: Returns its settings, given those and the extra ones.
        everywhere: Runs in every process of a distributed run, not in the first alone.
        embeds: Its `run` takes the number of threads for an engine of its own.
        check: Raises RecipeError for settings that do not go with its inputs.
        by_dev: Whether it goes by dev scores: its `dev` is then the recipe's tasks if left out.
    """

    name: str
    module: str
    config: str
    gives: Mapping[Output, str]
    inputs: tuple[Input, ...] = ()
    run: Callable[[Job], object] = run_plainly
    unimportant: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    hub: Callable[[Stage], tuple[Path | None, ...]] = lambda stage: ()
    packaged: Callable[[Any], bool] = lambda config: False
    records: Callable[[Stage], tuple[Path, ...]] = lambda stage: ()
    extra: tuple[str, str] | None = None
    complete: Callable[[dict[str, Any], Any], dict[str, Any]] | None = None
    everywhere: bool = False
    embeds: bool = False
    check: Callable[[Stage], object] = lambda stage: None
    by_dev: Callable[[Any], bool] = lambda config: False

    def load(self, name: str, module: str | None = None) -> Any:
        """Return something of the stage's module, or of another one.

        Raises:
            MissingExtra: If the module needs a package that is not installed.
        """
        purpose = f"a stage of kind {self.name}"
        return getattr(need(module or self.module, extra="train", purpose=purpose), name)


@dataclass(frozen=True)
class Stage:
    """One stage of a recipe, everything resolved.

    Attributes:
        name: Its section.
        kind: Its entry of the registry.
        config: Its settings; references to other stages are paths here.
        folder: Where it keeps what it makes.
        inputs: Arguments of its `run`.
        needs: Names of the stages it reads.
        files: Paths outside the run that it reads.
        gives: Each output and its place inside the folder, the main one first.
        extra: The keys of its section that the pipeline reads itself.
    """

    name: str
    kind: Kind
    config: Any
    folder: Path
    inputs: Mapping[str, Path | tuple[Path, ...] | None]
    needs: tuple[str, ...]
    files: tuple[Path, ...]
    gives: Mapping[Output, str]
    extra: Any = None

    def output(self, kind: Output | None = None) -> Path:
        """Return where one of its outputs lies, or its main one."""
        place = next(iter(self.gives.values())) if kind is None else self.gives[kind]
        return self.folder / place
