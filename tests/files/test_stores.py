"""Vectors and texts that are read from disk when they are asked for."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from culet.files.stores import RowSubset, TextStore, VectorStore, read_all, write_store


def test_rows_are_what_was_written_by_slice_and_by_number(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float16)
    (tmp_path / "v.f16").write_bytes(rows.tobytes())
    file = VectorStore(tmp_path / "v.f16", 3)
    assert len(file) == 100
    assert np.array_equal(file[10:20], rows[10:20])
    assert np.array_equal(file[95:120], rows[95:])
    assert file[100:].shape == (0, 3)
    wanted = np.array([70, 3, 99, 3, 4, 0])  # in any order, some twice, near and far
    assert np.array_equal(file[wanted], rows[wanted])
    assert file[np.empty(0, dtype=np.int64)].shape == (0, 3)
    some = RowSubset(file, np.array([5, 50, 51]))
    assert len(some) == 3
    assert np.array_equal(some[1:], rows[50:52])


def test_what_is_appended_later_is_not_seen(tmp_path: Path) -> None:
    path = tmp_path / "v.f16"
    path.write_bytes(np.ones((2, 4), np.float16).tobytes() + b"half")
    file = VectorStore(path, 4)
    with path.open("ab") as end:
        end.write(np.ones((5, 4), np.float16).tobytes())
    assert len(file) == 2


def test_a_file_that_was_cut_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    file = os.open(tmp_path / "a", os.O_RDONLY)
    assert read_all(file, 2, 1) == b"bc"
    with pytest.raises(EOFError, match="ends 2 bytes too early"):
        read_all(file, 4, 1)
    os.close(file)


def test_texts_are_read_one_by_one_in_slices_and_from_a_place_on(tmp_path: Path) -> None:
    values = [["a", None, f"text {i} ü" * (i % 5)] for i in range(2500)]
    store = write_store(tmp_path / "store", values)
    assert len(store) == 2500
    assert store[0] == values[0]
    assert store[2499] == values[2499]
    assert store[10:14] == values[10:14]
    assert store[20:10] == []
    assert store[0:10:3] == values[0:10:3]
    assert list(TextStore(tmp_path / "store").since(1000)) == values[1000:]
    with pytest.raises(IndexError):
        store[2500]
