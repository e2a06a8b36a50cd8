"""Tables of results: a row per task, a column per run, means by type and over all tasks."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TextIO

import numpy as np

from culet.errors import InputError
from culet.evaluate.evaluation import TaskResult
from culet.evaluate.intervals import Floats, interval
from culet.evaluate.languages import GROUPS, group_of
from culet.terminal.lines import visible


@dataclass(frozen=True)
class Table:
    """Scores x 100: head, a line for each task, and the lines of means below them.

    Means are over the tasks that every run has, so that they can be compared.
    """

    head: tuple[str, ...]
    tasks: tuple[tuple[str, ...], ...]
    means: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """Return the table in Markdown, columns padded so that it also reads as plain text."""
        rows = [tuple(map(visible, row)) for row in (self.head, *self.tasks, *self.means)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(self.head))]
        rule = tuple("-" * width for width in widths[:2]) + tuple(
            "-" * (width - 1) + ":" for width in widths[2:]
        )
        return "\n".join(_line(row, widths) for row in [rows[0], rule, *rows[1:]])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    left = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
    right = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
    return f"| {' | '.join(left + right)} |"


def label(result: TaskResult) -> str:
    """Return the width and precision of a result as words, empty for the model's own."""
    width = f"{result.truncate_to}d" if result.truncate_to is not None else ""
    precision = result.precision if result.precision != "float32" else ""
    return " ".join(part for part in (width, precision) if part)


def compare(runs: Mapping[str, Sequence[TaskResult]]) -> Table:
    """Return the table of one or more runs; results of several widths become separate columns.

    Below the tasks are means by type, by group of languages (over the subsets of each task that
    are in the group, then over tasks), over types and over tasks, with 95 % bootstrap intervals
    over the tasks' items. Two columns get a third with their difference and its paired interval.

    Args:
        runs: {name of the column: results}, for instance {"before": ..., "after": ...}.

    Raises:
        InputError: when there is no result at all, or one column has a task twice.
    """
    columns = list(_columns(runs).items())
    found = [column for _, column in columns]
    infos = {result.info.name: result.info for run in runs.values() for result in run}
    if not infos:
        raise InputError("expected at least one result to report, got none; evaluate a task first")
    order = sorted(infos, key=lambda name: (infos[name].type, name))
    shared = [name for name in order if all(name in column for column in found)]
    tasks = []
    for name in order:
        scores = [column[name].main_score if name in column else None for column in found]
        means = [None if score is None else Mean(score) for score in scores]
        tasks.append((infos[name].type, name, *_cells(means)))
    head = (
        "type",
        "task",
        *(name for name, _ in columns),
        *(["change"] if len(found) == 2 else []),
    )
    return Table(head, tuple(tasks), tuple(_mean_rows(found, shared) if shared else ()))


@dataclass(frozen=True)
class Mean:
    """A mean of scores, and its bootstrap replicates where every part of it has some."""

    score: float
    replicates: Floats | None = None

    def __str__(self) -> str:
        """Return the mean x 100, with its interval if it has one."""
        return self._words("{:.2f}", "[{:.1f}, {:.1f}]")

    def less(self, other: Mean) -> Mean:
        """Return the difference from another mean over the same samples of the same items."""
        drawn = self.replicates, other.replicates
        both = None if drawn[0] is None or drawn[1] is None else drawn[0] - drawn[1]
        return Mean(self.score - other.score, both)

    def signed(self) -> str:
        """Return the mean x 100 as a difference."""
        return self._words("{:+.2f}", "[{:+.1f}, {:+.1f}]")

    def _words(self, score: str, bounds: str) -> str:
        words = score.format(100 * self.score)
        if self.replicates is None:
            return words
        low, high = interval(self.replicates)
        return f"{words} {bounds.format(100 * low, 100 * high)}"


