from __future__ import annotations

from typing import Any

import pytest

from culet.errors import InputError
from culet.text.inputs import listed, several


def tables() -> list[Any]:
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    arrow = pytest.importorskip("pyarrow")
    columns = {"text": ["a", "b"], "title": ["c", "d"]}
    table = arrow.table(columns)
    frame = polars.DataFrame(columns)
    return [pandas.DataFrame(columns), frame, frame.lazy(), table, table.to_batches()[0]]


@pytest.mark.parametrize("number", range(5))
def test_a_table_is_refused_and_its_column_is_taken(number: int) -> None:
    table = tables()[number]
    for read in (listed, several):
        with pytest.raises(InputError, match="; give the column of the texts, such as table"):
            read(table)
    if number < 2:
        assert listed(table["text"]) == ["a", "b"]


@pytest.mark.parametrize("given", [{"a", "b"}, frozenset("ab"), {"a": 1}.keys() | {"b"}])
def test_a_set_is_refused_because_it_has_no_order(given: Any) -> None:
    with pytest.raises(InputError, match=r"set, which has no order; give sorted\(texts\)$"):
        listed(given)


def test_views_of_a_mapping_have_an_order() -> None:
    texts = {"b": "1", "a": "2"}
    assert listed(texts.keys()) == ["b", "a"]
    assert listed(texts.values()) == ["1", "2"]


def test_an_array_of_pyarrow_is_told_how_to_become_a_list() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    for array in (pyarrow.array(["a"]), pyarrow.chunked_array([["a"]])):
        with pytest.raises(InputError, match=r"got .*Array; give texts\.to_pylist\(\)"):
            listed(array)
