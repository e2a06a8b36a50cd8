from __future__ import annotations

import numpy as np
import pytest

from culet.evaluate import TaskInfo, TaskResult, compare
from culet.evaluate.intervals import REPLICATES, draws, interval, of_function, of_means
from culet.evaluate.report import Mean


def test_every_model_meets_the_same_draws() -> None:
    assert np.array_equal(draws("Task/en", 7), draws("Task/en", 7))
    assert not np.array_equal(draws("Task/en", 7), draws("Task/de", 7))
    assert draws("Task/en", 7).shape == (REPLICATES, 7)
    assert draws("Task/en", 7).max() == 6


def test_the_interval_of_a_mean_has_the_width_of_its_standard_error() -> None:
    values = np.tile([0.0, 1.0], 200)  # standard error sqrt(0.25 / 400) = 0.025
    low, high = interval(of_means("coin", values))
    assert low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.01)
    assert high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.01)


def test_a_draw_without_a_score_does_not_spoil_the_others() -> None:
    found = of_function("odd", 3, lambda rows: float("nan") if rows[0] == 0 else 0.25)
    assert np.array_equal(found, np.full(REPLICATES, 0.25))


def test_two_models_that_err_together_differ_by_nothing() -> None:
    drawn = of_means("a", [0.0, 0.5, 1.0])
    change = Mean(0.7, drawn + 0.2).less(Mean(0.5, drawn))
    assert change.signed() == "+20.00 [+20.0, +20.0]"
    assert Mean(0.7, drawn + 0.2).less(Mean(0.5)).signed() == "+20.00"


def _result(name: str, languages: tuple[str, ...], subsets: dict[str, float]) -> TaskResult:
    from pathlib import Path

    info = TaskInfo(name, "sts", "x", Path(), subsets=tuple(subsets), languages=languages)
    scores = {subset: {"main_score": score} for subset, score in subsets.items()}
    drawn = {subset: (score,) * REPLICATES for subset, score in subsets.items()}
    return TaskResult(info, scores, None, "float32", 1.0, drawn)


def test_means_by_language_take_the_subsets_of_each_task_that_are_of_the_group() -> None:
    table = compare(
        {
            "run": [
                _result("A", ("eng-Latn", "deu-Latn"), {"en": 0.2, "de": 0.6, "de-en": 1.0}),
                _result("B", ("eng-Latn",), {"default": 0.4}),
            ]
        }
    )
    rows = {row[0]: row[1:] for row in table.means}
    assert rows["English"] == ("in 2 tasks", "30.00 [30.0, 30.0]")
    assert rows["European"] == ("in 1 tasks", "60.00 [60.0, 60.0]")
    assert rows["across languages"] == ("in 1 tasks", "100.00 [100.0, 100.0]")
