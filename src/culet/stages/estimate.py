"""What a stage estimates before it runs: steps, tokens, speed and disk.

A stage's module offers `estimate(config, context) -> Estimate`. `culet.pipeline.plan` makes a table
of it, and prefers steps, tokens and speed from logs where there are any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from culet.stages.samples import Rows

if TYPE_CHECKING:
    from culet.architecture.embedding_config import EmbeddingConfig
    from culet.architecture.generating_config import DecoderConfig, EncoderDecoderConfig
    from culet.train.optim import OptimConfig

    Shape = EmbeddingConfig | DecoderConfig | EncoderDecoderConfig

_STATE = 2 * 12  # bytes per parameter in states: the weight and two moments, twice while saving
_AVERAGE = 2 * 4  # likewise of its running mean


@dataclass(frozen=True)
class Machine:
    """Where a recipe runs; see `culet.pipeline.graph.RunConfig`."""

    device: str
    threads: int


@dataclass(frozen=True)
class Context:
    """What a stage may ask about the recipe around it.

    Attributes:
        inputs: Paths of its inputs, by key.
        machine: Where it runs.
        shape: Returns the architecture of the model that lies, or will lie, at a path (of several
            paths, at the first); None if it is not known.
        rows: Returns the rows that lie, or will lie, at some paths; None if they are not known.
    """

    inputs: Mapping[str, Path | tuple[Path, ...] | None]
    machine: Machine
    shape: Callable[[Path | tuple[Path, ...] | None], Shape | None]
    rows: Callable[[Iterable[Path]], Rows | None]


@dataclass(frozen=True)
class Disk:
    """Bytes that a stage writes, without small files (logs, reports, tokenizers).

    Attributes:
        peak: At most, while it runs.
        kept: At most, once it is finished.
    """

    peak: float
    kept: float


@dataclass(frozen=True)
class Estimate:
    """What a stage would take and leave; None where that is unknown.

    Attributes:
        steps: Optimiser steps; None for a stage without any.
        tokens: Tokens of all its steps, or that are embedded.
        at_most: `tokens` is an upper bound, since the texts do not exist yet.
        speed: Measures its tokens a second; None for a stage that reads no tokens.
        logged_by: Module of the stages whose logs give its speed; its own if empty.
        disk: What it writes.
        models: Architectures of the models it leaves, by output; those of `init` if not named.
        rows: Rows it leaves, by the name of their folder below data/.
    """

    steps: int | None = None
    tokens: float | None = None
    at_most: bool = False
    speed: Callable[[], float | None] | None = None
    logged_by: str = ""
    disk: Disk | None = None
    models: Mapping[str, Shape | None] = field(default_factory=dict)
    rows: Mapping[str, Rows | None] = field(default_factory=dict)


def weights_disk(shape: Shape | None, dtype: str) -> Disk | None:
    """Return what a stage writes that only leaves a model."""
    return None if shape is None else Disk(*[float(stored(shape, dtype))] * 2)


def stored(shape: Shape, dtype: str) -> int:
    """Return the bytes of a model's weights on disk."""
    return shape.num_parameters() * (2 if dtype == "bfloat16" else 4)


def state_bytes(parameters: int, optim: OptimConfig) -> int:
    """Return the bytes of a resumable state, two of which lie on disk while one is written."""
    return parameters * (_STATE + (_AVERAGE if optim.ema else 0))


def table_parameters(shape: Shape) -> int:
    """Return the number of weights in the token tables."""
    shapes = shape.weight_shapes()
    return sum(s[0] * s[1] for name, s in shapes.items() if name.endswith("embed"))
