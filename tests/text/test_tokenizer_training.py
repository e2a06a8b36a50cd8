from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from culet.errors import InputError
from culet.text.tokenizer_training import SPECIAL_TOKENS, byte_tokenizer, train_tokenizer

TEXTS = [
    "Choose the column that you want to sort by.",
    "Wählen Sie die Spalte, nach der Sie sortieren möchten.",
    "列を選んで並べ替えます。テーブルの列です。",
    "Выберите столбец для сортировки таблицы.",
    "def getHttpKernel(self):\n    return self.kernel[1024]\n",
] * 20


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train_tokenizer(TEXTS, 700)


# Whole words such as <eos> inside a text mean the special token, in this family as elsewhere;
# U+FDD0 is the one code point that stands for another.
any_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufdd0")).filter(
    lambda text: not any(token in text for token in (*SPECIAL_TOKENS, "<unused"))
)


@given(any_text)
def test_any_text_comes_back_from_the_bytes(text):
    tokenizer = byte_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


@given(text=st.one_of(any_text, st.text("▁ \n\t<0x4>Aaé列ー1٣_", max_size=20)))
def test_any_text_comes_back_from_a_trained_tokenizer(trained, text):
    assert trained.decode(trained.encode(text).ids) == text


def test_special_tokens_have_the_ids_of_gemma(trained):
    for tokenizer in (trained, byte_tokenizer()):
        names = [tokenizer.id_to_token(number) for number in range(6)]
        assert names == ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<unused0>"]
        assert tokenizer.token_to_id("<0x00>") == 16


def test_text_stands_between_bos_and_eos(trained):
    assert trained.encode("").ids == [2, 1]
    assert byte_tokenizer().encode("A").ids == [2, 16 + 0x41, 1]


def test_bytes_are_no_special_tokens(trained):
    assert trained.encode("☂", add_special_tokens=False).tokens == ["<0xE2>", "<0x98>", "<0x82>"]
    assert trained.decode(trained.encode("☂<0x41>").ids, skip_special_tokens=True) == "☂<0x41>"


def test_words_digits_and_indentation_are_cut_apart(trained):
    tokens = trained.encode("Choose column 1024", add_special_tokens=False).tokens
    assert tokens == ["Choose", "▁column", "▁", "1", "0", "2", "4"]
    assert trained.encode("getHttpKernel", add_special_tokens=False).tokens == [
        "get",
        "Http",
        "Kernel",
    ]
    code = trained.encode("\n    return", add_special_tokens=False).tokens
    assert code == ["\n", "▁▁▁", "▁return"]


def test_no_token_mixes_scripts(trained):
    tokens = trained.encode("列を選んで", add_special_tokens=False).tokens
    assert tokens[0] == "列"
    assert tokens[1] == "を"


def test_training_twice_gives_the_same_tokenizer(trained):
    assert train_tokenizer(iter(TEXTS), 700).to_str() == trained.to_str()


def test_vocabulary_has_the_asked_size_and_a_wider_one_needs_fewer_tokens():
    small, large = (train_tokenizer(TEXTS, size) for size in (400, 500))
    assert (small.get_vocab_size(), large.get_vocab_size()) == (400, 500)
    assert len(large.encode(TEXTS[1]).ids) < len(small.encode(TEXTS[1]).ids)


def test_reading_stops_after_max_characters():
    def endless():
        while True:
            yield "a line of text that is read again and again"

    assert train_tokenizer(endless(), 380, max_characters=1000).get_vocab_size() <= 380


def test_rare_characters_are_spelt_in_bytes():
    tokenizer = train_tokenizer(["ж" * 50, "щ"], 500, alphabet_coverage=96)
    assert tokenizer.token_to_id("ж") is not None
    assert tokenizer.encode("щ", add_special_tokens=False).tokens == ["<0xD1>", "<0x89>"]


def test_equally_rare_characters_are_taken_in_order_of_unicode():
    texts = [*TEXTS, "".join(map(chr, range(0x4E00, 0x4F00)))]
    first, second = (train_tokenizer(texts, 900, alphabet_coverage=300) for _ in range(2))
    assert first.to_str() == second.to_str()
    known = [first.token_to_id(chr(code)) is not None for code in range(0x4E00, 0x4F00)]
    assert known == sorted(known, reverse=True)
    assert 100 < sum(known) < 200


def test_a_low_line_of_the_text_counts_as_a_character_of_its_own():
    tokenizer = train_tokenizer(["a ▁▁ b"], 500, min_frequency=10)
    assert tokenizer.encode("a▁", add_special_tokens=False).tokens == ["a", "\ufdd0"]


def test_loads_in_transformers(tmp_path, trained):
    transformers = pytest.importorskip("transformers")
    trained.save(str(tmp_path / "tokenizer.json"), pretty=False)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    text = "Choose  the column:\n    列を ☂"
    assert fast(text)["input_ids"] == trained.encode(text).ids
    assert fast.decode(fast(text)["input_ids"], skip_special_tokens=True) == text


def test_vocabulary_without_room_is_refused():
    with pytest.raises(InputError, match="larger than the 367 tokens that are always there"):
        train_tokenizer(TEXTS, 300)


def test_no_texts_are_refused():
    with pytest.raises(InputError, match="expected texts to train a tokenizer on"):
        train_tokenizer(["", ""], 1000)
