from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from culet.errors import CheckpointError, InputError
from culet.text.tokenizer import TextTokenizer, unused_ids, without_image_tokens
from culet.text.tokenizer_training import byte_tokenizer

WORDS = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "a": 4, "b": 5, "c": 6}
TEMPLATE = TemplateProcessing(single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)])


def word_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(WordLevel(WORDS, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    return tokenizer


def text_tokenizer(max_length: int = 8) -> TextTokenizer:
    return TextTokenizer(word_tokenizer(), max_length, bos_id=2, eos_id=1)


def as_lists(arrays: list[np.ndarray]) -> list[list[int]]:
    return [array.tolist() for array in arrays]


def test_each_text_begins_with_bos_and_ends_with_eos() -> None:
    encoded = text_tokenizer().encode(["a b", "c"])
    assert as_lists(encoded.ids) == [[2, 4, 5, 1], [2, 6, 1]]
    assert encoded.overlong == ()
    assert {array.dtype for array in encoded.ids} == {np.dtype(np.int32)}


def test_an_empty_text_is_bos_and_eos_alone() -> None:
    assert as_lists(text_tokenizer().encode([""]).ids) == [[2, 1]]


def test_no_texts_give_no_ids() -> None:
    encoded = text_tokenizer().encode([])
    assert (encoded.ids, encoded.overlong) == ([], ())


def test_a_cut_text_keeps_its_end_token_and_is_reported() -> None:
    encoded = text_tokenizer(max_length=4).encode(["a b", "a b c", "a b c a b"])
    assert as_lists(encoded.ids) == [[2, 4, 5, 1], [2, 4, 5, 1], [2, 4, 5, 1]]
    assert encoded.overlong == ((1, 5), (2, 7))


def test_cutting_equals_what_the_tokenizers_library_does() -> None:
    texts = ["a", "a b c", "a b c a", "c " * 20, ""]
    theirs = word_tokenizer()
    theirs.post_processor = TEMPLATE
    theirs.enable_truncation(5)
    expected = [theirs.encode(text).ids for text in texts]
    assert as_lists(text_tokenizer(max_length=5).encode(texts).ids) == expected


def test_an_overlong_text_can_be_an_error() -> None:
    with pytest.raises(InputError, match="text 1 has 5 tokens and the model reads 4"):
        text_tokenizer(max_length=4).encode(["a", "a b c", "a b c a"], on_long="error")


def test_settings_inside_the_file_do_not_cut_or_pad() -> None:
    tokenizer = word_tokenizer()
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=10)
    encoded = TextTokenizer(tokenizer, 8, bos_id=2, eos_id=1).encode(["a b c a"])
    assert as_lists(encoded.ids) == [[2, 4, 5, 6, 4, 1]]


@pytest.mark.parametrize("bad", [None, 3, b"a"])
def test_an_item_that_is_no_text_is_named(bad: object) -> None:
    with pytest.raises(InputError, match="text 1 must be a string"):
        text_tokenizer().encode(["a", bad])  # type: ignore[list-item]


def test_a_pair_is_no_text() -> None:
    with pytest.raises(InputError, match="text 0 must be a string, got tuple"):
        text_tokenizer().encode([("a", "b")])  # type: ignore[list-item]


def test_a_lone_surrogate_is_named() -> None:
    with pytest.raises(InputError, match=r"text 2 .* lone surrogate at character 1"):
        text_tokenizer().encode(["a", "b", "a\ud800"])
    texts = ["search: a", "search: ab\ud800"]
    with pytest.raises(InputError, match=r"^text 8 .* lone surrogate at character 2;"):
        text_tokenizer().encode(texts, first=7, prompt_chars=[8, 8])
    with pytest.raises(InputError, match=r"^the prompt or title of text 8 .* at character 10;"):
        text_tokenizer().encode(texts, first=7, prompt_chars=[8, 12])


def test_one_string_is_not_a_list_of_texts() -> None:
    with pytest.raises(InputError, match="put it in a list"):
        text_tokenizer().encode("a b")


def test_unknown_policy_is_refused() -> None:
    with pytest.raises(InputError, match="'truncate' or 'error', got 'cut'"):
        text_tokenizer().encode(["a"], on_long="cut")  # type: ignore[arg-type]


def test_a_length_without_room_is_refused() -> None:
    with pytest.raises(InputError, match=r"max_length must leave room .* got 1"):
        text_tokenizer(max_length=1)


def test_a_special_token_from_another_model_is_refused() -> None:
    with pytest.raises(CheckpointError, match="the end token has id 99"):
        TextTokenizer(word_tokenizer(), 8, bos_id=2, eos_id=99)


def test_a_template_of_another_family_is_refused() -> None:
    tokenizer = word_tokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="<unk> $A <eos>", special_tokens=[("<unk>", 3), ("<eos>", 1)]
    )
    with pytest.raises(CheckpointError, match=r"surrounds a text with the tokens \[3, 1\]"):
        TextTokenizer(tokenizer, 8, bos_id=2, eos_id=1)


def test_unused_ids_are_counted_in_their_order() -> None:
    tokenizer = byte_tokenizer()
    assert unused_ids(tokenizer, 3) == [5, 6, 7]
    assert [tokenizer.id_to_token(i) for i in unused_ids(tokenizer, 11)] == [
        f"<unused{n}>" for n in range(11)
    ]
    wrapped = TextTokenizer(byte_tokenizer(), 8, bos_id=2, eos_id=1)
    assert unused_ids(wrapped, 2) == [5, 6]


def test_too_few_unused_ids_are_said() -> None:
    expected = "at least 12 unused tokens .* this one has 11; use fewer sentinels"
    with pytest.raises(InputError, match=expected):
        unused_ids(byte_tokenizer(), 12)


def test_an_image_token_beyond_the_rows_is_text() -> None:
    stored = byte_tokenizer()
    stored.add_special_tokens(["<image_soft_token>"])
    for rows, length in ((272, 20), (273, 3)):
        tokenizer = TextTokenizer(without_image_tokens(stored, rows), 64, bos_id=2, eos_id=1)
        ids = tokenizer.encode(["<image_soft_token>"]).ids[0]
        assert len(ids) == length
        assert ids.max() < rows
