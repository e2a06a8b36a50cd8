"""Shingles and signatures against sets counted by hand and by plain Python."""

from __future__ import annotations

import random
import warnings

import numpy as np
import pytest

from culet.data.prepare.minhash import MinHasher, NearConfig, band_keys, similarities
from culet.data.prepare.shingles import character_shingles, token_runs
from culet.errors import RecipeError
from culet.files.settings import identity


def jaccard(left: str, right: str, size: int = 5) -> float:
    sets = [
        {text[i : i + size] for i in range(max(1, len(text) - size + 1))} for text in (left, right)
    ]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_shingles_stay_inside_their_text() -> None:
    hashes, starts = character_shingles(["abcde", "bc", "", "abc"], 3)
    assert starts.tolist() == [0, 3, 4, 5, 6]
    abc, bcd, cde, short, empty, again = hashes.tolist()
    assert abc == again
    assert len({abc, bcd, cde, short, empty}) == 5


def test_no_text_has_no_shingle() -> None:
    hashes, starts = character_shingles([], 3)
    assert hashes.tolist() == []
    assert starts.tolist() == [0]


def test_runs_of_words_are_blind_to_punctuation_and_where_they_stand() -> None:
    texts = ["one two, three four!", "zero — ONE two\nthree".lower(), "one two", ""]
    runs, starts, whole, words = token_runs(texts, 3)
    assert words.tolist() == [4, 4, 2, 0]
    assert starts.tolist() == [0, 2, 4, 4, 4]
    assert runs[0] == runs[3]  # one two three
    assert len(set(runs.tolist())) == 3
    assert whole[2] == token_runs(["(one)  two"], 3)[2][0]
    assert len(set(whole.tolist())) == 4


def test_the_order_of_words_counts() -> None:
    _, _, whole, _ = token_runs(["a b c", "b a c", "abc", "ab c"], 2)
    assert len(set(whole.tolist())) == 4


def test_characters_of_scripts_without_spaces_are_words_and_runs_are_twice_as_long() -> None:
    runs, starts, _, words = token_runs(["東京都は日本の首都", "Tokyo 東 is", "東京"], 4)
    assert words.tolist() == [9, 3, 2]
    assert np.diff(starts).tolist() == [2, 0, 0]  # 9 - 8 + 1, and 3 words are under 4
    assert len(runs) == 2


def test_signatures_estimate_the_similarity_of_sets() -> None:
    rng = random.Random(0)
    words = [f"w{rng.randrange(5000)}" for _ in range(8000)]
    texts = [" ".join(words[i : i + 25]) for i in range(0, len(words) - 25, 25)]
    changed = []
    for text in texts:
        letters = list(text)
        for _ in range(rng.randrange(8)):
            letters[rng.randrange(len(letters))] = "#"
        changed.append("".join(letters))
    hasher = MinHasher(NearConfig())
    left, right = hasher.signatures(texts, texts), hasher.signatures(changed, changed)
    errors = (left == right).mean(1) - np.array(list(map(jaccard, texts, changed)))
    assert abs(errors.mean()) < 0.01
    assert errors.std() < 1.2 * np.sqrt(0.25 / 128)


def test_a_pair_is_as_similar_as_its_worse_side() -> None:
    hasher = MinHasher(NearConfig())
    passage = "The culet is the point at which the facets of a cut gem meet."
    one = hasher.signatures(["what is a culet"], [passage])
    two = hasher.signatures(["where do the facets meet"], [passage])
    assert similarities(one, one).tolist() == [1.0]
    assert similarities(one, two)[0] < 0.2


def test_equal_bands_give_equal_keys_at_their_own_place_only() -> None:
    config = NearConfig(threshold=1.0, hashes=12, bands=2, band_rows=6)
    signatures = np.arange(24, dtype=np.uint16).reshape(2, 12)
    signatures[1, :6] = signatures[0, :6]
    keys = band_keys(signatures, config)
    assert keys.shape == (2, 2)
    assert keys[0, 0] == keys[1, 0]
    assert keys[0, 1] != keys[1, 1]
    same = band_keys(np.zeros((1, 12), np.uint16), config)
    assert same[0, 0] != same[0, 1]


def test_texts_of_any_length_and_number_are_signed_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["", "a", "b" * 5000, "some words", "c d e f g h"]
    hasher = MinHasher(NearConfig())
    whole = hasher.signatures(texts, texts)
    monkeypatch.setattr("culet.data.prepare.minhash._BLOCK", 7)
    assert np.array_equal(hasher.signatures(texts, texts), whole)
    assert hasher.signatures([], []).shape == (0, 128)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"threshold": 0.0}, "threshold must be over 0 and at most 1, got 0.0"),
        ({"hashes": 127}, "hashes even, got 5, 20, 6 and 127"),
        ({"bands": 30, "band_rows": 6}, "must be at most hashes, got 30 × 6 over 128"),
        ({"bands": 200}, "bands × band_rows must be at most hashes, got 200 × 1 over 128"),
        ({"seed": -1}, r"seed must be from 0 to 2\^63 - 1, got -1"),
        ({"band_rows": -1}, "bands and band_rows must be at least 1 .* got 5, 20, -1 and 128"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, float], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        NearConfig(**settings)  # type: ignore[arg-type]


def test_bands_follow_the_threshold_and_the_default_ones_stay() -> None:
    for threshold in (0.75, 0.8, 0.85, 0.9, 1.0):
        config = NearConfig(threshold=threshold)
        assert (config.bands, config.band_rows) == (20, 6)
    for threshold, bands, rows in ((0.7, 20, 5), (0.6, 32, 4), (0.5, 42, 3), (0.3, 64, 2)):
        config = NearConfig(threshold=threshold)
        assert (config.bands, config.band_rows) == (bands, rows)
        assert 1 - (1 - threshold**rows) ** bands >= 0.95
        assert bands * rows <= config.hashes
    assert NearConfig(hashes=32).bands == 8  # of 4 rows; 5 of 6 and 6 of 5 find too little


def test_what_is_given_stays_and_the_rest_follows() -> None:
    assert NearConfig(band_rows=3).bands == 20
    assert NearConfig(threshold=0.5, band_rows=3).bands == 42
    assert NearConfig(bands=10).band_rows == 6
    assert NearConfig(bands=40).band_rows == 3
    given = NearConfig(bands=16, band_rows=8, threshold=0.9)
    assert (given.bands, given.band_rows) == (16, 8)


def test_settings_that_default_are_told_as_those_that_were_always_used() -> None:
    assert identity(NearConfig()) == {
        "threshold": 0.8,
        "shingle": 5,
        "hashes": 128,
        "bands": 20,
        "band_rows": 6,
        "min_chars": 100,
        "seed": 0,
    }


def test_bands_that_miss_what_the_threshold_asks_for_are_warned_of() -> None:
    with pytest.warns(
        UserWarning,
        match="near-duplicates: with 20 bands of 6 rows only 27% of those whose similarity is the "
        "threshold of 0.5 are compared; leave bands and band_rows out",
    ):
        NearConfig(threshold=0.5, bands=20, band_rows=6)
    with pytest.warns(UserWarning, match="only 92% .* threshold of 0.02 are compared; raise hash"):
        NearConfig(threshold=0.02)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        NearConfig(threshold=0.5, bands=42, band_rows=3)
