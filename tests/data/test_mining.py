"""Margins, fusion and picks, against plain readings of what they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from culet.data.mining.rules import Rules, choose, fuse, within_margins
from culet.data.mining.tally import MiningTally
from culet.errors import RecipeError


def kept(positive: float = 0.8, **rules: Any) -> list[int]:
    settings: dict[str, Any] = {"depth": 6, "relative_margin": None} | rules
    scores = np.array([[0.9, 0.8, 0.78, 0.7, 0.4, -np.inf]], dtype=np.float64)
    numbers = np.array([[0, 1, 2, 3, 4, -1]])
    keep = within_margins(scores, numbers, np.array([positive]), Rules(**settings))
    return numbers[keep].tolist()


def test_window_and_margins_are_what_they_say() -> None:
    assert kept() == [0, 1, 2, 3, 4]
    assert kept(skip=2) == [2, 3, 4]
    assert kept(absolute_margin=0.0) == [1, 2, 3, 4]
    assert kept(absolute_margin=0.05) == [3, 4]
    assert kept(relative_margin=0.05) == [3, 4]  # 0.76
    assert kept(relative_margin=0.05, absolute_margin=0.3) == [4]
    assert kept(min_score=0.5) == [0, 1, 2, 3]


def test_a_relative_margin_below_zero_goes_down_too() -> None:
    scores, numbers = np.array([[-0.1, -0.2, -0.31]]), np.array([[0, 1, 2]])
    keep = within_margins(scores, numbers, np.array([-0.2]), Rules(relative_margin=0.5))
    assert keep.tolist() == [[False, False, True]]  # at most −0.3


def test_picks_are_first_last_or_any_by_the_seed() -> None:
    left = np.array([5, 6, 7, 8])

    def picked(pick: str, seed: int = 0, number: int = 2) -> list[int]:
        rules = Rules(number=number, pick=pick)  # type: ignore[arg-type]
        return choose(left, rules, np.random.default_rng(seed)).tolist()

    assert picked("hardest") == [5, 6]
    assert picked("lowest") == [7, 8]
    assert picked("lowest", number=9) == picked("random", number=9) == [5, 6, 7, 8]
    drawn = [tuple(picked("random", seed)) for seed in range(60)]
    assert len(set(drawn)) == 6  # every pair out of four
    assert all(a < b for a, b in drawn)
    assert picked("random", 7) == picked("random", 7)


def test_fusion_orders_by_the_sum_of_reciprocal_ranks() -> None:
    """Worked out by hand: ranks 1, 2, 3 and 3, 1, 2; 1/61 + 1/63 < 1/62 + 1/61."""
    assert fuse([np.array([3.0, 2.0, 1.0]), np.array([1.0, 3.0, 2.0])]).tolist() == [1, 0, 2]
    assert fuse([np.array([1.0, 2.0, 3.0])]).tolist() == [2, 1, 0]
    # two judges of four prefer 2 by a place each and two prefer 0 by far
    ranks = [np.array([3.0, 2.0, 1.0])] * 2 + [np.array([1.0, 2.0, 3.0])] * 2
    assert fuse(ranks).tolist() == [0, 2, 1]  # 1/61 + 1/63 > 2/62


def test_a_judge_without_an_opinion_neither_raises_nor_sinks_a_document() -> None:
    nan = np.nan
    # 1/63 against (1/61 + 1/62) / 2 against 1/61
    assert fuse([np.array([nan, 1.0, nan]), np.array([1.0, 2.0, 3.0])]).tolist() == [2, 1, 0]
    # of four in one order the second is graded by one judge only
    known, missing = np.array([4.0, 3.0, 2.0, 1.0]), np.array([4.0, nan, 2.0, 1.0])
    assert fuse([known, missing]).tolist() == fuse([known, known]).tolist() == [0, 1, 2, 3]
    assert fuse([np.array([nan, 1.0, 2.0])]).tolist() == [2, 1, 0]


def test_equal_grades_are_equal() -> None:
    assert fuse([np.array([1.0, 1.0, 2.0])]).tolist() == [2, 0, 1]
    assert fuse([np.array([2.0, 2.0]), np.array([1.0, 3.0])]).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"number": 0}, "number must be at least 1.*got 0, 0, 50"),
        ({"skip": 50}, "depth above skip; got 3, 50, 50"),
        ({"skip": -1}, "skip not negative"),
        ({"absolute_margin": -0.1}, r"margins must be from 0 to below 2, got \[-0.1, 0.05\]"),
        ({"relative_margin": 2.0}, r"got \[2.0\]"),
    ],
)
def test_rules_that_contradict_themselves_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        Rules(**settings)


def test_tallies_of_parts_add_up_to_that_of_the_whole(tmp_path: Any) -> None:
    rows: list[dict[str, Any]] = [
        {"positive": 0.5, "nearest": 0.6, "left": 9, "negatives": [0.4, 0.3], "against": {"x": 9}},
        {"positive": 0.7, "nearest": 0.2, "left": 1, "negatives": [0.2], "against": {"y": 2}},
        {"positive": 1.0001, "nearest": -np.inf, "left": 0, "negatives": [], "against": {"y": 3}},
    ]
    whole, sum_of_parts = MiningTally(), MiningTally()
    for number, row in enumerate(rows):
        whole.count(**row)
        part = MiningTally()
        part.count(**row)
        part.write(tmp_path / f"{number}.json")
        sum_of_parts.add(MiningTally.read(tmp_path / f"{number}.json"))
    report = whole.report()
    assert sum_of_parts.report() == report
    assert (report["records"], report["negatives"], report["left"]) == (3, 3, 10)
    assert report["nearest_above_positive"] == 1
    assert report["without"] == {"records": 1, "y": 3}  # the other two have negatives
    assert report["records_by_negatives"] == {"0": 1, "1": 1, "2": 1}
    assert report["mean_score"]["negative"] == pytest.approx(0.3)
    edges, positive = report["histogram"]["edges"], report["histogram"]["positive"]
    assert positive[edges.index(0.5)] == positive[edges.index(0.7)] == positive[-1] == 1
    assert sum(report["histogram"]["nearest"]) == 2
    assert whole.summary().startswith("3 records, 1.00 negatives each, 1 with none")
    assert whole.summary().endswith("for 33.3% another document is nearer than the positive")
    assert report["rescore"] == {}  # no judge was asked


def test_what_no_judge_has_graded_is_counted_and_said_if_there_is_any(tmp_path: Any) -> None:
    def tally(*counts: tuple[int, int]) -> MiningTally:
        made = MiningTally()
        for left, ungraded in counts:
            made.count(
                positive=0.5, nearest=0.4, left=left, negatives=[], against={}, ungraded=ungraded
            )
        made.write(tmp_path / "tally.json")
        return MiningTally.read(tmp_path / "tally.json")

    graded, some, none = tally((3, 0), (0, 0)), tally((5, 2), (5, 1)), tally((4, 4))
    assert graded.report()["rescore"] == {"ungraded_passed_over": 0, "records_ungraded": 0}
    assert graded.summary().endswith("is nearer than the positive")
    some.add(none)
    assert some.report()["rescore"] == {"ungraded_passed_over": 3, "records_ungraded": 1}
    assert some.summary().endswith(
        "is nearer than the positive; 3 documents without a grade were passed over; "
        "for 1 records none has a grade"
    )
