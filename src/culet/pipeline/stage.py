"""What a pipeline knows about a stage before it runs: its kind, settings, inputs and folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from culet.pipeline.kinds import Kind
from culet.stages.contract import Contract, Output


@dataclass(frozen=True)
class Stage:
    """One stage of a recipe, everything resolved.

    Attributes:
        name: Its section.
        kind: Its entry in the registry.
        config: Its settings; references to other stages are paths here.
        folder: Where it keeps what it makes.
        inputs: Paths of its inputs, by key; None for one that is left out.
        needs: Names of the stages it reads.
        files: Paths outside the run that must be there.
        gives: Each output and its place inside the folder, the main one first.
    """

    name: str
    kind: Kind
    config: Any
    folder: Path
    inputs: Mapping[str, Path | tuple[Path, ...] | None]
    needs: tuple[str, ...]
    files: tuple[Path, ...]
    gives: Mapping[Output, str]

    @property
    def contract(self) -> Contract[Any]:
        """Return what the stage's module offers."""
        return self.kind.contract()

    def output(self, kind: Output | None = None) -> Path:
        """Return where one of its outputs lies, or its main one."""
        place = next(iter(self.gives.values())) if kind is None else self.gives[kind]
        return self.folder / place
