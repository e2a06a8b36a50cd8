"""Texts as callers pass them: one string or several, with lookalikes refused.

A string, bytes, a mapping, a set and a table can all be iterated over, and would otherwise be
embedded letter by letter, number by number, key by key, in any order, and by names of columns.
"""

from __future__ import annotations

from collections.abc import (
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    MappingView,
    Set,
)
from itertools import islice
from typing import Any, TypeVar

from culet.concurrency import ahead_map
from culet.errors import InputError

Prepared = TypeVar("Prepared")


def listed(texts: Any, what: str = "a string or a list of strings") -> list[Any]:
    """Return the texts as a list; one string becomes a list of one.

    Raises:
        InputError: If it is neither a string nor an iterable of items.
    """
    return [texts] if isinstance(texts, str) else list(several(texts, what))


def several(texts: Any, what: str = "an iterable of texts") -> Iterator[Any]:
    """Return an iterator over texts.

    Args:
        texts: As the caller passed them.
        what: What is expected, for the message.

    Raises:
        InputError: If it is a string, bytes, a mapping, or not iterable.
    """
    advice = ""
    if isinstance(texts, str):
        advice = "; give [text] for one text"
    elif isinstance(texts, Mapping):
        advice = "; give its values"
    elif isinstance(texts, Set) and not isinstance(texts, MappingView):
        advice = ", which has no order; give sorted(texts)"
    elif hasattr(type(texts), "columns"):  # of pandas, polars, pyarrow
        advice = "; give the column of the texts, such as table['text']"
    elif hasattr(type(texts), "to_pylist"):  # an array of pyarrow, whose items are no strings
        advice = "; give texts.to_pylist()"
    elif not isinstance(texts, bytes | bytearray | memoryview) and isinstance(texts, Iterable):
        try:
            return iter(texts)
        except TypeError:  # an array without a dimension
            advice = " without a dimension"
    raise InputError(f"expected {what}, got {type(texts).__name__}{advice}")


def title_and_text(item: Any, number: int) -> tuple[str | None, str]:
    """Return (title, text) of a text, or of a pair of title and text.

    Args:
        item: A string, or a tuple or list of a title (or None) and a text.
        number: Its number, for the message.

    Raises:
        InputError: If it is anything else.
    """
    if isinstance(item, str):
        return None, item
    if isinstance(item, tuple | list):
        if len(item) == 2 and isinstance(item[0], str | None) and isinstance(item[1], str):
            return item[0], item[1]
        inside = ", ".join(type(part).__name__ for part in item[:4])
        got = f"{type(item).__name__} of {len(item)} ({inside})"
    else:
        got = type(item).__name__
    raise InputError(f"text {number} must be a string or (title, text), got {got}")


def check_window(window: Any) -> int:
    """Return the number of texts in a window.

    Raises:
        InputError: If it is not a whole number of at least 1.
    """
    if not isinstance(window, int) or isinstance(window, bool) or window < 1:
        raise InputError(f"window must be a whole number of at least 1, got {window!r}")
    return window


def windows(
    texts: Iterable[Any],
    prepare: Callable[[list[Any], int], Prepared],
    window: int,
    *,
    first: int = 0,
    ahead: bool = True,
) -> Generator[Prepared, None, None]:
    """Yield prepared windows of texts, one of them prepared ahead on a thread.

    Args:
        texts: Taken on the caller's thread.
        prepare: Called with a window's texts and the number of the first.
        window: The number of texts in a window.
        first: The number of the first text.
        ahead: False where starting a thread is not worth it.
    """

    def numbered() -> Iterator[tuple[list[Any], int]]:
        given, number = iter(texts), first
        while part := list(islice(given, window)):
            yield part, number
            number += len(part)

    if ahead:
        return ahead_map(lambda item: prepare(*item), numbered())
    return (prepare(*item) for item in numbered())
