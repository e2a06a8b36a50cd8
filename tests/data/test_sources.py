"""Batches of several sources, and one process's part of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from training_doubles import toy_rows, write_lines

from culet.data.batches.collate import PairBatch
from culet.data.batches.sources import Batcher, MixingConfig, Source, SourceConfig, read_source
from culet.errors import InputError, RecipeError
from culet.text.prompts import Prompts
from culet.text.tokenizer import TextTokenizer
from culet.text.tokenizer_training import byte_tokenizer

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


def test_a_source_ends_after_its_epochs_and_each_of_its_groups_with_it(tmp_path: Path) -> None:
    rows = [row | {"lang": "de" if i < 8 else "en"} for i, row in enumerate(toy_rows(20))]
    configs = [
        SourceConfig(
            path=write_lines(tmp_path / "a.jsonl", rows), batch_by=("lang",), max_epochs=2.0
        ),
        SourceConfig(path=write_lines(tmp_path / "b.jsonl", toy_rows(7))),
    ]
    found = [read_source(config, Prompts.default(), skip_bad=False) for config in configs]
    made = batcher(found, batch_size=4, steps=60)
    origins = [origin for step in range(60) for origin in made(step).origin]
    assert [origins.count(f"{tmp_path / 'a.jsonl'}:{line}") for line in range(1, 21)] == [2] * 20


def test_shares_by_size_decide_how_often_a_source_comes(tmp_path: Path) -> None:
    found = sources(tmp_path)  # 20 and 7 records

    def of_second(**mixing: Any) -> int:
        made = batcher(found, batch_size=4, steps=400, mixing=MixingConfig(**mixing))
        return sum(made(step).source == "b.jsonl" for step in range(400))

    assert abs(of_second() - 200) < 30  # three standard deviations
    assert abs(of_second(size_exponent=1.0) - 400 * 7 / 27) < 27
    assert abs(of_second(size_exponent=1.0, size_cap=7) - 200) < 30


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size_exponent": -0.5}, "size_exponent must be from 0 to 1.*got -0.5"),
        ({"size_exponent": 2.0}, "size_exponent must be from 0 to 1.*got 2.0"),
        ({"size_cap": 0}, "size_cap at least 1, got 0.0 and 0"),
    ],
)
def test_mixing_that_means_nothing_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        MixingConfig(**settings)


def test_no_epochs_at_all_are_refused(tmp_path: Path) -> None:
    for epochs in (0, math.inf, math.nan):
        with pytest.raises(RecipeError, match=f"max_epochs must be above 0 and.*got {epochs}"):
            SourceConfig(path=tmp_path, max_epochs=epochs)


def test_fewer_negatives_than_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="num_negatives must not be negative, got -1"):
        SourceConfig(path=tmp_path, num_negatives=-1)
