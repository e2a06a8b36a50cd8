"""What stands in each place of each batch follows from seed and step, and shares are exact."""

from __future__ import annotations

from collections import Counter

import pytest

from culet.data.batches.slots import Slots
from culet.errors import InputError


def test_shares_hold_in_every_batch_to_one_example_and_over_the_run_exactly() -> None:
    slots = Slots([5, 7, 11], [1, 1, 2], batch_size=6, seed=0)
    total: Counter[int] = Counter()
    for step in range(100):
        drawn = Counter(slot.source for slot in slots.draw(step))
        assert sum(drawn.values()) == 6
        assert all(abs(drawn[s] - share) <= 1 for s, share in enumerate([1.5, 1.5, 3]))
        total += drawn
    assert total == {0: 150, 1: 150, 2: 300}


def test_half_and_half_is_half_and_half() -> None:
    slots = Slots([100, 3], [1, 1], batch_size=8, seed=0)
    for step in range(50):
        assert [slot.source for slot in slots.draw(step)] == [0] * 4 + [1] * 4


def test_each_example_comes_once_an_epoch_in_a_new_order() -> None:
    slots = Slots([10], [1.0], batch_size=4, seed=3)
    drawn = [slot for step in range(5) for slot in slots.draw(step)]
    first, second = drawn[:10], drawn[10:]
    assert {slot.epoch for slot in first} == {0}
    assert {slot.epoch for slot in second} == {1}
    assert sorted(slot.index for slot in first) == list(range(10))
    assert sorted(slot.index for slot in second) == list(range(10))
    assert [slot.index for slot in first] != [slot.index for slot in second]
    assert slots.epochs(0, 5) == 2.0


def test_a_run_can_begin_at_any_step() -> None:
    def plan() -> Slots:
        return Slots([9, 4], [2, 1], batch_size=5, seed=1)

    whole = plan()
    expected = [whole.draw(step) for step in range(30)]
    for step in (29, 0, 13):
        assert plan().draw(step) == expected[step]
    assert Slots([9, 4], [2, 1], batch_size=5, seed=2).draw(7) != expected[7]


def test_epochs_of_the_published_runs_come_out() -> None:
    """SKILL, appendix A: half of 1,024 examples a step over 500,000 steps."""
    triples, sentences = 35_697_715, 15_628_486
    runs = [(triples, 1024, 500_000), (sentences, 1024, 500_000)]
    found = [
        Slots([size, 1], [1, 1], batch_size=batch, seed=0).epochs(0, steps)
        for size, batch, steps in runs
    ]
    assert [round(n, 2) for n in found] == [7.17, 16.38]
    movies = Slots([134_741, 1], [1, 1], batch_size=1024, seed=0).epochs(0, 100_000)
    assert round(movies) == 380


@pytest.mark.parametrize(
    ("sizes", "weights"),
    [([], []), ([0], [1]), ([3], [0]), ([3, 3], [1, -1]), ([3], [float("inf")])],
)
def test_nothing_to_draw_from_is_refused(sizes: list[int], weights: list[float]) -> None:
    with pytest.raises(InputError, match="sources that are not empty"):
        Slots(sizes, weights, batch_size=2, seed=0)


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(InputError, match="batch_size must be at least 1"):
        Slots([3], [1], batch_size=0, seed=0)
