"""Teacher vectors: inline or by key, and files that would give the wrong vector are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from culet.data.teacher import TeacherFile, teacher_vector
from culet.errors import InputError


def teacher_file(path: Path, keys: list[Any], vectors: Any) -> Path:
    pq.write_table(pa.table({"key": keys, "vector": vectors}), path)
    return path


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float32()),
        pa.list_(pa.float64()),
        pa.large_list(pa.float16()),
        pa.list_(pa.float32(), 2),
        pa.list_(pa.int8()),
    ],
)
def test_a_key_gives_its_own_vector_whatever_the_list_is_made_of(
    tmp_path: Path, kind: pa.DataType
) -> None:
    values = [[np.float16(1), np.float16(2)], [np.float16(3), np.float16(4)]]
    numbers = (
        [[int(v) for v in row] for row in values]
        if pa.types.is_integer(kind.value_type)
        else values
    )
    file = TeacherFile(teacher_file(tmp_path / "t.parquet", ["a", "b"], pa.array(numbers, kind)))
    assert file.width == 2
    assert file["b"].tolist() == [3.0, 4.0]
    assert file["a"].dtype == np.float32
    with pytest.raises(KeyError):
        file["c"]


def test_a_file_of_many_row_groups_keeps_keys_and_vectors_together(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table = pa.table(
        {"key": [str(i) for i in range(100)], "vector": [[float(i), 0.0, 1.0] for i in range(100)]}
    )
    pq.write_table(table, path, row_group_size=7)
    file = TeacherFile(path)
    assert [file[str(i)][0] for i in range(100)] == list(range(100))


@pytest.mark.parametrize(
    ("keys", "vectors", "message"),
    [
        (["a", "b", "c"], [[1.0, 2.0, 3.0], None, [4.0, 5.0, 6.0]], "one width.*3, None"),
        (["a", "b"], [[1.0, 2.0, 3.0], [4.0]], "one width.*3, 1"),
        (["a", "b"], [[], []], "one width.*0"),
        (["a", "a"], [[1.0], [2.0]], "every key must stand once, got 2 rows with 1 different keys"),
        (["a", "b"], [[1.0], [float("nan")]], "vectors must be finite numbers"),
        (["a"], [3.0], "must hold lists of numbers, got double"),
        (["a"], [["x"]], "must hold lists of numbers"),
    ],
)
def test_a_file_that_would_mix_up_its_vectors_is_refused(
    tmp_path: Path, keys: list[str], vectors: list[Any], message: str
) -> None:
    with pytest.raises(InputError, match=rf"t\.parquet: .*{message}"):
        TeacherFile(teacher_file(tmp_path / "t.parquet", keys, vectors))


def test_an_empty_file_and_one_of_other_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    teacher_file(path, pa.array([], pa.string()), pa.array([], pa.list_(pa.float32())))
    with pytest.raises(InputError, match=r"there must be some; got the widths of no row"):
        TeacherFile(path)
    pq.write_table(pa.table({"id": ["a"]}), path)
    with pytest.raises(InputError, match="not a Parquet file with the columns key and vector"):
        TeacherFile(path)
    path.write_text("no parquet")
    with pytest.raises(InputError, match="not a Parquet file with the columns key and vector"):
        TeacherFile(path)


def test_an_inline_vector_is_taken_as_it_is() -> None:
    assert teacher_vector([1, 2.5], None, "f:1").tolist() == [1.0, 2.5]


@pytest.mark.parametrize(
    "value",
    [
        [],
        None,
        3.0,
        [[1.0]],
        ["a"],
        [1.0, None],
        [float("nan")],
        [float("inf")],
        {"a": 1},
        [1.0, [2.0]],
        [1e39],
    ],
)
def test_what_is_no_vector_is_refused_by_its_origin(value: Any) -> None:
    with pytest.raises(InputError, match="f:1: a teacher vector must be a list of numbers"):
        teacher_vector(value, None, "f:1")


def test_keys_need_a_file_that_has_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"f:1: .*is a key \('a'\), but the source names no"):
        teacher_vector("a", None, "f:1")
    file = TeacherFile(teacher_file(tmp_path / "t.parquet", ["a"], [[1.0, 2.0]]))
    assert teacher_vector("a", file, "f:1").tolist() == [1.0, 2.0]
    with pytest.raises(InputError, match=r"f:1: .*t\.parquet has no vector for the key 'b'"):
        teacher_vector("b", file, "f:1")
