"""Duplicates found on disk, against plain Python, and with memory for a few records only."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from culet.data.prepare import dedup
from culet.data.prepare.dedup import KEY, remove_exact, remove_near
from culet.data.prepare.minhash import MinHasher, NearConfig
from culet.text.keys import normalised_key

SENTENCE = "the quick brown fox jumps over the lazy dog and runs into the dark forest number "


def keys_of(path: Path, rows: list[tuple[str, ...]]) -> Path:
    path.write_bytes(b"".join(map(normalised_key, rows)))
    return path


def signatures_of(path: Path, texts: list[str], config: NearConfig) -> Path:
    MinHasher(config).signatures(texts, texts).tofile(path)
    return path


def test_keys_tell_sides_apart() -> None:
    assert normalised_key(("A  b",)) == normalised_key(("a B ",))
    different = {normalised_key(k) for k in [("a", "b"), ("ab",), ("ab", ""), ("b", "a"), ("a b",)]}
    assert len(different) == 5
    assert KEY.itemsize == len(normalised_key(("a",))) == 16


def test_of_equal_rows_the_first_that_still_stands_stays(tmp_path: Path) -> None:
    rows = [("a",), ("b",), ("a",), ("A ",), ("c",), ("b",)]
    verdicts = np.array([9, 0, 0, 0, 0, 0], np.uint8)  # the first went for another reason
    found = remove_exact(
        keys_of(tmp_path / "keys", rows), verdicts, code=7, folder=tmp_path / "work"
    )
    assert verdicts.tolist() == [9, 0, 0, 7, 0, 7]
    assert found.removed == 2
    assert sorted(found.examples) == [(3, 2), (5, 1)]
    assert not (tmp_path / "work").exists()


def test_many_small_parts_find_what_one_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(1)
    rows = [(str(rng.randrange(400)),) for _ in range(1000)]
    keys = keys_of(tmp_path / "keys", rows)
    one, many = np.zeros((2, len(rows)), np.uint8)
    remove_exact(keys, one, code=1, folder=tmp_path / "work")
    monkeypatch.setattr(dedup, "_PART_RECORDS", 16)
    monkeypatch.setattr(dedup, "_READ_ROWS", 64)
    counted: list[int] = []
    remove_exact(keys, many, code=1, folder=tmp_path / "work", advance=counted.append)
    first = {row: i for i, row in reversed(list(enumerate(rows)))}
    assert one.tolist() == [int(first[row] != i) for i, row in enumerate(rows)]
    assert many.tolist() == one.tolist()
    assert sum(counted) == len(rows)


def test_a_row_goes_when_an_earlier_one_is_nearly_the_same(tmp_path: Path) -> None:
    config = NearConfig()
    texts = [
        SENTENCE + "one",
        "an altogether different sentence, which nothing else here is like",
        SENTENCE + "two",
        SENTENCE[:20] + "#" + SENTENCE[21:] + "one",
    ]
    verdicts = np.zeros(4, np.uint8)
    found = remove_near(
        signatures_of(tmp_path / "s", texts, config),
        verdicts,
        config,
        code=8,
        folder=tmp_path / "work",
    )
    assert verdicts.tolist() == [0, 0, 8, 8]
    assert found.removed == 2
    assert {stayed for _, stayed in found.examples} == {0}
    assert found.uncompared == 0


def shingles(text: str) -> set[str]:
    return {text[i : i + 5] for i in range(len(text) - 4)}


def test_a_low_threshold_finds_what_is_as_similar(tmp_path: Path) -> None:
    rng = random.Random(3)
    first, second = [], []
    while len(first) < 150:
        text = "".join(rng.choices("abcdefgh ", k=200)).strip()
        letters = list(text)
        for place in rng.sample(range(len(letters)), 10):
            letters[place] = "#"
        copy = "".join(letters)
        one, two = shingles(text), shingles(copy)
        if 0.60 <= len(one & two) / len(one | two) <= 0.65:
            first.append(text)
            second.append(copy)
    config = NearConfig(threshold=0.5)
    verdicts = np.zeros(300, np.uint8)
    signatures = signatures_of(tmp_path / "s", first + second, config)
    remove_near(signatures, verdicts, config, code=8, folder=tmp_path / "work")
    assert not verdicts[:150].any()
    assert verdicts[150:].astype(bool).sum() > 135  # 20 bands of 6 compare two in three


def test_a_pair_stays_if_only_its_document_is_known(tmp_path: Path) -> None:
    config = NearConfig()
    queries = ["who jumps over the dog", "what colour has the fox", "who jumps over the dog?"]
    table = MinHasher(config).signatures(queries, [SENTENCE] * 3)
    table.tofile(tmp_path / "s")
    verdicts = np.zeros(3, np.uint8)
    remove_near(tmp_path / "s", verdicts, config, code=8, folder=tmp_path / "work")
    assert verdicts.tolist() == [0, 0, 8]


def test_near_duplicates_do_not_depend_on_how_much_is_sorted_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(2)
    config = NearConfig()
    texts = [SENTENCE * (1 + i % 3) + str(rng.randrange(9)) * (i % 5) for i in range(200)]
    texts += ["".join(rng.choices("abcdefgh ", k=60)) for _ in range(200)]
    rng.shuffle(texts)
    table = signatures_of(tmp_path / "s", texts, config)
    one, many = np.zeros((2, len(texts)), np.uint8)
    remove_near(table, one, config, code=1, folder=tmp_path / "work")
    monkeypatch.setattr(dedup, "_PART_RECORDS", 100)
    monkeypatch.setattr(dedup, "_READ_ROWS", 33)
    monkeypatch.setattr(dedup, "_PAIRS", 5)
    found = remove_near(table, many, config, code=1, folder=tmp_path / "work")
    assert 150 < one.sum() < 200
    assert many.tolist() == one.tolist()
    assert found.removed == one.sum()


def test_rows_that_agree_in_a_band_only_are_compared_and_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = NearConfig(threshold=1.0, hashes=12, bands=2, band_rows=6)
    table = np.random.default_rng(0).integers(0, 1 << 16, (6, 12)).astype(np.uint16)
    table[:, :6] = 5  # one bucket of six rows that are half alike
    table.tofile(tmp_path / "s")
    verdicts = np.zeros(6, np.uint8)
    found = remove_near(tmp_path / "s", verdicts, config, code=1, folder=tmp_path / "work")
    assert verdicts.tolist() == [0] * 6
    assert found.uncompared == 0
    monkeypatch.setattr(dedup, "MAX_ROUNDS", 2)
    found = remove_near(tmp_path / "s", verdicts, config, code=1, folder=tmp_path / "work")
    assert found.uncompared == 4
