"""Lines for the person who watches, on standard error: standard output holds results only."""

from __future__ import annotations

import sys
from contextlib import suppress


def say(text: str) -> None:
    """Print a line on standard error, if anyone is there to read it."""
    with suppress(OSError):  # the terminal may be gone
        print(text, file=sys.stderr, flush=True)


def silent(text: str) -> None:
    """Take a line and print nothing: for processes beside the first, and runs inside a run."""
