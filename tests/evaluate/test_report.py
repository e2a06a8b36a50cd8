from __future__ import annotations

import io
from pathlib import Path

import pytest

from culet.errors import InputError
from culet.evaluate import TaskInfo, TaskResult, compare, print_report


def _result(
    name: str, kind: str, score: float, width: int | None = None, precision: str = "float32"
) -> TaskResult:
    info = TaskInfo(name, kind, "x", Path())
    return TaskResult(info, {"default": {"main_score": score}}, width, precision, 1.0)


def test_means_by_type_over_types_and_over_tasks() -> None:
    run = [_result("A", "sts", 0.5), _result("B", "sts", 0.7), _result("C", "bitext", 0.2)]
    table = compare({"run": run})
    assert table.head == ("type", "task", "run")
    assert table.tasks == (
        ("bitext", "C", "20.00"),
        ("sts", "A", "50.00"),
        ("sts", "B", "70.00"),
    )
    assert table.means == (
        ("bitext", "mean of 1", "20.00"),
        ("sts", "mean of 2", "60.00"),
        ("all", "mean of 2 types", "40.00"),
        ("all", "mean of 3 tasks", "46.67"),
    )


def test_two_runs_show_their_difference_over_shared_tasks() -> None:
    before = [_result("A", "sts", 0.5), _result("B", "sts", 0.9)]
    table = compare({"before": before, "after": [_result("A", "sts", 0.625)]})
    assert table.head[2:] == ("before", "after", "change")
    assert table.tasks[0][2:] == ("50.00", "62.50", "+12.50")
    assert table.tasks[1][2:] == ("90.00", "-", "-")
    assert table.means[-1] == ("all", "mean of 1 tasks", "50.00", "62.50", "+12.50")


def test_widths_and_precisions_become_columns() -> None:
    run = [
        _result("A", "sts", 0.5),
        _result("A", "sts", 0.4, 128),
        _result("A", "sts", 0.3, 128, "int8"),
    ]
    assert compare({"run": run}).head[2:] == ("run", "run 128d", "run 128d int8")


def test_runs_without_a_task_in_common_have_no_means() -> None:
    table = compare({"a": [_result("A", "sts", 0.5)], "b": [_result("B", "sts", 0.5)]})
    assert table.means == ()


def test_the_same_result_twice_or_none_is_refused() -> None:
    with pytest.raises(InputError, match="one result of A in the column 'run', got two"):
        compare({"run": [_result("A", "sts", 0.5)] * 2})
    with pytest.raises(InputError, match="at least one result"):
        compare({"run": []})


def test_outside_a_terminal_the_report_is_markdown() -> None:
    out = io.StringIO()
    runs = {"run": [_result("A", "sts", 0.5)]}
    print_report(runs, failures={"B": "InputError: bad"}, file=out)
    lines = out.getvalue().splitlines()
    assert lines[:3] == [
        "| type | task            |   run |",
        "| ---- | --------------- | ----: |",
        "| sts  | A               | 50.00 |",
    ]
    assert lines[-1] == "failed: B: InputError: bad"


def test_in_a_terminal_the_report_is_drawn() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    print_report({"run": [_result("A", "sts", 0.5)]}, file=out)
    assert "50.00" in out.getvalue()
    assert "| ---" not in out.getvalue()


def test_failures_are_reported_even_without_results() -> None:
    out = io.StringIO()
    print_report({"run": []}, failures={"B": "bad"}, file=out)
    assert out.getvalue() == "failed: B: bad\n"


def test_a_report_of_means_only_is_short() -> None:
    out = io.StringIO()
    print_report({"run": [_result("A", "sts", 0.5)]}, means_only=True, file=out)
    assert "mean of 1 tasks" in out.getvalue()
    assert "| A " not in out.getvalue()
