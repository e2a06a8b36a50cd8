"""Raw texts to one row of tokens and windows of it."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from training_doubles import write_lines

from culet.data.batches.windows import TextSourceConfig
from culet.data.token_stream import RawText, TokenStream, read_pair_texts, read_raw_texts, tokenize
from culet.errors import InputError
from culet.text.tokenizer import TextTokenizer
from culet.text.tokenizer_training import byte_tokenizer

EOS = 1


def tokenizer(max_length: int = 10_000) -> TextTokenizer:
    return TextTokenizer(byte_tokenizer(), max_length, bos_id=2, eos_id=EOS)


def stream(folder: Path, *texts: str) -> TokenStream:
    rows = [RawText(text, f"t.jsonl:{i + 1}") for i, text in enumerate(texts)]
    return tokenize(lambda: iter(rows), tokenizer(), folder / "stream")


def test_rows_are_read_from_plain_and_packed_files_with_what_stands_beside_them(
    tmp_path: Path,
) -> None:
    write_lines(tmp_path / "a.jsonl", [{"text": "one", "lang": "en", "source": "x"}, ""])
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write('{"text": "zwei"}\n\n{"text": "drei"}\n')
    rows = list(read_raw_texts([tmp_path]))
    assert [row.text for row in rows] == ["one", "zwei", "drei"]
    assert rows[2].origin == f"{tmp_path / 'b.jsonl.gz'}:3"


def test_a_training_pair_is_one_text(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "p.jsonl", [{"query": "who?", "positive": "me", "negatives": ["x"]}]
    )
    assert list(read_pair_texts([path])) == [RawText("who?\nme", f"{path}:1")]
    config = TextSourceConfig(path, kind="pairs")
    assert [row.text for row in config.texts()] == ["who?\nme"]


@pytest.mark.parametrize("row", ['{"text": ""}', '{"text": 5}', "{}", "[]", "{"])
def test_a_bad_row_is_named(tmp_path: Path, row: str) -> None:
    path = write_lines(tmp_path / "a.jsonl", ['{"text": "good"}', row])
    with pytest.raises(InputError, match=r"a\.jsonl:2: .*(text|JSON)"):
        list(read_raw_texts([path]))


def test_texts_stand_one_after_another_each_with_its_end(tmp_path: Path) -> None:
    made = stream(tmp_path, "ab", "c")
    a = 16 + ord("a")
    assert made.window(0, 5).tolist() == [a, a + 1, EOS, a + 2, EOS]
    assert (len(made), made.num_texts) == (5, 2)


def test_windows_cover_the_row_once_whatever_the_start(tmp_path: Path) -> None:
    made = stream(tmp_path, *(chr(ord("a") + i) * 7 for i in range(8)))  # 64 tokens
    whole = made.window(0, 64)
    for start in (0, 5, 63):
        assert made.num_windows(16) == 4
        found = np.concatenate([made.window(i, 16, start=start) for i in range(4)])
        assert np.array_equal(found, np.roll(whole, -start))


def test_a_row_shorter_than_a_window_is_one_window(tmp_path: Path) -> None:
    made = stream(tmp_path, "abc")
    assert made.num_windows(100) == 1
    assert len(made.window(0, 100, start=2)) == 4


def test_the_text_in_which_a_window_begins_is_known(tmp_path: Path) -> None:
    made = stream(tmp_path, "abc", "defg", "h")  # begin at 0, 4 and 9
    assert [made.origin(i, 3) for i in range(3)] == ["t.jsonl:1", "t.jsonl:1", "t.jsonl:2"]
    assert made.origin(0, 3, start=4) == "t.jsonl:2"
    assert made.origin(3, 3) == "t.jsonl:3"


def test_a_stream_is_made_once(tmp_path: Path) -> None:
    first = stream(tmp_path, "abc")

    def never() -> None:
        raise AssertionError("read again")

    again = tokenize(never, tokenizer(), tmp_path / "stream")  # type: ignore[arg-type]
    assert np.array_equal(again.window(0, 4), first.window(0, 4))


def test_half_a_stream_is_none(tmp_path: Path) -> None:
    def broken() -> object:
        yield RawText("abc", "t.jsonl:1")
        raise InputError("t.jsonl:2: bad")

    with pytest.raises(InputError, match=r"t\.jsonl:2"):
        tokenize(broken, tokenizer(), tmp_path / "stream")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
    assert len(stream(tmp_path, "abc")) == 4


def test_no_texts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got none"):
        stream(tmp_path)
