"""Rows of many files in one order: chunks, positions, and what a bad line says."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from culet.data.prepare.chunks import Position, RowChunk, chunks, pair_or_text
from culet.errors import InputError


def files_of(folder: Path, *sizes: int) -> list[Path]:
    paths, number = [], 0
    for i, size in enumerate(sizes):
        path = folder / f"{i}.jsonl.gz"
        with gzip.open(path, "wt") as file:
            for _ in range(size):
                file.write(json.dumps({"text": f"row {number}"}) + "\n\n")
                number += 1
        paths.append(path)
    return paths


def numbers(parts: list[RowChunk]) -> list[int]:
    found = []
    for part in parts:
        for place, raw in enumerate(part.raw):
            assert pair_or_text(raw, "").positive == f"row {part.first + place}"
            found.append(part.first + place)
    return found


def test_chunks_hold_rows_of_one_file_each_and_number_all(tmp_path: Path) -> None:
    files = files_of(tmp_path, 5, 0, 3)
    parts = list(chunks(files, Position(), max_rows=2))
    assert [(part.file, len(part.raw)) for part in parts] == [
        (0, 2),
        (0, 2),
        (0, 1),
        (1, 0),
        (2, 2),
        (2, 1),
    ]
    assert numbers(parts) == list(range(8))
    assert parts[1].origin(0) == f"{files[0]}:5"  # blank lines count as lines, not as rows
    assert parts[-1].after == Position(3, 0, 8)


def test_a_pass_goes_on_from_behind_any_chunk(tmp_path: Path) -> None:
    files = files_of(tmp_path, 5, 0, 4)
    parts = list(chunks(files, Position(), max_rows=2))
    for done, part in enumerate(parts, start=1):
        assert numbers(list(chunks(files, part.after, max_rows=2))) == numbers(parts[done:])


def test_large_rows_make_small_chunks(tmp_path: Path) -> None:
    files = files_of(tmp_path, 4)
    assert [len(part.raw) for part in chunks(files, Position(), max_bytes=1)] == [1, 1, 1, 1, 0]


def test_rows_are_records_or_texts() -> None:
    pair = pair_or_text(b'{"query": "q", "positive": "p", "negatives": ["n"], "lang": "de"}', "f:1")
    assert (pair.sides, pair.negatives, pair.lang) == (("q", "p"), ("n",), "de")
    text = pair_or_text(b'{"text": "ein Text", "more": 1}', "f:2")
    assert (text.query, text.sides, text.lang) == (None, ("ein Text",), None)
    assert text.value["more"] == 1


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"{", "f:7: expected a JSON object, got invalid JSON"),
        (
            b'{"s": "a", "r": "b"}',
            "f:7: expected a text that is not blank under 'query', got nothing",
        ),
        (b'{"text": " "}', "f:7: expected a text that is not blank under 'text'"),
        (b'{"query": "q"}', "f:7: expected a text that is not blank under 'positive', got nothing"),
        (b'{"text": "t", "lang": 3}', "f:7: expected a text under 'lang', got 3"),
        (
            rb'{"text": "t", "lang": "\ud800"}',
            "f:7: the field 'lang' is not valid Unicode: .*surrogate",
        ),
    ],
)
def test_a_bad_line_is_named(raw: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words):
        pair_or_text(raw, "f:7")
