"""Tables of results: a row a task, a column a run, means by type and over all tasks."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TextIO

import numpy as np

from culet.errors import InputError
from culet.evaluate.evaluation import TaskResult


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
        rows = [self.head, *self.tasks, *self.means]
        widths = [max(len(row[column]) for row in rows) for column in range(len(self.head))]
        rule = tuple("-" * width for width in widths[:2]) + tuple(
            "-" * (width - 1) + ":" for width in widths[2:]
        )
        return "\n".join(_line(row, widths) for row in [self.head, rule, *rows[1:]])


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
    """Return the table of one or more runs; results of several widths become columns of their own.

    Two columns get a third with their difference.

    Args:
        runs: {name of the column: results}, for instance {"before": ..., "after": ...}.

    Raises:
        InputError: when there is no result at all, or one column has a task twice.
    """
    columns = _columns(runs)
    infos = {result.info.name: result.info for run in runs.values() for result in run}
    if not infos:
        raise InputError("expected at least one result to report, got none; evaluate a task first")
    order = sorted(infos, key=lambda name: (infos[name].type, name))
    shared = [name for name in order if all(name in column for column in columns.values())]
    tasks = [
        (infos[name].type, name, *_cells([column.get(name) for column in columns.values()]))
        for name in order
    ]
    means = []
    by_type: dict[str, list[float]] = {}
    for kind in dict.fromkeys(infos[name].type for name in shared):
        names = [name for name in shared if infos[name].type == kind]
        means_here = [float(np.mean([c[name] for name in names])) for c in columns.values()]
        by_type[kind] = means_here
        means.append((kind, f"mean of {len(names)}", *_cells(means_here)))
    if shared:
        over_types = [float(np.mean(column)) for column in zip(*by_type.values(), strict=True)]
        over_tasks = [float(np.mean([c[name] for name in shared])) for c in columns.values()]
        means.append(("all", f"mean of {len(by_type)} types", *_cells(over_types)))
        means.append(("all", f"mean of {len(shared)} tasks", *_cells(over_tasks)))
    head = ("type", "task", *columns, *(["change"] if len(columns) == 2 else []))
    return Table(head, tuple(tasks), tuple(means))


def _columns(runs: Mapping[str, Sequence[TaskResult]]) -> dict[str, dict[str, float]]:
    columns: dict[str, dict[str, float]] = {}
    for run, results in runs.items():
        for result in results:
            name = " ".join(part for part in (run, label(result)) if part)
            column = columns.setdefault(name, {})
            if result.info.name in column:
                raise InputError(
                    f"expected one result of {result.info.name} in the column {name!r}, got two; "
                    "give the runs different names"
                )
            column[result.info.name] = result.main_score
    return columns


def _cells(scores: Sequence[float | None]) -> list[str]:
    cells = ["-" if score is None else f"{100 * score:.2f}" for score in scores]
    if len(scores) == 2:
        before, after = scores
        known = before is not None and after is not None
        cells.append(f"{100 * (after - before):+.2f}" if known else "-")  # type: ignore[operator]
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
    for task, error in (failures or {}).items():
        print(f"failed: {task}: {error}", file=out)


def _draw(table: Table, out: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table as Drawing

    drawing = Drawing()
    for place, name in enumerate(table.head):
        drawing.add_column(name, justify="left" if place < 2 else "right")
    for row in table.tasks:
        drawing.add_row(*row)
    drawing.add_section()
    for row in table.means:
        drawing.add_row(*row, style="bold" if row[0] == "all" else None)
    Console(file=out).print(drawing)
