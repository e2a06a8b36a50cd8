"""What a person reads, line by line: the one place where messages are made safe and printed.

Names of files, tensors and prompts come from others. Printed as they are, they could clear the
screen, turn the direction of writing, or forge a line of their own.
"""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from functools import partial

# Terminal controls, lone surrogates, and what changes the direction of writing.
_UNSAFE = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufff9-\ufffb"
_CONTROL = re.compile(f"[{_UNSAFE}]")
# In JSON, where line ends stand between values and no string holds one as it is.
_UNSAFE_JSON = re.compile(f"(?!\n)[{_UNSAFE}]")
_level = 0
_NOT_ASCII = re.compile("[^\n\x20-\x7e]")


def visible(text: str) -> str:
    """Return one line of text safe to print: control characters become their escapes."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def visible_json(text: str, encoding: str | None = "utf-8") -> str:
    """Return JSON of the same value, safe to print, with escapes for what a terminal would obey.

    Args:
        text: The JSON.
        encoding: Of the stream it goes to. If it is not UTF-8, everything beyond ASCII is escaped.
    """
    utf8 = (encoding or "utf-8").lower().replace("_", "-") in ("utf-8", "utf8")
    return (_UNSAFE_JSON if utf8 else _NOT_ASCII).sub(_json_escape, text)


def set_level(level: int) -> None:
    """Set how much is said from now on: -1 errors and warnings only, 0 reports, 1 details too."""
    global _level
    _level = level


def say(text: str, *, level: int = 0) -> None:
    """Print a line on standard error, if the level allows it and anyone is there to read it."""
    if level > _level:
        return
    with suppress(OSError):  # the terminal may be gone
        print(visible(text), file=sys.stderr, flush=True)


complain = partial(say, level=-1)
"""Print an error or a warning on standard error, however quiet the rest is."""


def show(text: str) -> None:
    """Print a line on standard output."""
    print(visible(text))


def silent(text: str) -> None:
    """Take a line and print nothing: for processes beside the first, and runs inside a run."""


def _json_escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))
