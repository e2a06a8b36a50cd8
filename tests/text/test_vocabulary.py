"""A trimmed vocabulary cuts the texts it was made for as before, and can write all others."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from culet.checkpoints.gguf.tokenizer_json import gemma_json
from culet.errors import CheckpointError, InputError
from culet.text.tokenizer import unused_ids
from culet.text.tokenizer_training import train_tokenizer
from culet.text.vocabulary import Coverage, count_tokens, coverage, trim

WORDS = [
    "the",
    "thin",
    "then",
    "other",
    "mother",
    "bother",
    "a",
    "an",
    "and",
    "hand",
    "sand",
    "brand",
    "new",
    "news",
    "newest",
]


def texts() -> Iterator[str]:
    generator = np.random.default_rng(0)
    for _ in range(300):
        yield " ".join(generator.choice(WORDS, 12))


@pytest.fixture(scope="module")
def large() -> Tokenizer:
    return train_tokenizer(texts(), 500)


def gemma() -> Tokenizer:
    """A tokenizer of Gemma's form, which does not cut before it merges."""
    letters = [*"abc▁", "é"]
    pieces = ["ab", "bc", "abc", "▁a", "▁abc", "aa", "aab", "▁▁", "cab"]
    special = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<unused{n}>" for n in range(4)), "\n"]
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    vocab = {piece: id_ for id_, piece in enumerate([*special, *bytes_, *letters, *pieces])}
    merges = [
        (piece[:cut], piece[cut:])
        for piece in ("▁▁", *pieces)
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    added = [(id_, piece, piece != "\n") for id_, piece in enumerate(special)]
    return Tokenizer.from_str(gemma_json(vocab, merges, added, bos="<bos>", unknown="<unk>"))


def trimmed(tokenizer: Tokenizer, some: list[str], **options: int) -> Tokenizer:
    counts = count_tokens(tokenizer, some)
    return Tokenizer.from_str(trim(tokenizer.to_str(), counts, **options).tokenizer_json)


def test_texts_it_was_made_for_are_cut_as_before(large: Tokenizer) -> None:
    some = [text for text in texts() if "mother" not in text][:5]
    small = trimmed(large, some)
    assert small.get_vocab_size() < large.get_vocab_size()
    for text in some:
        assert small.encode(text).tokens == large.encode(text).tokens


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("abcé \n", max_size=30), min_size=1, max_size=4))
def test_so_they_are_where_nothing_parts_words(some: list[str]) -> None:
    large = gemma()
    small = trimmed(large, some)
    for text in some:
        assert small.encode(text).tokens == large.encode(text).tokens


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30))
def test_any_text_can_still_be_written(text: str) -> None:
    small = trimmed(gemma(), ["abc abc"])
    assert small.decode(small.encode(text, add_special_tokens=False).ids) == text.replace("▁", " ")


def test_ids_keep_their_order_and_special_ones_their_numbers(large: Tokenizer) -> None:
    counts = count_tokens(large, list(texts())[:3])
    result = trim(large.to_str(), counts, keep_unused=4)
    small = Tokenizer.from_str(result.tokenizer_json)
    assert [small.id_to_token(id_) for id_ in (0, 1, 2, 3)] == ["<pad>", "<eos>", "<bos>", "<unk>"]
    assert np.all(np.diff(result.kept) > 0)
    assert small.get_vocab_size() == len(result.kept)
    for new, old in enumerate(result.kept):
        assert small.id_to_token(new) == large.id_to_token(int(old))
    assert small.encode("the").ids[0] == 2  # the template still knows the token that begins


def test_unused_tokens_are_kept_as_asked(large: Tokenizer) -> None:
    counts = count_tokens(large, ["the"])
    for asked, kept in ((0, 0), (3, 3), (99, 11)):
        result = trim(large.to_str(), counts, keep_unused=asked)
        assert result.unused == kept
        small = Tokenizer.from_str(result.tokenizer_json)
        assert len(unused_ids(small, kept)) == kept
        with pytest.raises(InputError, match="unused tokens"):
            unused_ids(small, kept + 1)


def test_what_a_token_is_made_of_is_kept_with_it() -> None:
    large = gemma()
    counts = np.zeros(large.get_vocab_size(), np.int64)
    counts[large.token_to_id("▁abc")] = 5
    result = trim(large.to_str(), counts, keep_unused=0)
    small = Tokenizer.from_str(result.tokenizer_json)
    # "ab" has the lowest rank: ▁ a b c → ▁ ab c → ▁ abc → ▁abc; "bc" and "▁a" are not on the way
    assert small.encode(" abc", add_special_tokens=False).tokens == ["▁abc"]
    assert {t for t in ("▁", "a", "b", "c", "ab", "abc") if small.token_to_id(t) is None} == set()
    assert small.token_to_id("bc") is None
    assert (result.needed, result.on_the_way) == (1, 6)


def test_rare_tokens_are_spelt_with_smaller_ones(large: Tokenizer) -> None:
    some = ["the the the brand"]  # and once more with a space in front
    assert "▁brand" in large.encode(some[0]).tokens
    small = trimmed(large, some, min_count=3)
    assert "▁brand" not in small.get_vocab()
    assert "▁the" in small.get_vocab()


def test_first_words_count_with_a_space_in_front(large: Tokenizer) -> None:
    counts = count_tokens(large, ["news"])
    assert counts[large.token_to_id("▁news")] == 1


def test_coverage_counts_what_is_cut_in_another_way() -> None:
    large = gemma()
    small = trimmed(large, ["ab"], keep_unused=0)
    # "abc" becomes ab + c: one token of three bytes; "é" becomes two bytes and one longer text
    assert coverage(large, small, ["ab", "abc"]) == Coverage(
        texts=2,
        changed_texts=1,
        tokens_before=2,
        tokens_after=3,
        changed_tokens=1,
        bytes=5,
        changed_bytes=3,
    )
    loss = coverage(large, small, ["é"])
    assert (loss.tokens_after, loss.changed_bytes, loss.growth) == (2, 2, 1.0)
    assert coverage(large, large, ["abc é"]).changed_share == 0


def test_merges_in_the_older_spelling_are_read() -> None:
    content = json.loads(gemma().to_str())
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    counts = count_tokens(gemma(), ["abc"])
    assert trim(json.dumps(content), counts) == replaced(trim(gemma().to_str(), counts))


def replaced(result: object) -> object:
    """Dataclasses with arrays compare by their parts here."""
    return _Same(result)


class _Same:
    def __init__(self, result: object) -> None:
        self.result = result

    def __eq__(self, other: object) -> bool:
        mine, theirs = vars(self.result), vars(other)
        return all(np.array_equal(mine[key], theirs[key]) for key in mine)

    __hash__ = None  # type: ignore[assignment]


def test_other_tokenizers_and_bounds_are_refused(large: Tokenizer) -> None:
    counts = count_tokens(large, ["the"])
    content = json.loads(large.to_str())
    for model in ({"type": "Unigram"}, {"type": "BPE", "byte_fallback": False}):
        with pytest.raises(CheckpointError, match="expected BPE with byte fallback, as in Gemma"):
            trim(json.dumps(content | {"model": model}), counts)
    with pytest.raises(InputError, match="min_count must be at least 1"):
        trim(large.to_str(), counts, min_count=0)
