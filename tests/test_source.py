"""Batches of several sources, and one process's part of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from training_doubles import toy_rows, write_lines

from culet.data.collate import PairBatch
from culet.data.source import Batcher, Source, SourceConfig, read_source
from culet.errors import InputError
from culet.prompts import Prompts
from culet.tokenizer import TextTokenizer
from culet.tokenizer_training import byte_tokenizer

TOKENIZER = TextTokenizer(byte_tokenizer(), 100, bos_id=2, eos_id=1)


def sources(folder: Path, **changes: Any) -> list[Source]:
    paths = [
        write_lines(folder / "a.jsonl", toy_rows(20, negatives=4)),
        write_lines(folder / "b.jsonl", toy_rows(7)),
    ]
    configs = [SourceConfig(path=path, **changes) for path in paths]
    return [read_source(config, Prompts.default(), skip_bad=False) for config in configs]


def batcher(found: list[Source], **changes: Any) -> Batcher:
    settings: dict[str, Any] = {
        "batch_size": 7,
        "num_negatives": 2,
        "tokenizer": TOKENIZER,
        "prompts": Prompts.default(),
        "steps": 12,
        "seed": 5,
    }
    return Batcher(found, **settings | changes)


def spelt(batch: PairBatch) -> list[tuple[str, ...]]:
    """Each pair as the bytes of its texts, so that two batches can be compared."""
    texts = [text.tobytes().hex() for text in batch.texts]
    return [
        (texts[q], texts[p], *(texts[i] for i in n if i >= 0))
        for q, p, n in zip(batch.query, batch.positive, batch.negative, strict=True)
    ]


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_the_parts_of_all_processes_are_the_batch_of_one(tmp_path: Path, world_size: int) -> None:
    found = sources(tmp_path)
    whole = batcher(found)
    parts = [batcher(found, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step in (0, 1, 2, 3, 11):
        expected = whole(step)
        batches = [part(step) for part in parts]
        assert [row for batch in batches for row in spelt(batch)] == spelt(expected)
        assert tuple(o for batch in batches for o in batch.origin) == expected.origin
        assert {batch.source for batch in batches} == {expected.source}


def test_a_rank_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got rank 2 of 2 processes"):
        batcher(sources(tmp_path), rank=2, world_size=2)
