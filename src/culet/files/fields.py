"""Checked fields of a row; an error names the place, what was expected and what is there."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from typing import TypeVar

from culet.errors import InputError
from culet.files.rows import Row

Value = TypeVar("Value")


def text_of(row: Row, key: str) -> str:
    """Return a text with something other than white space in it."""
    value = row.value.get(key)
    if not isinstance(value, str) or not value.strip():
        raise wrong_field(row, key, "a text that is not blank")
    check_unicode(value, key, row.origin)
    return value


def optional_text_of(row: Row, key: str) -> str | None:
    """Return a text as `text_of` does, or None where the field is missing or null."""
    return None if row.value.get(key) is None else text_of(row, key)


def texts_of(row: Row, key: str) -> tuple[str, ...]:
    """Return a list of texts that are not blank; none where the field is missing or null."""
    value = row.value.get(key)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise wrong_field(row, key, "a list of texts")
    return tuple(text_of(Row({key: text}, row.origin), key) for text in value)


def string_of(row: Row, key: str) -> str:
    """Return a string that is not empty, white space allowed."""
    value = row.value.get(key)
    if not isinstance(value, str) or not value:
        raise wrong_field(row, key, "a non-empty string")
    check_unicode(value, key, row.origin)
    return value


def any_string_of(row: Row, key: str) -> str:
    """Return a string, which may be empty."""
    value = row.value.get(key)
    if not isinstance(value, str):
        raise wrong_field(row, key, "a string")
    check_unicode(value, key, row.origin)
    return value


def strings_of(row: Row, key: str, *, least: int) -> tuple[str, ...]:
    """Return a list of at least `least` strings, which may be empty."""
    value = row.value.get(key)
    if (
        not isinstance(value, list)
        or len(value) < least
        or not all(isinstance(text, str) for text in value)
    ):
        raise wrong_field(row, key, f"a list of at least {least} strings")
    for text in value:
        check_unicode(text, key, row.origin)
    return tuple(value)


def label_of(row: Row, key: str) -> str:
    """Return a label as text; whole numbers are written out."""
    value = row.value.get(key)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise wrong_field(row, key, "a label (a string or a whole number)")
    return str(value)


def id_of(row: Row, key: str, *, taken: Container[str]) -> str:
    """Return an id that is not taken by an earlier row; a whole number is written out."""
    given = row.value.get(key)
    whole = isinstance(given, int) and not isinstance(given, bool)
    value = str(given) if whole else string_of(row, key)
    if value in taken:
        raise wrong_field(row, key, "an id of its own (an earlier row has it)")
    return value


def number_of(row: Row, key: str) -> float:
    """Return a finite number."""
    value = row.value.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise wrong_field(row, key, "a finite number")
    return float(value)


def choice_of(row: Row, key: str, known: Sequence[Value]) -> Value:
    """Return a value that is among the known ones."""
    value = row.value.get(key)
    if isinstance(value, bool) or value not in known:
        listed = ", ".join(map(str, known[:10])) + (" ..." if len(known) > 10 else "")
        raise wrong_field(row, key, f"one of {listed}")
    return known[known.index(value)]


def wrong_field(row: Row, key: str, expected: str) -> InputError:
    """Return the error of a field that holds something else than expected."""
    found = repr(row.value.get(key)) if key in row.value else "nothing"
    return InputError(f"{row.origin}: expected {expected} under {key!r}, got {found[:80]}")


def check_unicode(text: str, key: str, origin: str) -> None:
    """Raise InputError if a text holds half of a surrogate pair, which no tokenizer reads."""
    place = lone_surrogate(text)
    if place is not None:
        raise InputError(
            f"{origin}: the field {key!r} is not valid Unicode: a lone surrogate at character "
            f"{place}; whatever wrote it cut a character in two: write it again, or put U+FFFD in "
            "its place"
        )


def lone_surrogate(text: str) -> int | None:
    """Return the place of half a surrogate pair, which JSON can spell and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None
