"""Sources of training pairs, read and tried in advance, and the batch of any step from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from culet.data.collate import PairBatch, check_teacher, collate, record_prompts
from culet.data.mixture import Mixture, check_rank
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
        batch_by: Text fields of the records that all pairs of a batch share, such as `lang`: what
            is told apart then is not the language. Each group gets batches by its size; groups
            smaller than a batch share theirs.
    """

    path: Path
    weight: float = 1.0
    task: str = "search"
    name: str = ""
    batch_size: int | None = None
    num_negatives: int | None = None
    teacher: Path | None = None
    batch_by: tuple[str, ...] = ()

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

    records = read_records([config.path], skip_bad=skip_bad, check=check, group_by=config.batch_by)
    return Source(config, records, teacher)


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
        rank: Which process of `world_size` this is, from 0; it gets its part of every batch.
        world_size: Processes that share each batch; their parts in the order of ranks are the
            batch of one process. Sizes stay those of the whole batch.
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
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_rank(rank, world_size)
        self._rank, self._world_size = rank, world_size
        self._num_negatives = num_negatives
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._seed = seed
        self._pools = [
            (source, pool)
            for source in sources
            for pool in _pools(source.records.groups, source.config.batch_size or batch_size)
        ]
        self._mixture = Mixture(
            [len(pool) for _, pool in self._pools],
            [s.config.weight * len(pool) / len(s.records) for s, pool in self._pools],
            [source.config.batch_size or batch_size for source, _ in self._pools],
            steps=steps,
            seed=seed,
        )

    def __call__(self, step: int) -> PairBatch:
        """Return the batch of a step (from 0), or this process's part of it."""
        draw = self._mixture.draw(step).part(self._rank, self._world_size)
        source, pool = self._pools[draw.source]
        negatives = source.config.num_negatives
        return collate(
            [source.records[i] for i in pool[draw.indices]],
            tokenizer=self._tokenizer,
            prompts=self._prompts,
            task=source.config.task,
            num_negatives=self._num_negatives if negatives is None else negatives,
            source=source.config.name or source.config.path.name,
            teacher_file=source.teacher,
            seed=(self._seed, 2, step),
            first=draw.first,
        )


def _pools(groups: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Return the indices of each group that fills a batch, and last those of all the others."""
    sizes = np.bincount(groups)
    large = np.flatnonzero(sizes >= batch_size)
    pools = [np.flatnonzero(groups == group) for group in large]
    rest = np.flatnonzero(~np.isin(groups, large))
    return [*pools, rest] if len(rest) else pools
