from __future__ import annotations

import numpy as np

from culet.text.keys import key, keys_of, normalised, numbered


def test_normalised_texts_are_blind_to_case_blanks_and_unicode_forms() -> None:
    assert normalised("  Ｈello\tWorld\n ") == "hello world"
    assert normalised("STRASSE") == normalised("straße")


def test_keys_are_numbered_in_order_of_first_occurrence() -> None:
    number, first = numbered(np.array([7, -3, 7, 9, -3, 0]))
    assert number.tolist() == [0, 1, 0, 2, 1, 3]
    assert first.tolist() == [True, True, False, True, False, True]


def test_keys_tell_texts_and_their_order_apart_and_stay_what_they_were() -> None:
    assert len({key("a", "b"), key("b", "a"), key("ab"), key("a"), key("a", "")}) == 5
    assert keys_of(["a", "größer"]).tolist() == [key("a"), key("größer")]
    assert keys_of([]).dtype == np.int64
    assert key("a") == 3405396810240292928  # files of finished runs hold such numbers
