"""Rows of training data: what Parquet holds becomes the JSON that a line would hold."""

from __future__ import annotations

from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from culet.errors import InputError
from culet.files.rows import RawRow, raw_rows


def parquet(path: Path, columns: dict[str, list[Any]]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_values_that_json_lacks_are_passed_on_as_text_or_null(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "a.parquet",
        {
            "query": ["a"],
            "positive": ["p"],
            "day": [date(2020, 1, 2)],
            "moments": [[datetime(2020, 1, 2, 3, 4), None]],
            "hour": [time(5, 6)],
            "price": [Decimal("1.50")],
            "score": [float("nan")],
            "scores": [{"best": float("inf"), "all": [0.5, float("nan")]}],
        },
    )
    (raw,) = raw_rows([path])
    assert b"NaN" not in raw.json
    assert raw.parsed().value == {
        "query": "a",
        "positive": "p",
        "day": "2020-01-02",
        "moments": ["2020-01-02T03:04:00", None],
        "hour": "05:06:00",
        "price": "1.50",
        "score": None,
        "scores": {"best": None, "all": [0.5, None]},
    }


@pytest.mark.parametrize("value", [b"ab", [b"ab"], {"bytes": b"ab", "path": "x"}])
def test_a_parquet_column_of_bytes_is_refused_by_name(tmp_path: Path, value: Any) -> None:
    path = parquet(tmp_path / "a.parquet", {"text": ["t"], "image": [value]})
    with pytest.raises(InputError, match=r"a\.parquet: the column image holds bytes, .* as text$"):
        list(raw_rows([path]))
    assert list(raw_rows([path], columns=("text",))) == [RawRow(path, 1, b'{"text": "t"}')]
