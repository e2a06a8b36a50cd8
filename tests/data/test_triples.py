"""Facts as text: an end is hidden whole, the relation never."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from training_doubles import write_lines

from culet.data.triples import Fact, draw_end, masked, masked_tokens, read_triples
from culet.errors import InputError
from culet.text.tokenizer import TextTokenizer
from culet.text.tokenizer_training import byte_tokenizer

FILM = Fact("Pulp Fiction", "award received", "Palme d'Or")


def test_the_papers_example() -> None:
    assert masked(FILM, "object") == ("Pulp Fiction, award received, ", "", "Palme d'Or")
    assert masked(FILM, "subject") == ("", ", award received, Palme d'Or", "Pulp Fiction")


@pytest.mark.parametrize("end", ["subject", "object"])
def test_what_is_hidden_and_what_is_shown_make_the_fact_again(end: str) -> None:
    before, after, answer = masked(FILM, end)  # type: ignore[arg-type]
    assert f"{before}{answer}{after}" == "Pulp Fiction, award received, Palme d'Or"
    assert FILM.relation in before + after
    assert answer in (FILM.subject, FILM.object)


@pytest.mark.parametrize("end", ["subject", "object"])
def test_the_answer_is_hidden_whole_in_tokens_too(end: str) -> None:
    raw = byte_tokenizer()
    tokenizer = TextTokenizer(raw, 1000, bos_id=2, eos_id=1)
    source, target = masked_tokens(FILM, end, tokenizer, 5)  # type: ignore[arg-type]
    answer = FILM.subject if end == "subject" else FILM.object
    assert raw.decode(target.tolist()) == answer
    assert (source == 5).sum() == 1
    shown = raw.decode(source[source != 5].tolist())
    assert "award received" in shown
    assert answer not in shown
    assert len(source) < 40  # nothing but the fact


def test_both_ends_are_hidden_equally_often() -> None:
    ends = [draw_end(np.random.default_rng([0, i])) for i in range(4000)]
    assert abs(ends.count("subject") - 2000) < 3 * math.sqrt(1000)


def test_triples_are_read_with_their_lines(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "a.jsonl", [{"s": "x", "r": "is", "o": " y "}, {"s": "é", "r": "r", "o": "o"}]
    )
    assert read_triples([path]) == [
        Fact("x", "is", "y", f"{path}:1"),
        Fact("é", "r", "o", f"{path}:2"),
    ]


@pytest.mark.parametrize("field", ["s", "r", "o"])
@pytest.mark.parametrize("value", ["", "  ", None, 3])
def test_an_empty_field_is_named_with_file_and_line(
    tmp_path: Path, field: str, value: object
) -> None:
    good = {"s": "x", "r": "is", "o": "y"}
    path = write_lines(tmp_path / "kg.jsonl", [good, good | {field: value}])
    with pytest.raises(
        InputError, match=rf"kg\.jsonl:2: expected a text that is not blank under '{field}'"
    ):
        read_triples([path])


def test_a_file_without_triples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no triple in"):
        read_triples([write_lines(tmp_path / "kg.jsonl", [])])
