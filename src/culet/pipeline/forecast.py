"""The estimates of all stages of a recipe before they run."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from culet.errors import CuletError, InputError, RecipeError
from culet.files.rows import data_files
from culet.pipeline.graph import Recipe
from culet.pipeline.stage import Stage
from culet.stages.estimate import Context, Estimate, Machine
from culet.stages.samples import Part, Rows, joined, look_at

if TYPE_CHECKING:
    from culet.stages.estimate import Shape


class Forecast:
    """Asks each stage for its estimate, once.

    Args:
        recipe: The recipe.
        ready: Names of the stages whose output is taken as it is.
    """

    def __init__(self, recipe: Recipe, ready: Collection[str]) -> None:
        self._recipe = recipe
        self._ready = ready
        self._estimates: dict[str, Estimate] = {}
        self._shapes: dict[Path, Shape | None] = {}
        self._parts: dict[Path, Part | None] = {}

    def of(self, stage: Stage) -> Estimate:
        """Return the estimate of a stage, an empty one if its settings do not fit."""
        if stage.name not in self._estimates:
            run = self._recipe.run
            machine = Machine(run.device, run.threads)
            context = Context(stage.inputs, machine, self.shape, self.rows)
            contract, config = stage.contract, stage.config
            with suppress(CuletError):  # the stage reports what does not fit
                config = contract.settle(config, stage.inputs)
            try:
                found = contract.estimate(config, context)
            except RecipeError:  # the shape that it will be given does not go with its settings
                raise
            except CuletError:
                found = Estimate()  # the stage reports what does not fit
            self._estimates[stage.name] = found
        return self._estimates[stage.name]

    def shape(self, path: Path | tuple[Path, ...] | None) -> Shape | None:
        """Return the architecture of the model at a path, or of the first of several."""
        if isinstance(path, tuple):
            path = path[0]
        if path is None:
            return None
        for stage in self._recipe.stages.values():
            for output in stage.gives if stage.name not in self._ready else ():
                if path == stage.output(output):
                    return self.of(stage).models.get(output)
        if path not in self._shapes:
            self._shapes[path] = read_shape(path)
        return self._shapes[path]

    def rows(self, paths: Iterable[Path]) -> Rows | None:
        """Return the rows behind some paths; None if one of them is not known yet."""
        return joined(self._rows(path) for path in paths)

    def _rows(self, path: Path) -> Rows | None:
        for stage in self._recipe.stages.values():
            if stage.name not in self._ready and path.is_relative_to(stage.folder):
                return self._to_come(stage, path.relative_to(stage.folder))
        try:
            files = data_files(path)
        except InputError:
            return None
        for file in files:
            if file not in self._parts:
                self._parts[file] = look_at(file)
        parts = [self._parts[file] for file in files]
        return joined(None if part is None else Rows((part,)) for part in parts)

    def _to_come(self, stage: Stage, inside: Path) -> Rows | None:
        """Return the rows that a stage will leave at a place inside its folder."""
        rows = self.of(stage).rows
        if inside.parts[:1] != ("data",):
            return None
        return joined(rows.values()) if len(inside.parts) == 1 else rows.get(inside.parts[1])


def read_shape(path: Path) -> Shape | None:
    """Return the architecture of a model on disk; None if it cannot be read."""
    from culet.checkpoints.recognize import read_any

    try:
        return read_any(path).config
    except (CuletError, OSError):
        return None  # the stage reports what is wrong
