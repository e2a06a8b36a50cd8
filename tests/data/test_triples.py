"""Facts as text: an end is hidden whole, the relation never."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from training_doubles import write_lines

from culet.data.questions import one_hop, split_by_entity, two_hops, write_questions
from culet.data.triples import Triple, aliases, draw_end, masked, masked_tokens, read_triples
from culet.errors import InputError
from culet.text.tokenizer import TextTokenizer
from culet.text.tokenizer_training import byte_tokenizer

FILM = Triple("Pulp Fiction", "award received", "Palme d'Or")
FACTS = [
    Triple("Ann", "mother", "Bea"),
    Triple("Bea", "city", "Rome"),
    Triple("Bea", "city", "Roma"),
    Triple("Rome", "country", "Italy"),
    Triple("Bea", "child", "Ann"),
    Triple("Cid", "mother", "Dora"),
    Triple("Dora", "city", "Oslo"),
]


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
        Triple("x", "is", "y", f"{path}:1"),
        Triple("é", "r", "o", f"{path}:2"),
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


# --- questions


def test_one_hop_questions_take_every_object_for_an_answer() -> None:
    questions = one_hop(FACTS, templates={"mother": "who bore {subject}?"})
    assert [q.text for q in questions][:2] == ["who bore Ann?", "what is the city of Bea?"]
    assert questions[1].answers == ("Rome", "Roma")
    assert len(questions) == 6
    assert aliases(FACTS)("Ann", "city") == ()


def test_two_hops_go_through_a_middle_and_not_back() -> None:
    found = {q.text: q for q in two_hops(FACTS)}
    assert set(found) == {
        "what is the city of the mother of Ann?",
        "what is the city of the mother of Cid?",
    }  # the mother of the child of Bea leads back to Bea
    question = found["what is the city of the mother of Ann?"]
    assert (question.answers, question.entities) == (("Rome", "Roma"), ("Ann", "Bea"))
    assert len(two_hops(FACTS, most=1)) == 1
    texts = [q.text for q in two_hops(FACTS, template="{subject}/{first}/{second}")]
    assert texts[0] == "Ann/mother/city"


def test_no_entity_is_asked_about_in_both_parts() -> None:
    facts = [Triple(f"e{i}", "next", f"e{(i * 7 + 1) % 300}") for i in range(300)]
    for questions in (one_hop(facts), two_hops(facts)):
        train, test = split_by_entity(questions, held_out=0.4, seed=0)
        assert not {e for q in train for e in q.entities} & {e for q in test for e in q.entities}
        assert len(train) > 50
        assert len(test) > 20
    first = split_by_entity(one_hop(facts), held_out=0.4, seed=0)
    assert first == split_by_entity(one_hop(facts), held_out=0.4, seed=0)
    assert first != split_by_entity(one_hop(facts), held_out=0.4, seed=1)


def test_a_split_without_a_part_is_refused() -> None:
    with pytest.raises(InputError, match="both need some"):
        split_by_entity(one_hop(FACTS), held_out=1.0, seed=0)


def test_questions_are_written_with_all_answers(tmp_path: Path) -> None:
    write_questions(tmp_path / "q.jsonl", one_hop(FACTS)[1:2])
    assert (tmp_path / "q.jsonl").read_text() == (
        '{"input": "what is the city of Bea?", "target": "Rome", "answers": ["Rome", "Roma"]}\n'
    )
