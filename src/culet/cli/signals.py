"""How a command ends: its exit code, Ctrl-C, signals, and a reader that leaves."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from culet.errors import CuletError
from culet.terminal.lines import complain, say
from culet.terminal.streams import discard_output, is_unwritable_output

if TYPE_CHECKING:
    from types import FrameType


def exit_code_of(command: Callable[[], Any]) -> int:
    """Run a command and return its exit code, after saying on standard error what went wrong."""
    code: Any
    with ending_by_signal() as ended_by:
        try:
            code = command()
            sys.stdout.flush()
            if code == 130:  # newer parsers turn the interrupt into an exit code themselves
                code = _interrupted(ended_by)
        except CuletError as error:
            complain(f"culet: {error}")
            for note in getattr(error, "__notes__", ()):  # what the message cuts short
                say(note, level=1)
            code = 2
        except (KeyboardInterrupt, typer.Abort):
            code = _interrupted(ended_by)
        except BrokenPipeError:
            code = _reader_left()
        except OSError as error:
            if not is_unwritable_output(error):
                raise
            discard_output()
            complain(f"culet: standard output cannot be written: {error.strerror}")
            code = 2
        except SystemExit as stop:  # the parser turns a closed pipe into an exit code of 1
            closed = isinstance(stop.__context__, BrokenPipeError)
            code = _reader_left() if closed else stop.code
        except Exception as error:
            # The parser's own errors can show themselves; anything else is a bug of ours.
            show = getattr(error, "show", None)
            if show is None:
                raise
            message = io.StringIO()
            show(message)
            for line in message.getvalue().splitlines():
                complain(line)
            code = getattr(error, "exit_code", 2)
    return code if isinstance(code, int) else 0


@contextmanager
def ending_by_signal() -> Iterator[list[int]]:
    """Let SIGTERM and SIGHUP end the work as Ctrl-C does; yield the signals received so far.

    A second SIGTERM ends it at once. What the shell ignores (nohup) stays ignored.
    """
    received: list[int] = []
    process = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
        if os.getpid() != process:  # a forked worker, which has nothing to tidy up
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        received.append(number)
        raise KeyboardInterrupt

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [signal.Signals[name] for name in names]
    numbers = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, end)
    try:
        yield received
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _interrupted(ended_by: list[int]) -> int:
    if not ended_by:
        complain("culet: interrupted")
        return 130
    complain(f"culet: ended by {signal.Signals(ended_by[0]).name}")
    return 128 + ended_by[0]


def _reader_left() -> int:
    """Return 0: it is not an error that whoever read our output has left."""
    discard_output()
    return 0
