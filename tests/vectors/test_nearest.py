"""Exact search in blocks against plain sorting of all scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from evaluate_doubles import gaussian

from culet.vectors.nearest import Banned, Groups, count_above, nearest, rank_by_cosine


def unit(rows: int, width: int = 8, *, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def by_sorting(scores: np.ndarray, depth: int) -> list[list[int]]:
    """Every query's documents by falling score, equal ones by number, without the impossible."""
    best = []
    for row in scores:
        order = sorted(range(len(row)), key=lambda d: (-row[d], d))
        best.append([d for d in order if np.isfinite(row[d])][:depth])
    return best


def listed(numbers: np.ndarray) -> list[list[int]]:
    return [[n for n in row if n >= 0] for row in numbers.tolist()]


@pytest.mark.parametrize("block", [1, 3, 7, 50, 1000])
@pytest.mark.parametrize("device", ["cpu", "cpu:0"])  # the second goes through PyTorch
def test_blocks_find_what_sorting_all_scores_finds(block: int, device: str) -> None:
    queries, documents = unit(9), unit(50, seed=1)
    banned = Banned(np.array([0, 0, 4]), np.array([3, 7, 49]))
    groups, theirs = np.arange(9) % 2, np.arange(50) % 2
    candidates = np.arange(50) != 11
    scores = queries @ documents.T
    scores[banned.query, banned.document] = -np.inf
    scores[groups[:, None] != theirs] = -np.inf
    scores[:, 11] = -np.inf
    found, numbers, top = nearest(
        queries,
        documents,
        depth=6,
        banned=banned,
        query_groups=groups,
        groups=Groups.of(theirs, 2),
        candidates=candidates,
        block=block,
        device=device,
    )
    assert listed(numbers) == by_sorting(scores, 6)
    assert np.allclose(found, np.take_along_axis(scores, numbers, axis=1), atol=1e-6)
    assert top.tolist() == found[:, 0].tolist()


@pytest.mark.parametrize("groups", [False, True])
def test_under_a_ceiling_the_nearest_below_it_are_found(groups: bool) -> None:
    queries, documents, ceiling = unit(6), unit(80, seed=1), np.linspace(-0.2, 0.6, 6)
    own, theirs = np.arange(6) % 2, np.arange(80) % 2
    scores = queries @ documents.T
    banned = Banned(np.arange(6), scores.argmax(axis=1))
    scores[banned.query, banned.document] = -np.inf
    settings: dict[str, Any] = {}
    if groups:
        scores[own[:, None] != theirs] = -np.inf
        settings = {"query_groups": own, "groups": Groups.of(theirs, 2)}
    above = scores.max(axis=1)
    scores[scores > ceiling[:, None]] = -np.inf
    _, numbers, top = nearest(
        queries, documents, depth=5, banned=banned, ceiling=ceiling, block=30, **settings
    )
    assert listed(numbers) == by_sorting(scores, 5)
    assert np.allclose(top, above, atol=1e-6)  # the nearest of all that are not banned
    assert (top > ceiling).any()


@pytest.mark.parametrize("block", [2, 5, 100])
def test_equal_scores_keep_the_order_of_documents(block: int) -> None:
    queries = np.array([[0.5, 0.5, 0.5, 0.5], [0.5, -0.5, 0.5, -0.5]], dtype=np.float32)
    others = np.array([[0.5, 0.5, -0.5, -0.5]] * 8, dtype=np.float32)  # products without rounding
    documents = np.concatenate([queries[:1]] * 4 + [others] + [queries[:1]] * 3)
    _, numbers, _ = nearest(queries, documents, depth=5, block=block)
    assert numbers[0].tolist() == [0, 1, 2, 3, 12]


def test_fewer_documents_than_wanted_leave_places_empty() -> None:
    scores, numbers, _ = nearest(unit(2), unit(3, seed=1), depth=5)
    assert (numbers[:, 3:] == -1).all()
    assert np.isneginf(scores[:, 3:]).all()
    assert (numbers[:, :3] >= 0).all()


def test_half_precision_documents_are_scored_in_single() -> None:
    documents = unit(200, 64, seed=2)
    queries = unit(5, 64)
    scores, _, _ = nearest(queries, documents.astype(np.float16), depth=3)
    assert np.abs(scores - np.sort(queries @ documents.T, axis=1)[:, :-4:-1]).max() < 5e-4


def test_documents_above_a_threshold_are_counted_in_blocks() -> None:
    queries, documents = unit(6), unit(40, seed=1)
    threshold = np.linspace(-0.3, 0.5, 6)
    scores = queries @ documents.T
    banned = Banned(np.array([0, 5]), np.array([int(scores[0].argmax()), 7]))
    scores[banned.query, banned.document] = -np.inf
    expected = (scores > threshold[:, None]).sum(axis=1).tolist()
    for block in (1, 7, 100):
        found = count_above(queries, documents, threshold, banned=banned, block=block)
        assert found.tolist() == expected


def test_search_in_blocks_equals_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    query = np.stack([gaussian(f"q {n}") for n in range(11)])
    document = np.stack([gaussian(f"d {n}") for n in range(40)])
    expected = np.argsort(-(query @ document.T), axis=1)[:, :7]
    monkeypatch.setattr("culet.vectors.nearest.MAX_SCORES_PER_BLOCK", 90)
    np.testing.assert_array_equal(list(rank_by_cosine(query, document, k=7)), expected)


def test_equal_documents_come_in_order_of_preference() -> None:
    document = np.stack([gaussian("same")] * 13 + [gaussian("other")])
    query = gaussian("near same")[None]
    preference = list(range(13, -1, -1))
    found = next(rank_by_cosine(query, document, k=4, preference=preference)).tolist()
    tied = [row for row in found if row != 13]
    assert len(tied) >= 3
    assert tied == [12, 11, 10, 9][: len(tied)]
    assert next(rank_by_cosine(query, document, k=99)).size == 14
