"""What a stage writes: bytes at most while it runs, and once it is finished.

Small files (logs, reports, tokenizers) are left out. None where nobody can say before.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from culet.data.prepare.dedup import KEY
from culet.pipeline.plan.architectures import Shapes
from culet.pipeline.plan.samples import Rows, Samples, passed_on
from culet.pipeline.stage import Stage

if TYPE_CHECKING:
    from culet.pipeline.plan.architectures import Shape

_STATE = 2 * 12  # bytes of a parameter in states: the weight and two moments, twice at a save
_AVERAGE = 2 * 4  # likewise of its running mean
_TOKEN, _TEXT = 4 / 3, 24  # bytes on disk of a byte of text as tokens, and of a text besides
_EXACT, _BAND = (
    20,
    12,
)  # bytes of a row, or of its bands, in files dealt out; `culet.data.prepare.dedup`
_PACKAGED_WIDTH = 512  # of the embedder that judges pairs, where none is named
_STORED_TEXT = 40  # bytes around a text in a store: its task, brackets, where it begins
_NUMBERS = 64  # bytes of a record in the index of a search
_KEY_OF_A_TEXT = 36  # 32 hex digits and their length, beside a taught vector
_MIXTURE = 20_000  # bytes of a mixture in tables, picture and journal


@dataclass(frozen=True)
class Disk:
    """Bytes.

    Attributes:
        peak: At most, while the stage runs.
        kept: At most, once it is finished.
    """

    peak: float
    kept: float


class Writes:
    """Says what stages write.

    Args:
        samples: What their files hold.
        shapes: What their models look like.
    """

    def __init__(self, samples: Samples, shapes: Shapes) -> None:
        self._samples = samples
        self._shapes = shapes

    def of(self, stage: Stage) -> Disk | None:
        """Return what a stage writes."""
        own: dict[str, Callable[[Stage], Disk | None]] = {
            "generate": lambda stage: None,  # what a model will write nobody knows
            "prepare": self._prepare,
            "mine": self._mine,
            "teach": self._teach,
            "search_mixture": self._search,
            "merge": self._merge,
        }
        return own.get(stage.kind.name, self._model)(stage)

    def _prepare(self, stage: Stage) -> Disk | None:
        config = stage.config
        rows = self._samples.all_of(passed_on(stage).values())
        if rows is None:
            return None
        kept = rows.packed if config.compress else rows.bytes
        near = config.near
        state = 2 + KEY.itemsize * config.exact + (0 if near is None else 2 * near.hashes)
        dealt = max(_EXACT * config.exact, 0 if near is None else _BAND * near.bands)
        pool = 0.0
        if config.consistency is not None:
            width = config.consistency.width or _PACKAGED_WIDTH
            pool = config.consistency.pool * (4 * width + 16)
        return Disk(state * rows.count + pool + max(dealt * rows.count, kept), kept)

    def _mine(self, stage: Stage) -> Disk | None:
        config = stage.config
        shape = self._shapes.at(stage.inputs["init"])
        width = config.truncate_to or getattr(shape, "embedding_dim", None)
        state = kept = 0.0
        for source in config.sources:
            rows = self._samples.rows(source.path)
            corpus = self._samples.all_of(source.corpus) if source.corpus else Rows(())
            if rows is None or corpus is None or width is None:
                return None
            texts = rows.total(lambda row: len(row.own)) + corpus.count
            written = rows.total(lambda row: row.escaped) + corpus.total(lambda row: row.escaped)
            state += written + texts * (_STORED_TEXT + 2 * width) + rows.count * _NUMBERS
            documents = corpus if corpus.parts else rows
            found = config.rules.number * documents.mean(lambda row: row.sides[-1])
            kept += rows.bytes + rows.count * found
        return Disk(state + kept, kept)

    def _teach(self, stage: Stage) -> Disk | None:
        config = stage.config
        rows = self._samples.all_of(source.path for source in config.sources)
        width = config.truncate_to or self._width(config.teacher)
        if rows is None or width is None:
            return None
        texts = rows.total(lambda row: len(row.own))
        kept = texts * (2 * width + _KEY_OF_A_TEXT)
        store = rows.total(lambda row: row.escaped) + texts * _STORED_TEXT
        return Disk(store + kept, kept)

    def _width(self, teacher: Path | None) -> int | None:
        """Return the width of a teacher's vectors, also of one that only others can read."""
        if teacher is None:
            return None
        width = getattr(self._shapes.at(teacher), "embedding_dim", None)
        return width if width is not None else foreign_width(teacher)

    def _search(self, stage: Stage) -> Disk | None:
        config = stage.config
        shape = self._shapes.at(stage.inputs["init"])
        if shape is None:
            return None
        kept = _MIXTURE * (1 + config.random + config.rounds)
        return Disk(kept + config.workers * _tuned(stage.extra.trial, shape).peak, kept)

    def _merge(self, stage: Stage) -> Disk | None:
        shape = self._shapes.at(stage.inputs["models"])
        if shape is None:
            return None
        kept = shape.num_parameters() * _bytes(stage.config.dtype)
        candidate = 4 * shape.num_parameters() * (stage.config.method == "greedy")
        return Disk(2 * kept + candidate, kept)  # the mean is made beside it

    def _model(self, stage: Stage) -> Disk | None:
        """Return what a stage writes whose output is a model."""
        config = stage.config
        shapes = [self._shapes.of(stage, o) for o in stage.gives if o in _MODELS]
        known = [shape for shape in shapes if shape is not None]
        if not known:
            return None
        if stage.kind.module == "culet.stages.tune":
            return _tuned(config, known[0])
        dtype = getattr(config, "save_dtype", getattr(config, "dtype", "float32"))
        kept = float(sum(shape.num_parameters() for shape in known) * _bytes(dtype))
        if not hasattr(config, "save_every"):
            return Disk(kept, kept)
        texts = self._samples.all_of(source.path for source in getattr(config, "sources", ()))
        streams = 0.0 if texts is None else texts.total(lambda row: _TOKEN * sum(row.sides) + _TEXT)
        moving = known[0].num_parameters() - (_table(known[0]) if config.optim.embed_lr == 0 else 0)
        weights = 4 * known[0].num_parameters() * _last(config)
        average = _AVERAGE if config.optim.ema else 0
        return Disk(kept + (_STATE + average) * moving + weights + streams, kept)


