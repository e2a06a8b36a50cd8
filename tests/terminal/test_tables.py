from __future__ import annotations

import pytest

from culet.terminal.tables import aligned, duration, measure, size, thousands


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (59.9, "1 min 00 s"), (7800, "2 h 10 min")],
)
def test_durations_read_like_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [(1234567, "1,234,567"), (12.345, "12.3"), (4567.8, "4,568"), (2e-5, "2.0e-05"), (0.0, "0")],
)
def test_numbers_are_short(value: float, words: str) -> None:
    assert measure(value) == words


@pytest.mark.parametrize(
    ("num_bytes", "words"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (20_400_000, "20 MB"), (3e12, "3.0 TB")],
)
def test_bytes_have_a_unit(num_bytes: float, words: str) -> None:
    assert size(num_bytes) == words


def test_counts_are_whole_or_rounded() -> None:
    assert thousands(1_234_567) == "1,234,567"
    assert thousands(1_234_567, about=True) == "1.2 M"
    assert thousands(45_678, about=True) == "46 k"
    assert thousands(999, about=True) == "999"


def test_what_is_unknown_is_a_question_mark() -> None:
    assert [duration(None), size(None), thousands(None)] == ["?", "?", "?"]


def test_columns_are_aligned() -> None:
    assert aligned([("a", "bcd", ""), ("long", "e", "f")]) == ["a     bcd", "long  e    f"]
