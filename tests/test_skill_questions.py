"""The questions of the benchmark about facts: their answers, and entities kept apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from culet.data.triples import Fact
from culet.errors import InputError

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    from questions import objects_of, one_hop, split_by_entity, two_hops, write_questions

FACTS = [
    Fact("Ann", "mother", "Bea"),
    Fact("Bea", "city", "Rome"),
    Fact("Bea", "city", "Roma"),
    Fact("Rome", "country", "Italy"),
    Fact("Bea", "child", "Ann"),
    Fact("Cid", "mother", "Dora"),
    Fact("Dora", "city", "Oslo"),
]


def test_one_hop_questions_take_every_object_for_an_answer() -> None:
    questions = one_hop(FACTS, templates={"mother": "who bore {subject}?"})
    assert [q.text for q in questions][:2] == ["who bore Ann?", "what is the city of Bea?"]
    assert questions[1].answers == ("Rome", "Roma")
    assert len(questions) == 6
    assert objects_of(FACTS)("Ann", "city") == ()


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
    facts = [Fact(f"e{i}", "next", f"e{(i * 7 + 1) % 300}") for i in range(300)]
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