_MODELS = ("model", "decoder", "seq2seq")


def _tuned(config: Any, shape: Shape) -> Disk:
    """Return what a contrastive stage writes: a checkpoint, its state, snapshots."""
    weights = shape.num_parameters()
    kept = float(weights * _bytes(config.save_dtype))
    if config.snapshot_every:
        kept *= 1 + min(config.snapshots, config.steps // config.snapshot_every)
    moving = weights if config.lora is None else _low_rank(shape, config.lora.rank)
    return Disk(kept + (_STATE + (_AVERAGE if config.optim.ema else 0)) * moving, kept)


def _low_rank(shape: Shape, rank: int) -> int:
    """Return the weights of low-rank additions to every linear map."""
    maps = {name: s for name, s in shape.weight_shapes().items() if len(s) == 2}
    return sum(rank * sum(size) for name, size in maps.items() if name != "embed")


def _table(shape: Shape) -> int:
    """Return the weights of the token tables."""
    shapes = shape.weight_shapes()
    return sum(s[0] * s[1] for name, s in shapes.items() if name.endswith("embed"))


def _last(config: Any) -> int:
    """Return how many whole models wait to be averaged, with the one that is being written."""
    return config.average_last + 1 if config.average_last > 1 else 0


def _bytes(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else 4


def foreign_width(folder: Path) -> int | None:
    """Return the width of a sentence-transformers folder that culet itself does not read."""
    width = None
    for name in [".", *(path.name for path in sorted(folder.glob("[0-9]_*")))]:
        try:
            found = json.loads((folder / name / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(found, dict):
            width = found.get("out_features", found.get("hidden_size", width))
    return width if isinstance(width, int) else None
