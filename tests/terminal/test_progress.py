from __future__ import annotations

import io
import re

import pytest

from culet.terminal import progress as progress_module
from culet.terminal.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def visible(stream: io.StringIO) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())


def test_outside_a_terminal_a_line_comes_every_few_seconds() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(
        "embedding", total=4000, unit="texts", every_seconds=10, stream=stream, clock=clock
    ) as progress:
        for _ in range(4):
            clock.now += 5
            progress.advance(1000, loss=0.12345, file="a.txt")
    assert stream.getvalue().splitlines() == [
        "embedding: 2,000/4,000 texts (50%), 200 texts/s, 10 s left, loss 0.123, file a.txt",
        "embedding: 4,000/4,000 texts (100%), 200 texts/s, loss 0.123, file a.txt",
        "embedding: 4,000/4,000 texts in 20 s, 200 texts/s, loss 0.123, file a.txt",
    ]


def test_without_a_total_there_is_no_share_and_no_time_left() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress("reading", unit="lines", every_seconds=1, stream=stream, clock=clock) as progress:
        clock.now += 2
        progress.advance(5)
    assert stream.getvalue().splitlines() == [
        "reading: 5 lines, 2.5 lines/s",
        "reading: 5 lines in 2.0 s, 2.5 lines/s",
    ]


def test_what_was_done_before_a_resume_does_not_count_as_speed() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(
        "training", total=100, unit="steps", done=90, stream=stream, clock=clock
    ) as progress:
        clock.now += 10
        progress.advance(5)
        assert progress.rate == 0.5
        assert progress.seconds_left == 10
        assert progress.mean_rate == 0.5


def test_the_rate_forgets_the_distant_past() -> None:
    clock = Clock()
    with Progress("x", show=False, clock=clock) as progress:
        clock.now = 1000
        progress.advance(1)
        for _ in range(10):
            clock.now += 10
            progress.advance(100)
        assert progress.rate == pytest.approx(10)
        assert progress.mean_rate < 1


def test_a_terminal_shows_a_bar_and_leaves_one_line() -> None:
    stream, clock = Terminal(), Clock()
    with Progress("embedding", total=10, unit="texts", stream=stream, clock=clock) as progress:
        clock.now += 10
        progress.advance(5, loss=0.5)
        assert progress_module._on_screen is not None
        progress_module._on_screen.refresh()
        shown = visible(stream)
        assert "━" in shown
        assert "5/10 texts" in shown
        progress.note("one text was cut")
        clock.now += 10
        progress.advance(5)
    assert "one text was cut" in visible(stream)
    last = visible(stream).splitlines()[-1].split("\r")[-1]
    assert last == "embedding: 10/10 texts in 20 s, 0.5 texts/s, loss 0.5"
    assert progress_module._on_screen is None


def test_an_inner_job_shares_the_outer_screen() -> None:
    stream = Terminal()
    with Progress("training", total=2, stream=stream) as outer:
        with Progress("evaluating", total=3, stream=stream) as inner:
            inner.advance(3)
            assert progress_module._on_screen is not None
            assert len(progress_module._on_screen.tasks) == 2
        outer.advance(2)
    shown = visible(stream)
    assert shown.index("evaluating: 3/3 items") < shown.index("training: 2/2 items")


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_silent_writes_nothing(stream: io.StringIO) -> None:
    with Progress("embedding", total=2, show=False, stream=stream) as progress:
        progress.advance(2)
        progress.note("unheard")
    assert stream.getvalue() == ""


def test_a_short_job_that_shows_only_when_long_says_nothing() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress("embedding", show=None, stream=stream, clock=clock) as progress:
        clock.now += 1.9
        progress.advance(2)
    assert stream.getvalue() == ""


def test_a_long_job_that_shows_only_when_long_speaks() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress("embedding", unit="texts", show=None, stream=stream, clock=clock) as progress:
        clock.now += 2
        progress.advance(2)
    assert stream.getvalue() == "embedding: 2 texts in 2.0 s, 1 texts/s\n"


def test_an_interrupted_job_says_where_it_stopped() -> None:
    stream = io.StringIO()
    progress = Progress("embedding", total=9, unit="texts", stream=stream, clock=Clock())

    def interrupted_job() -> None:
        with progress:
            progress.advance(4)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_job()
    assert stream.getvalue() == "embedding: stopped at 4/9 texts in 0.0 s\n"


def test_an_interrupted_bar_gives_the_screen_back() -> None:
    with pytest.raises(ValueError, match="x"), Progress("a", stream=Terminal()):
        raise ValueError("x")
    assert progress_module._on_screen is None
