"""What a person sees while something long runs.

In a terminal: one line with a bar, the rate, the time left and any fields the caller wants to
show. Elsewhere (a log file, CI): a plain line every few seconds. Both go to stderr, so that stdout
carries only results.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from culet.terminal.lines import visible
from culet.terminal.tables import counted, duration, measure

Field = int | float | str

LONG_JOB_SECONDS = 2.0  # with show=None nothing is shown before
_RATE_WINDOW_SECONDS = 30.0  # the rate forgets what is older, so the time left follows the present

# The terminal bars on screen now; an inner Progress becomes a second line of the outer one's.
_on_screen: Bars | None = None


class Progress:
    """The progress of one long job, used as a context manager.

    ``with Progress("embedding", total=n, unit="texts") as progress: progress.advance(64)``

    Args:
        what: What is being done: "embedding".
        total: How many units there are; None where that is unknown.
        unit: What is counted, in the plural: "texts".
        done: How many were done before this run, when a job resumes; they do not enter the rate.
        show: True shows it at once, False never, None once the job has lasted two seconds.
        every_seconds: How often a plain line is written where there is no terminal.
        stream: Where it is shown; stderr if None.
        clock: Returns seconds; replaced in tests.
    """

    def __init__(
        self,
        what: str,
        *,
        total: int | None = None,
        unit: str = "items",
        done: int = 0,
        show: bool | None = True,
        every_seconds: float = 10.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.what = what
        self.total = total
        self.unit = unit
        self.done = done
        self._show = show
        self._every = every_seconds
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._done_before = done
        self._fields: dict[str, Field] = {}
        self._painter: _Bar | _Lines | None = None

    def __enter__(self) -> Progress:
        self._began = self._clock()
        self._samples = deque([(self._began, self.done)])
        self._open_if_due()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._painter is not None:
            self._painter.close(self, finished=kind is None)

    def advance(self, amount: int = 1, **fields: Field) -> None:
        """Count `amount` more units as done; fields replace those shown under the same names."""
        self.done += amount
        self._fields.update(fields)
        now = self._clock()
        self._samples.append((now, self.done))
        while len(self._samples) > 2 and self._samples[1][0] < now - _RATE_WINDOW_SECONDS:
            self._samples.popleft()
        self._open_if_due()
        if self._painter is not None:
            self._painter.paint(self)

    def note(self, text: str) -> None:
        """Write one line that stays, without disturbing the bar."""
        if self._show is False:
            return
        if isinstance(self._painter, _Bar):
            self._painter.bars.console.print(visible(text), markup=False, highlight=False)
        else:
            print(visible(text), file=self._stream, flush=True)

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since the job began."""
        return self._clock() - self._began

    @property
    def rate(self) -> float:
        """Units per second over the last half minute."""
        first, last = self._samples[0], self._samples[-1]
        return (last[1] - first[1]) / (last[0] - first[0]) if last[0] > first[0] else 0.0

    @property
    def mean_rate(self) -> float:
        """Units per second since the job began."""
        elapsed = self.elapsed_seconds
        return (self.done - self._done_before) / elapsed if elapsed > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the end at the present rate; None where that is unknown."""
        if self.total is None or self.rate <= 0:
            return None
        return max(self.total - self.done, 0) / self.rate

    def _open_if_due(self) -> None:
        if self._painter is not None or self._show is False:
            return
        if self._show is None and self.elapsed_seconds < LONG_JOB_SECONDS:
            return
        terminal = self._stream.isatty()
        self._painter = _Bar(self, self._stream) if terminal else _Lines(self, self._stream)

    def _account(self) -> str:
        """Return rate, time left and fields, which follow the count in both forms."""
        parts = []
        if self.rate > 0:
            parts.append(f"{measure(self.rate)} {self.unit}/s")
        if self.seconds_left is not None and self.seconds_left > 0:
            parts.append(f"{duration(self.seconds_left)} left")
        parts += [f"{name} {measure(value)}" for name, value in self._fields.items()]
        return ", ".join(parts)

    def _count(self) -> str:
        if self.total is None:
            return counted(self.done, self.unit)
        return f"{self.done:,}/{counted(self.total, self.unit)}"

    def _summary(self, finished: bool) -> str:
        state = "" if finished else "stopped at "
        words = f"{self.what}: {state}{self._count()} in {duration(self.elapsed_seconds)}"
        if self.mean_rate > 0:
            words += f", {measure(self.mean_rate)} {self.unit}/s"
        for name, value in self._fields.items():
            words += f", {name} {measure(value)}"
        return words


class _Lines:
    """Plain lines: one every few seconds, and one at the end."""

    def __init__(self, progress: Progress, stream: TextIO) -> None:
        self._stream = stream
        self._written = progress._clock()

    def paint(self, progress: Progress) -> None:
        now = progress._clock()
        if now - self._written < progress._every:
            return
        self._written = now
        share = f" ({progress.done / progress.total:.0%})" if progress.total else ""
        account = progress._account()
        self._write(
            f"{progress.what}: {progress._count()}{share}{', ' if account else ''}{account}"
        )

    def close(self, progress: Progress, *, finished: bool) -> None:
        self._write(progress._summary(finished))

    def _write(self, line: str) -> None:
        print(visible(line), file=self._stream, flush=True)


class _Bar:
    """A bar in a terminal, on its own or as a further line under one already there."""

    def __init__(self, progress: Progress, stream: TextIO) -> None:
        global _on_screen
        self._owns = _on_screen is None
        if _on_screen is None:
            _on_screen = Bars(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[count]}"),
                TextColumn("{task.fields[account]}", style="dim", markup=False),
                console=Console(file=stream),
                refresh_per_second=5,
                transient=True,  # the summary line takes its place
                redirect_stdout=sys.stdout.isatty(),  # never pull piped results onto the screen
            )
            _on_screen.start()
        self.bars = _on_screen
        self._task: TaskID = self.bars.add_task(
            progress.what,
            total=progress.total,
            completed=progress.done,
            count=progress._count(),
            account="",
        )

    def paint(self, progress: Progress) -> None:
        self.bars.update(
            self._task,
            completed=progress.done,
            count=progress._count(),
            account=visible(progress._account()),
        )

    def close(self, progress: Progress, *, finished: bool) -> None:
        global _on_screen
        with suppress(KeyError):
            self.bars.remove_task(self._task)
        if self._owns:
            self.bars.stop()
            _on_screen = None
        self.bars.console.print(visible(progress._summary(finished)), markup=False, highlight=False)
