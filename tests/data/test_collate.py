"""Records to a batch: prompts on the right sides, equal texts once, teacher vectors beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from training_doubles import write_taught

from culet.data.batches.collate import PairBatch, collate
from culet.data.records import Record
from culet.data.teacher_vectors import TeacherFolder
from culet.errors import InputError
from culet.text.prompts import Prompts
from culet.text.tokenizer import TextTokenizer
from culet.text.tokenizer_training import byte_tokenizer

BYTES: Tokenizer = byte_tokenizer()
DOCUMENT = "title: none | text: "


def batch_of(
    records: list[Record], *, max_length: int = 500, seed: int = 0, **settings: Any
) -> PairBatch:
    arguments: dict[str, Any] = {"task": "search", "num_negatives": 0} | settings
    tokenizer = TextTokenizer(
        byte_tokenizer(),
        max_length,
        bos_id=BYTES.token_to_id("<bos>"),
        eos_id=BYTES.token_to_id("<eos>"),
    )
    return collate(
        records,
        tokenizer=tokenizer,
        seed=[seed],
        **{"prompts": Prompts.default()} | arguments,
    )


def text(batch: PairBatch, index: int) -> str:
    """Spell a text from its tokens, special ones left out."""
    ids = batch.texts[index].tolist()
    assert ids[0] == BYTES.token_to_id("<bos>")
    assert ids[-1] == BYTES.token_to_id("<eos>")
    spelt: str = BYTES.decode(ids)
    return spelt


def rows(batch: PairBatch) -> list[tuple[str, str, list[str]]]:
    return [
        (text(batch, q), text(batch, p), [text(batch, i) for i in n if i >= 0])
        for q, p, n in zip(batch.query, batch.positive, batch.negative, strict=True)
    ]


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("search", "search result"),
        ("question_answering", "question answering"),
        ("fact_checking", "fact checking"),
        ("code", "code retrieval"),
    ],
)
def test_a_query_carries_its_task_and_documents_the_document_prompt(task: str, words: str) -> None:
    batch = batch_of([Record("q", "p", ("n",))], task=task, num_negatives=1)
    assert rows(batch) == [(f"task: {words} | query: q", f"{DOCUMENT}p", [f"{DOCUMENT}n"])]


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("similarity", "sentence similarity"),
        ("classification", "classification"),
        ("clustering", "clustering"),
        ("summarization", "summarization"),
    ],
)
def test_a_symmetric_task_puts_its_prompt_on_both_sides(task: str, words: str) -> None:
    batch = batch_of([Record("q", "p", ("n",), title="T")], task=task, num_negatives=1)
    ask = f"task: {words} | query: "
    assert rows(batch) == [(f"{ask}q", f"{ask}p", [f"{ask}n"])]


def test_a_records_own_task_wins() -> None:
    batch = batch_of([Record("q", "p", task="code"), Record("q", "p")], task="similarity")
    assert [text(batch, i) for i in batch.query] == [
        "task: code retrieval | query: q",
        "task: sentence similarity | query: q",
    ]


def test_a_title_stands_before_the_positive_only() -> None:
    batch = batch_of([Record("q", "p", ("n",), title="The  T")], num_negatives=1)
    assert rows(batch)[0][1:] == ("title: The T | text: p", [f"{DOCUMENT}n"])


def test_a_checkpoint_without_prompts_takes_texts_as_they_are() -> None:
    batch = batch_of([Record("q", "p")], prompts=Prompts.from_names({}))
    assert rows(batch) == [("q", "p", [])]


def test_equal_texts_are_tokenized_once() -> None:
    records = [Record("q", "p", ("n", "m")), Record("q", "r", ("n", "p")), Record("s", "p")]
    batch = batch_of(records, num_negatives=2)
    assert len(batch.texts) == 6  # q, s, p, r, n, m
    assert len({t.tobytes() for t in batch.texts}) == 6
    assert batch.query[0] == batch.query[1] != batch.query[2]
    assert batch.positive[0] == batch.positive[2] != batch.positive[1]
    assert batch.positive[0] in batch.negative[1]
    assert batch.num_tokens == sum(len(t) for t in batch.texts)


def test_the_same_words_as_query_and_document_are_two_texts_and_in_a_symmetric_task_one() -> None:
    assert len(batch_of([Record("x", "x")]).texts) == 2
    assert len(batch_of([Record("x", "x")], task="similarity").texts) == 1


# --- negatives


def test_where_a_record_has_fewer_negatives_the_row_ends_in_minus_ones() -> None:
    records = [Record("a", "b", ("c", "d", "e")), Record("f", "g", ("h",)), Record("i", "j")]
    batch = batch_of(records, num_negatives=2)
    assert batch.negative.shape == (3, 2)
    assert (batch.negative >= 0).tolist() == [[True, True], [True, False], [False, False]]


def test_columns_that_no_record_fills_are_left_out() -> None:
    assert batch_of([Record("a", "b", ("c",))], num_negatives=5).negative.shape == (1, 1)
    assert batch_of([Record("a", "b")], num_negatives=5).negative.shape == (1, 0)
    assert batch_of([Record("a", "b", ("c",))], num_negatives=0).negative.shape == (1, 0)


def test_negatives_are_drawn_without_repeats_evenly_and_by_the_seed() -> None:
    record = Record("a", "b", tuple("vwxyz"))
    counts = dict.fromkeys("vwxyz", 0)
    for seed in range(300):
        found = rows(batch_of([record], num_negatives=2, seed=seed))[0][2]
        assert len(set(found)) == 2
        for drawn in found:
            counts[drawn.removeprefix(DOCUMENT)] += 1
    # 120 of each expected; three standard deviations of a binomial share of 2/5 are 25
    assert all(abs(count - 120) < 26 for count in counts.values())
    same = [rows(batch_of([record], num_negatives=2, seed=5)) for _ in range(2)]
    assert same[0] == same[1]


def test_the_positive_is_never_drawn_as_its_own_negative() -> None:
    records = [Record("a", "b", ("b", "c", "b"))]
    for seed in range(20):
        assert rows(batch_of(records, num_negatives=3, seed=seed))[0][2] == [f"{DOCUMENT}c"]


def test_a_record_draws_the_same_negatives_in_a_part_of_its_batch() -> None:
    records = [Record(f"q{i}", f"p{i}", tuple(f"{i}{n}" for n in range(9))) for i in range(6)]
    whole = rows(batch_of(records, num_negatives=3))
    parts = [batch_of(records[a:b], num_negatives=3, first=a) for a, b in ((0, 2), (2, 5), (5, 6))]
    assert [row for part in parts for row in rows(part)] == whole


def test_keys_tell_equal_texts_of_two_parts_and_prompts_count() -> None:
    left = batch_of([Record("q", "p"), Record("r", "s")])
    right = batch_of([Record("t", "p"), Record("q", "q")])
    assert left.keys.dtype == np.int64
    assert len(set(left.keys.tolist())) == len(left.texts) == 4
    assert left.keys[left.positive[0]] == right.keys[right.positive[0]]
    assert left.keys[left.query[0]] == right.keys[right.query[1]]
    assert right.keys[right.query[1]] != right.keys[right.positive[1]]


def test_the_part_of_a_process_may_be_empty() -> None:
    batch = batch_of([], num_negatives=2)
    assert (batch.texts, batch.num_tokens, batch.teacher) == ([], 0, {})
    assert [batch.query.shape, batch.negative.shape, batch.keys.shape] == [(0,), (0, 0), (0,)]
    assert batch.query.dtype == batch.keys.dtype == np.int64


# --- length


def test_a_long_text_is_cut_with_its_end_token_and_counted() -> None:
    batch = batch_of([Record("q" * 100, "p"), Record("q", "p" * 100)], max_length=40)
    assert [len(batch.texts[i]) for i in (batch.query[0], batch.positive[1])] == [40, 40]
    assert text(batch, batch.positive[1]) == DOCUMENT + "p" * 18
    assert batch.truncated == 2
    assert batch_of([Record("q", "p")]).truncated == 0


# --- teacher vectors


def test_teacher_vectors_lie_beside_their_texts_and_nan_where_there_is_none(
    tmp_path: Path,
) -> None:
    vectors = {text: [1.0, float(i)] for i, text in enumerate("abcdegh")}
    teacher = TeacherFolder(write_taught(tmp_path / "taught", vectors))
    records = [Record("a", "b", ("c", "d"), origin="f:1"), Record("e", "g", origin="f:2")]
    slope = {text: i for i, text in enumerate("abcdegh")}
    seen = set()
    for seed in range(10):
        batch = batch_of(records, num_negatives=1, seed=seed, teacher=teacher)
        taught = {role: found[..., 1] / found[..., 0] for role, found in batch.teacher.items()}
        assert taught["query"] == pytest.approx([slope["a"], slope["e"]], rel=1e-3)
        assert taught["positive"] == pytest.approx([slope["b"], slope["g"]], rel=1e-3)
        assert batch.teacher["negative"].shape == (2, 1, 2)
        drawn = rows(batch)[0][2][0].removeprefix(DOCUMENT)
        assert taught["negative"][0, 0] == pytest.approx(slope[drawn], rel=1e-3)
        assert np.isnan(batch.teacher["negative"][1:]).all()
        seen.add(drawn)
    assert seen == {"c", "d"}
    assert batch_of([], teacher=teacher).teacher == {}
    assert set(batch_of(records, teacher=teacher).teacher) == {"query", "positive"}


def test_a_batch_without_teacher_vectors_has_none() -> None:
    assert batch_of([Record("a", "b")]).teacher == {}


def test_a_text_that_was_not_taught_is_named_by_its_origin(tmp_path: Path) -> None:
    teacher = TeacherFolder(write_taught(tmp_path / "taught", {"a": [1.0, 2.0]}))
    with pytest.raises(InputError, match=r"f:9: .*has no vector for 'b'"):
        batch_of([Record("a", "b", origin="f:9")], teacher=teacher)


# --- errors


def test_an_unknown_task_is_named_with_its_record_and_the_known_ones() -> None:
    records = [Record("q", "p"), Record("q", "p", task="poetry", origin="a.jsonl:7")]
    with pytest.raises(InputError, match=r"a\.jsonl:7: unknown task 'poetry'.*search, question"):
        batch_of(records)


def test_a_title_without_a_place_for_it_is_named_with_its_record() -> None:
    prompts = Prompts.from_names({"query": "query: ", "document": "passage: "})
    record = Record("q", "p", title="T", origin="a.jsonl:3")
    with pytest.raises(InputError, match=r"a\.jsonl:3: .*no place for a title"):
        batch_of([record], prompts=prompts)


def test_the_origin_of_every_record_goes_with_the_batch() -> None:
    records = [Record("q", "p", origin=f"f:{i}") for i in range(3)]
    batch = batch_of(records, source="toys")
    assert batch.origin == ("f:0", "f:1", "f:2")
    assert batch.source == "toys"


def test_of_two_towers_each_has_rows_of_its_own_for_equal_texts() -> None:
    records = [
        Record("a", "b", negatives=("a",), task="similarity", origin="x:1"),
        Record("b", "a", task="similarity", origin="x:2"),
    ]
    one = batch_of(records, num_negatives=1)
    assert (len(one.texts), len(one.tower)) == (2, 0)
    two = batch_of(records, num_negatives=1, towers=2)
    assert two.tower.tolist() == [0, 1, 1, 0]
    assert (two.query.tolist(), two.positive.tolist()) == ([0, 3], [1, 2])
    assert two.negative.tolist() == [[2], [-1]]
    assert len(set(two.keys.tolist())) == 4
    assert set(one.keys.tolist()) < set(two.keys.tolist())
