"""Sources of training pairs, read and tried in advance, and the batch of any step from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from culet.data.batches.collate import PairBatch, collate, record_prompts
from culet.data.batches.mixture import Mixture, shares
from culet.data.batches.shuffle import check_rank
from culet.data.records import Record, Records, read_records
from culet.data.teacher_vectors import TeacherFolder
from culet.errors import RecipeError
from culet.text.prompts import TASKS, Prompts
from culet.text.tokenizer import TextTokenizer


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
        teacher: The folder of vectors that stage teach has left; it must know every text.
        batch_by: Text fields of the records that all pairs of a batch share, such as `lang`: what
            distinguishes the right document then is not its language. Each group gets batches by
            its size; groups smaller than a batch
            share batches.
        max_epochs: How often the run may go through this source; after that it is drawn no more.
    """

    path: Path
    weight: float = 1.0
    task: str = "search"
    name: str = ""
    batch_size: int | None = None
    num_negatives: int | None = None
    teacher: Path | None = None
    batch_by: tuple[str, ...] = ()
    max_epochs: float | None = None

    def __post_init__(self) -> None:
        if self.max_epochs is not None and not 0 < self.max_epochs < math.inf:
            raise RecipeError(
                "max_epochs must be above 0 and finite, or left out for any number; got "
                f"{self.max_epochs}"
            )
        if self.num_negatives is not None and self.num_negatives < 0:
            raise RecipeError(f"num_negatives must not be negative, got {self.num_negatives}")
        if self.task not in TASKS:
            raise RecipeError(f"task must be one of {', '.join(TASKS)}, got {self.task!r}")


@dataclass(frozen=True)
class MixingConfig:
    """How the weights of sources become shares of the batches: weight × min(records, cap)^t.

    Attributes:
        size_exponent: t. 0 takes the weights as they are, 1 makes a source of twice the records
            come twice as often, 0.5 lies between (the inverse of a mixture's temperature).
        size_cap: Records of a source beyond this many do not count.
    """

    size_exponent: float = 0.0
    size_cap: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.size_exponent <= 1 or (self.size_cap is not None and self.size_cap < 1):
            raise RecipeError(
                "size_exponent must be from 0 to 1 and size_cap at least 1, got "
                f"{self.size_exponent} and {self.size_cap}"
            )


@dataclass(frozen=True)
class Source:
    """A source that has been read: every record's task and title are good, its texts taught."""

    config: SourceConfig
    records: Records
    teacher: TeacherFolder | None

    @property
    def label(self) -> str:
        """Return what messages call it."""
        return self.config.name or self.config.path.name


def read_source(config: SourceConfig, prompts: Prompts, *, skip_bad: bool) -> Source:
    """Return a source with every record tried against the prompts and the teacher.

    Raises:
        InputError: At the first bad record, with file and line, unless `skip_bad`.
    """
    teacher = None if config.teacher is None else TeacherFolder(config.teacher)

    def check(record: Record) -> None:
        record_prompts(record, prompts=prompts, task=config.task)
        if teacher is not None:
            teacher.check(record, config.task)

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
        mixing: How weights become shares.
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
        mixing: MixingConfig | None = None,
    ) -> None:
        check_rank(rank, world_size)
        self._rank, self._world_size = rank, world_size
        self._num_negatives = num_negatives
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._seed = seed
        mixing = mixing or MixingConfig()
        by_source = shares(
            [len(source.records) for source in sources],
            [source.config.weight for source in sources],
            exponent=mixing.size_exponent,
            cap=mixing.size_cap,
        )
        self._pools: list[tuple[Source, np.ndarray]] = []
        weights, sizes, limits = [], [], []
        for source, share in zip(sources, by_source, strict=True):
            size = source.config.batch_size or batch_size
            for pool in _pools(source.records.groups, size):
                self._pools.append((source, pool))
                weights.append(share * len(pool) / len(source.records))
                sizes.append(size)
                limits.append(_max_batches(source.config.max_epochs, len(pool), size))
        self._mixture = Mixture(
            [len(pool) for _, pool in self._pools],
            weights,
            sizes,
            steps=steps,
            seed=seed,
            max_batches=limits,
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
            source=source.label,
            teacher=source.teacher,
            seed=(self._seed, 2, step),
            first=draw.first,
        )


def _max_batches(max_epochs: float | None, records: int, batch_size: int) -> int | None:
    """Return how many batches fit into `max_epochs`, but at least one."""
    if max_epochs is None:
        return None
    return max(1, math.floor(max_epochs * records / min(batch_size, records)))


def _pools(groups: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Return the indices of each group that fills a batch, and last those of all the others."""
    sizes = np.bincount(groups)
    large = np.flatnonzero(sizes >= batch_size)
    pools = [np.flatnonzero(groups == group) for group in large]
    rest = np.flatnonzero(~np.isin(groups, large))
    return [*pools, rest] if len(rest) else pools
