"""Sources of training pairs, read and tried in advance, and the batch of any step from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from culet.data.collate import PairBatch, check_teacher, collate, record_prompts
from culet.data.mixture import Mixture
from culet.data.records import Record, Records, read_records
from culet.data.teacher import TeacherFile
from culet.errors import RecipeError
from culet.prompts import TASKS, Prompts
from culet.tokenizer import TextTokenizer


@dataclass(frozen=True)
class SourceConfig:
    """One source of training pairs.

    Attributes:
        path: A file or a folder of files; see `culet.data.records`.
        weight: Share of the batches.
        task: Task of records that name none.
        name: What messages call it; the file's name if empty.
        batch_size: Pairs a batch, if this source needs another size than the stage.
        num_negatives: Hard negatives a query, likewise.
        teacher: Parquet file (key, vector) for records whose teacher vectors are keys.
    """

    path: Path
    weight: float = 1.0
    task: str = "search"
    name: str = ""
    batch_size: int | None = None
    num_negatives: int | None = None
    teacher: Path | None = None

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise RecipeError(f"task must be one of {', '.join(TASKS)}, got {self.task!r}")


@dataclass(frozen=True)
class Source:
    """A source that has been read: every record's task, title and teacher vectors are good."""

    config: SourceConfig
    records: Records
    teacher: TeacherFile | None


def read_source(config: SourceConfig, prompts: Prompts, *, skip_bad: bool) -> Source:
    """Return a source with every record tried against the prompts and the teacher file.

    Raises:
        InputError: At the first bad record, with file and line, unless `skip_bad`.
    """
    teacher = TeacherFile(config.teacher) if config.teacher else None

    def check(record: Record) -> None:
        record_prompts(record, prompts=prompts, task=config.task)
        check_teacher(record, teacher)

    return Source(config, read_records([config.path], skip_bad=skip_bad, check=check), teacher)


class Batcher:
    """Makes the batch of any step; what it gives follows from seed and step alone.

    Args:
        sources: What has been read.
        batch_size: Pairs of a batch, where a source asks for no other number.
        num_negatives: Hard negatives a query, likewise.
        tokenizer: Its `max_length` cuts long texts.
        prompts: Prefixes by task.
        steps: Length of the run.
        seed: Decides batches and negatives.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        batch_size: int,
        num_negatives: int,
        tokenizer: TextTokenizer,
        prompts: Prompts,
        steps: int,
        seed: int,
    ) -> None:
        self._sources = sources
        self._num_negatives = num_negatives
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._seed = seed
        self._mixture = Mixture(
            [len(source.records) for source in sources],
            [source.config.weight for source in sources],
            [source.config.batch_size or batch_size for source in sources],
            steps=steps,
            seed=seed,
        )

    def __call__(self, step: int) -> PairBatch:
        """Return the batch of a step (from 0)."""
        draw = self._mixture.draw(step)
        source = self._sources[draw.source]
        negatives = source.config.num_negatives
        return collate(
            [source.records[i] for i in draw.indices],
            tokenizer=self._tokenizer,
            prompts=self._prompts,
            task=source.config.task,
            num_negatives=self._num_negatives if negatives is None else negatives,
            source=source.config.name or source.config.path.name,
            teacher_file=source.teacher,
            rng=np.random.default_rng([self._seed, 2, step]),
        )
