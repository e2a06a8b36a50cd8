"""The rank of a document for its query, with an embedder whose vectors are counted by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from culet.data.prepare import consistency
from culet.data.prepare.consistency import (
    ConsistencyConfig,
    DocumentDraw,
    PlacedPair,
    Pool,
    consistent,
    draw,
)
from culet.errors import RecipeError


class Angles:
    """Embeds the text "a 30" as the unit vector at 30 degrees."""

    def __init__(self) -> None:
        self.tasks: set[str] = set()

    def encode_query(self, texts: Sequence[str], *, task: str = "x", **_: Any) -> np.ndarray:
        self.tasks.add(task)
        return self.encode_document(texts)

    def encode_document(self, texts: Sequence[str], **_: Any) -> np.ndarray:
        angles = np.radians([float(text.split()[-1]) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


PAIRS = [
    PlacedPair(0, "q 0", "d 1"),  # its document is the nearest
    PlacedPair(1, "q 90", "d 70"),  # d 85 and d 80 are nearer
    PlacedPair(2, "q 180", "d 85"),
    PlacedPair(3, "q 91", "d 80"),
    PlacedPair(4, "q 181", "d 178"),
]


def pool(config: ConsistencyConfig, pairs: Sequence[PlacedPair] = PAIRS) -> Pool:
    return Pool.embedded(draw(pairs, config), Angles(), config)


def test_a_pair_stays_if_few_documents_are_nearer() -> None:
    encoder = Angles()
    ranks = pool(ConsistencyConfig()).ranks(PAIRS, encoder, ConsistencyConfig(task="code"))
    assert ranks.tolist() == [0, 2, 1, 1, 0]
    assert encoder.tasks == {"code"}
    for top, stay in ((1, [0, 4]), (2, [0, 2, 3, 4]), (3, [0, 1, 2, 3, 4])):
        config = ConsistencyConfig(top=top)
        assert np.flatnonzero(consistent(PAIRS, pool(config), encoder, config)).tolist() == stay


def test_equal_documents_and_documents_of_equal_queries_do_not_count() -> None:
    config = ConsistencyConfig(top=1)
    pairs = [*PAIRS, PlacedPair(5, "Q  90", "d 88"), PlacedPair(6, "q 88", "d 88.5")]
    ranks = pool(config, pairs).ranks([PAIRS[1]], Angles(), config)
    assert ranks.tolist() == [3]  # d 85, d 80 and d 88.5; not d 88, which answers "q 90" too
    again = pool(config, [*PAIRS, PlacedPair(9, "q 3", "D  70")])
    assert again.ranks([PAIRS[1]], Angles(), config).tolist() == [2]


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    pairs = [
        PlacedPair(i, f"q {a:.3f}", f"d {b:.3f}") for i, (a, b) in enumerate(rng.random((80, 2)))
    ]
    config = ConsistencyConfig()
    whole = pool(config, pairs).ranks(pairs, Angles(), config)
    monkeypatch.setattr(consistency, "_QUERIES", 7)
    monkeypatch.setattr(consistency, "_DOCUMENTS", 11)
    assert pool(config, pairs).ranks(pairs, Angles(), config).tolist() == whole.tolist()


def test_the_draw_is_of_different_documents_and_blind_to_order() -> None:
    pairs = [PlacedPair(i, f"q {i}", f"d {i % 50}") for i in range(200)]
    drawn = draw(pairs, ConsistencyConfig(pool=20)).drawn()
    assert len({text for *_, text in drawn}) == 20
    other = draw(reversed(pairs), ConsistencyConfig(pool=20)).drawn()
    assert [text for *_, text in drawn] == [text for *_, text in other]
    assert len(draw(pairs, ConsistencyConfig(pool=999)).drawn()) == 50
    assert DocumentDraw(5).drawn() == []


def test_a_pool_is_the_same_after_a_file(tmp_path: Path) -> None:
    config = ConsistencyConfig()
    made = pool(config)
    made.save(tmp_path / "pool.npz")
    read = Pool.load(tmp_path / "pool.npz")
    assert np.array_equal(made.vectors, read.vectors)
    assert np.array_equal(made.documents, read.documents)
    assert np.array_equal(made.queries, read.queries)


def test_no_pairs_are_judged_without_a_sound() -> None:
    config = ConsistencyConfig()
    assert consistent([], pool(config), Angles(), config).tolist() == []


def test_a_rank_that_keeps_nothing_is_refused() -> None:
    with pytest.raises(RecipeError, match="top must be at least 1 and pool 2, got 0 and 20000"):
        ConsistencyConfig(top=0)