def _mean_rows(
    columns: Sequence[Mapping[str, TaskResult]], shared: Sequence[str]
) -> Iterator[tuple[str, ...]]:
    first = columns[0]
    by_type: dict[str, list[str]] = {}
    by_group: dict[str, dict[str, list[str]]] = {}
    for name in shared:
        by_type.setdefault(first[name].info.type, []).append(name)
        for subset in first[name].subsets:
            group = group_of(first[name].info, subset)
            by_group.setdefault(group, {}).setdefault(name, []).append(subset)
    of_types = {
        kind: [_mean([_subset_mean(column[name]) for name in names]) for column in columns]
        for kind, names in by_type.items()
    }
    for kind, means in of_types.items():
        yield (kind, f"mean of {len(by_type[kind])}", *_cells(means))
    if len(by_group) > 1:
        for group in (group for group in GROUPS if group in by_group):
            parts = by_group[group]
            means = [
                _mean([_subset_mean(column[name], kept) for name, kept in parts.items()])
                for column in columns
            ]
            yield (group, f"in {len(parts)} tasks", *_cells(means))
    over_types = [_mean(means) for means in zip(*of_types.values(), strict=True)]
    over_tasks = [_mean([_subset_mean(column[name]) for name in shared]) for column in columns]
    yield ("all", f"mean of {len(by_type)} types", *_cells(over_types))
    yield ("all", f"mean of {len(shared)} tasks", *_cells(over_tasks))


def _subset_mean(result: TaskResult, subsets: Sequence[str] | None = None) -> Mean:
    """Return the mean score of some subsets of a task, or of all."""
    kept = list(result.subsets) if subsets is None else subsets
    return _mean(
        [
            Mean(
                result.subsets[name]["main_score"],
                np.array(result.replicates[name]) if name in result.replicates else None,
            )
            for name in kept
        ]
    )


def _mean(parts: Sequence[Mean]) -> Mean:
    drawn = [part.replicates for part in parts if part.replicates is not None]
    whole = np.asarray(np.mean(drawn, axis=0)) if len(drawn) == len(parts) else None
    return Mean(float(np.mean([part.score for part in parts])), whole)


def _columns(runs: Mapping[str, Sequence[TaskResult]]) -> dict[str, dict[str, TaskResult]]:
    columns: dict[str, dict[str, TaskResult]] = {}
    for run, results in runs.items():
        for result in results:
            name = " ".join(part for part in (run, label(result)) if part)
            column = columns.setdefault(name, {})
            if result.info.name in column:
                raise InputError(
                    f"expected one result of {result.info.name} in the column {name!r}, got two; "
                    "give the runs different names"
                )
            column[result.info.name] = result
    return columns


def _cells(means: Sequence[Mean | None]) -> list[str]:
    cells = ["-" if mean is None else str(mean) for mean in means]
    if len(means) == 2:
        before, after = means
        known = before is not None and after is not None
        cells.append(after.less(before).signed() if known else "-")  # type: ignore[union-attr, arg-type]
    return cells


def print_report(
    runs: Mapping[str, Sequence[TaskResult]],
    *,
    failures: Mapping[str, str] | None = None,
    means_only: bool = False,
    file: TextIO | None = None,
) -> None:
    """Print the table of runs, drawn with rich in a terminal and as Markdown elsewhere.

    Args:
        runs: as for compare; when none has a result, only the failures are printed.
        failures: {task: what went wrong}, listed below the table.
        means_only: leave the rows of single tasks out.
        file: standard output when None.
    """
    out = file if file is not None else sys.stdout
    if any(runs.values()):
        table = compare(runs)
        if means_only:
            table = replace(table, tasks=())
        if out.isatty():
            _draw(table, out)
        else:
            print(table.markdown(), file=out)
    for task, why in _meaningless(runs).items():
        print(visible(f"the score of {task} means nothing: {why}"), file=out)
    for task, error in (failures or {}).items():
        print(visible(f"failed: {task}: {error}"), file=out)


def _meaningless(runs: Mapping[str, Sequence[TaskResult]]) -> dict[str, str]:
    found = [result for results in runs.values() for result in results]
    return {result.info.name: result.meaningless for result in found if result.meaningless}


def _shown(cell: str) -> str:
    """Return a cell as it is printed; names are not markup."""
    from rich.markup import escape

    return escape(visible(cell))


def _draw(table: Table, out: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table as Drawing

    drawing = Drawing()
    for place, name in enumerate(table.head):
        drawing.add_column(_shown(name), justify="left" if place < 2 else "right")
    for row in table.tasks:
        drawing.add_row(*map(_shown, row))
    drawing.add_section()
    for row in table.means:
        drawing.add_row(*map(_shown, row), style="bold" if row[0] == "all" else None)
    Console(file=out).print(drawing)
