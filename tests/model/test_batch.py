"""Batches of texts: which are laid down together."""

from __future__ import annotations

import pytest

from culet.model.batch import split_by_length


@pytest.mark.parametrize(
    ("first", "expected"),
    [("longest", [[4], [1], [0, 3], [5, 2]]), ("shortest", [[2, 5, 0], [3], [1], [4]])],
)
def test_groups_hold_texts_of_similar_length_within_the_budget(
    first: str, expected: list[list[int]]
) -> None:
    groups = split_by_length([5, 9, 1, 5, 30, 2], 10, first=first)  # type: ignore[arg-type]
    assert [group.tolist() for group in groups] == expected
    assert split_by_length([], 10, first=first) == []  # type: ignore[arg-type]
