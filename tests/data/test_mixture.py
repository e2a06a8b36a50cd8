"""Which records make up a step: weights, epochs, one source a batch, and any place to begin."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from culet.data.batches.mixture import Mixture, shares
from culet.errors import InputError


def mixture(
    sizes: list[int], weights: list[float], batches: list[int], *, steps: int = 100, seed: int = 0
) -> Mixture:
    return Mixture(sizes, weights, batches, steps=steps, seed=seed)


@pytest.mark.parametrize("seed", range(5))
def test_each_source_gets_its_share_of_the_batches(seed: int) -> None:
    steps, weights = 4000, [5.0, 3.0, 2.0]
    mixed = mixture([50, 50, 50], weights, [4, 4, 4], steps=steps, seed=seed)
    drawn = Counter(mixed.draw(step).source for step in range(steps))
    for source, weight in enumerate(weights):
        share = weight / sum(weights)
        sigma = math.sqrt(steps * share * (1 - share))
        assert abs(drawn[source] - steps * share) < 3 * sigma


def test_a_source_of_weight_zero_is_never_drawn() -> None:
    mixed = mixture([5, 5], [1, 0], [2, 2])
    assert {mixed.draw(step).source for step in range(100)} == {0}


@pytest.mark.parametrize(("size", "batch"), [(12, 4), (10, 4), (7, 3), (5, 5), (3, 8)])
def test_every_record_comes_once_an_epoch(size: int, batch: int) -> None:
    """Batches run on over the end of an epoch, so epochs are read off the joined order."""
    steps = 40
    mixed = mixture([size], [1], [batch], steps=steps)
    handed_out = np.concatenate([mixed.draw(step).indices for step in range(steps)])
    orders = []
    for epoch in range(len(handed_out) // size):
        order = handed_out[epoch * size : (epoch + 1) * size]
        assert sorted(order) == list(range(size))
        orders.append(order.tolist())
    assert any(a != b for a, b in pairwise(orders))


def test_every_batch_has_the_size_of_its_source() -> None:
    mixed = mixture([50, 50, 3], [1, 1, 1], [4, 9, 8])
    for step in range(100):
        draw = mixed.draw(step)
        assert len(draw.indices) == {0: 4, 1: 9, 2: 3}[draw.source]
        assert draw.indices.max() < {0: 50, 1: 50, 2: 3}[draw.source]


def test_the_same_seed_gives_the_same_run_and_another_seed_another() -> None:
    def run(seed: int) -> list[tuple[int, list[int]]]:
        mixed = mixture([20, 30], [1, 2], [4, 4], seed=seed)
        return [(d.source, d.indices.tolist()) for d in map(mixed.draw, range(100))]

    assert run(1) == run(1)
    assert run(1) != run(2)


@pytest.mark.parametrize("start", [1, 17, 63, 99])
def test_a_run_can_begin_at_any_step(start: int) -> None:
    """Also backwards and in leaps: nothing is remembered between draws that matters."""
    whole = mixture([11, 30], [1, 2], [4, 4])
    expected = {step: whole.draw(step) for step in range(100)}
    later = mixture([11, 30], [1, 2], [4, 4])
    for step in [*range(start, 100), *range(start, 0, -3)]:
        draw = later.draw(step)
        assert draw.source == expected[step].source
        assert draw.indices.tolist() == expected[step].indices.tolist()


def test_a_source_keeps_its_order_whatever_the_others_weigh() -> None:
    def of_first(weights: list[float]) -> list[int]:
        mixed = mixture([20, 20], weights, [4, 4], steps=200)
        draws = [mixed.draw(step) for step in range(200)]
        return np.concatenate([d.indices for d in draws if d.source == 0]).tolist()[:60]

    assert of_first([1, 1]) == of_first([3, 1])


def test_epochs_count_how_often_a_source_was_gone_through() -> None:
    mixed = mixture([8, 3], [1, 1], [4, 6], steps=200)
    for source, (size, batch) in enumerate([(8, 4), (3, 3)]):
        batches = sum(mixed.draw(step).source == source for step in range(200))
        assert mixed.epochs(source) == pytest.approx(batches * batch / size)


@pytest.mark.parametrize(
    ("sizes", "weights", "batches", "message"),
    [
        ([], [], [], "needs sources with weights"),
        ([5], [0.0], [4], "sum above 0"),
        ([5, 5], [2.0, -1.0], [4, 4], "not negative"),
        ([5, 5], [1.0, math.nan], [4, 4], "needs sources with weights"),
        ([5, 5], [1.0, math.inf], [4, 4], "needs sources with weights"),
        (
            [5, 0],
            [1.0, 1.0],
            [4, 4],
            r"at least one record and a batch of two, got \[5, 0\] records",
        ),
        ([5], [1.0], [1], "a batch of two"),
    ],
)
def test_a_mixture_that_cannot_be_drawn_is_refused(
    sizes: list[int], weights: list[float], batches: list[int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        mixture(sizes, weights, batches)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8])
def test_the_parts_of_all_processes_are_the_batch(world_size: int) -> None:
    mixed = mixture([20, 3], [1, 1], [7, 8])
    for step in range(20):
        whole = mixed.draw(step)
        parts = [whole.part(rank, world_size) for rank in range(world_size)]
        assert np.concatenate([part.indices for part in parts]).tolist() == whole.indices.tolist()
        assert [part.first for part in parts] == [
            sum(len(p.indices) for p in parts[:rank]) for rank in range(world_size)
        ]
        sizes = [len(part.indices) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        assert {part.source for part in parts} == {whole.source}


@pytest.mark.parametrize(("rank", "world_size"), [(-1, 2), (2, 2), (0, 0)])
def test_a_rank_that_does_not_exist_is_refused(rank: int, world_size: int) -> None:
    with pytest.raises(InputError, match=f"got rank {rank} of {world_size} processes"):
        mixture([20], [1], [7]).draw(0).part(rank, world_size)


# --- shares by size, and limits


def test_shares_follow_sizes_to_a_power_up_to_a_cap() -> None:
    sizes = [100, 400, 10_000]
    assert shares(sizes, [1, 1, 1], exponent=0, cap=None) == pytest.approx([1 / 3] * 3)
    assert shares(sizes, [1, 1, 2], exponent=0, cap=None) == pytest.approx([0.25, 0.25, 0.5])
    assert shares(sizes, [1, 1, 1], exponent=1, cap=None)[0] == pytest.approx(100 / 10_500)
    assert shares(sizes, [1, 1, 1], exponent=0.5, cap=400) == pytest.approx([0.2, 0.4, 0.4])
    assert shares(sizes, [2, 1, 0], exponent=0.5, cap=400) == pytest.approx([0.5, 0.5, 0])


def limited(most: list[int | None], *, steps: int = 200, seed: int = 0) -> Mixture:
    count = len(most)
    return Mixture(
        [50] * count, [1.0] * count, [5] * count, steps=steps, seed=seed, max_batches=most
    )


def test_a_source_is_drawn_no_more_after_its_number_of_batches() -> None:
    mixed = limited([7, None, 20])
    drawn = [mixed.draw(step).source for step in range(200)]
    assert (drawn.count(0), drawn.count(2)) == (7, 20)
    assert drawn.count(1) == mixed.batches(1) == 173
    # the others share what is left as before: about half of the steps until 2 is gone too
    after = drawn[max(i for i, s in enumerate(drawn) if s == 0) + 1 :]
    until = [i for i, s in enumerate(after) if s == 2][-1]
    assert 0.2 < after[:until].count(2) / until < 0.8


def test_a_limit_changes_nothing_before_it_is_reached() -> None:
    free, held = limited([None, None]), limited([30, None])
    whole = [free.draw(step).source for step in range(200)]
    reached = [i for i, source in enumerate(whole) if source == 0][30]
    assert [held.draw(step).source for step in range(reached)] == whole[:reached]
    assert held.draw(reached).source == 1


def test_limits_that_leave_too_few_batches_are_refused() -> None:
    assert [limited([120, 80]).batches(source) for source in (0, 1)] == [120, 80]
    with pytest.raises(InputError, match=r"give 199 batches within their limits.*has 200 steps"):
        limited([120, 79])
    with pytest.raises(InputError, match="give 0 batches"):
        limited([0, 0])
