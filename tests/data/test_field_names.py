"""Records under the names of other tools: read as what they are, or refused, and always said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from training_doubles import write_lines

from culet.data.mining.pair_index import build_index
from culet.data.prepare.chunks import Position, chunks, pair_or_text
from culet.data.reading import check_teaches
from culet.data.records import Record, read_records, stream_records
from culet.errors import InputError

PASSAGES = {
    "query_id": "7",
    "query": "q",
    "positive_passages": [
        {"docid": "1", "title": "T", "text": "p"},
        {"docid": "2", "title": "", "text": "r"},
    ],
    "negative_passages": [
        {"docid": "3", "title": "N", "text": "n1"},
        {"docid": "4", "text": "n2"},
        {"docid": "5", "title": "only a title", "text": ""},
    ],
}

LAYOUTS: list[tuple[dict[str, Any], list[Record]]] = [
    ({"anchor": "q", "positive": "p", "negative": "n"}, [Record("q", "p", ("n",))]),
    (
        {"anchor": "q", "positive": "p", "negative_2": "b", "negative_10": "c", "negative_1": "a"},
        [Record("q", "p", ("a", "b", "c"))],
    ),
    ({"query": "q", "positive": "p", "neg": ["n", "m"]}, [Record("q", "p", ("n", "m"))]),
    ({"query": "q", "positive": "p", "Negatives": ["n"]}, [Record("q", "p", ("n",))]),
    ({"Anchor": "q", "Positive": "p", "Negative-1": "n"}, [Record("q", "p", ("n",))]),
    (
        {"query": "q", "pos": ["p", "r"], "neg": ["n"], "pos_scores": [1, 2], "neg_scores": [0]},
        [Record("q", "p", ("n",)), Record("q", "r", ("n",))],
    ),
    (
        PASSAGES,
        [
            Record("q", "p", ("n1", "n2", "only a title"), None, "T", "", ("N", None, None)),
            Record("q", "r", ("n1", "n2", "only a title"), None, None, "", ("N", None, None)),
        ],
    ),
    (
        {
            "query": "q",
            "positive": "p",
            "negatives": ["n"],
            "hard_negatives": ["m"],
            "negative": None,
        },
        [Record("q", "p", ("n", "m"))],
    ),
    # culet's own fields come first, and a part of speech is no positive
    ({"query": "q", "positive": "p", "pos": "noun", "anchor": "#1"}, [Record("q", "p")]),
    # numbers of another kind are not texts
    ({"query": "q", "positive": "p", "negative_ids": [1, 2], "neg_score": 0.2}, [Record("q", "p")]),
]


@pytest.mark.parametrize(("row", "expected"), LAYOUTS)
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_the_usual_layouts_become_records(
    tmp_path: Path, row: dict[str, Any], expected: list[Record], ending: str
) -> None:
    path = tmp_path / f"a.{ending}"
    if ending == "jsonl":
        write_lines(path, [row])
    else:
        pq.write_table(pa.Table.from_pylist([row]), path)
    found = read_records([path])
    plain = [Record(**{**vars(record), "origin": ""}) for record in found]
    assert plain == expected
    assert {record.origin for record in found} == {f"{path}:1"}
    assert [record for record, _ in stream_records([path])] == list(found)
    kept = [raw for chunk in chunks([path], Position()) for raw in chunk.raw]
    assert [pair_or_text(raw, "f:1").negatives for raw in kept] == [r.negatives for r in expected]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "q", "pos": []}, "under 'positive', got nothing; the row has query, pos"),
        ({"question": "q", "answer": "p"}, "under 'query', got nothing; the row has question, ans"),
        ({"query": "q", "positive_document_ids": ["1"]}, "under 'positive', got nothing; the row"),
        ({"query": "q", "positive": "p", "negative": 5}, "not blank under 'negatives', got 5"),
        ({"query": "q", "pos": ["p"], "neg": ["n", ""]}, "not blank under 'negatives', got ''"),
        ({"query": "q", "pos": {"docid": "1"}}, "not blank under 'positive', got"),
        ({"query": "q", "pos": [3]}, "not blank under 'positive', got 3"),
        ({"anchor": ["q"], "pos": ["p"]}, "not blank under 'query'"),
    ],
)
def test_what_is_no_pair_is_refused_with_the_fields_it_has(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    path = write_lines(tmp_path / "a.jsonl", [row])
    with pytest.raises(InputError, match=message):
        read_records([path])
    with pytest.raises(InputError, match=r"no usable record in .*; the first row: .*a\.jsonl:1: "):
        read_records([path], skip_bad=True)


def test_what_was_read_as_what_and_what_was_not_is_said(tmp_path: Path) -> None:
    rows = [{"anchor": f"q{i}", "positive": f"p{i}", "negative_1": "n", "id": i} for i in range(3)]
    rows.append(
        {"anchor": "q", "positive": "p", "negative_2": "m", "negative_1": "n", "lang": "de"}
    )
    reading = read_records([write_lines(tmp_path / "a.jsonl", rows)]).reading
    assert reading.summary() == (
        "4 records: query from anchor, positive from positive, negatives from negative_1, "
        "negative_2 (1 to 2 a record); not read: id, lang"
    )
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([{"query": "q", "pos": ["p"], "pos_scores": [1.0]}]), path)
    assert read_records([path]).reading.summary() == (
        "1 records: query from query, positive from pos, no negatives; not read: pos_scores"
    )


def teaches(tmp_path: Path, rows: list[dict[str, Any]], **settings: Any) -> list[str]:
    reading = read_records([write_lines(tmp_path / "a.jsonl", rows)]).reading
    given = {"num_negatives": 0, "taught": False, "grouped": False} | settings
    return check_teaches(reading, "web", **given)


def test_a_source_without_the_negatives_that_are_asked_for_is_refused(tmp_path: Path) -> None:
    rows = [{"query": f"q{i}", "positive": f"p{i}", "wrong": ["n"]} for i in range(3)]
    with pytest.raises(InputError, match=r"web: num_negatives asks .* none of the 3 .*read: wrong"):
        teaches(tmp_path, rows, num_negatives=1)
    own = [{"query": f"q{i}", "positive": f"p{i}", "negatives": [f"p{i}"]} for i in range(3)]
    with pytest.raises(InputError, match="num_negatives asks"):  # the positive is no negative
        teaches(tmp_path, own, num_negatives=1)
    assert teaches(tmp_path, rows) == []
    assert (
        teaches(tmp_path, [*rows, {"anchor": "q", "pos": "p", "neg": "n"}], num_negatives=1) == []
    )


def test_pairs_that_teach_nothing_are_refused_or_named(tmp_path: Path) -> None:
    same_positive = [{"query": f"q{i}", "positive": "p"} for i in range(3)]
    same_query = [{"query": "q", "pos": ["a", "b", "c"]}]
    for rows, which in ((same_positive, "positive"), (same_query, "query")):
        with pytest.raises(InputError, match=f"web: all 3 records have the same {which}, so that"):
            teaches(tmp_path, rows)
        (warning,) = teaches(tmp_path, rows, taught=True)
        assert "contrastive loss is 0" in warning
    assert teaches(tmp_path, [{**row, "title": row["query"]} for row in same_positive]) == []
    (warning,) = teaches(tmp_path, [{**r, "neg": "n"} for r in same_positive], num_negatives=1)
    assert warning == "web: all 3 records have the same positive: only their hard negatives teach"
    own = [{"query": text, "positive": text} for text in "abc"]
    (warning,) = teaches(tmp_path, own)
    assert warning.startswith("web: 3 of 3 records have their query as positive")


def test_groups_in_which_nothing_can_be_learnt_are_counted(tmp_path: Path) -> None:
    rows = [{"query": f"{i}", "positive": f"{i // 2}", "lang": f"{i // 2}"} for i in range(6)]
    reading = read_records([write_lines(tmp_path / "a.jsonl", rows)], group_by=["lang"]).reading
    (warning,) = check_teaches(reading, "web", num_negatives=0, taught=False, grouped=True)
    assert warning.startswith("web: 3 of 3 groups of batch_by have one query or one positive")


def test_titles_of_negatives_are_documents_titles_to_the_miner(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [PASSAGES])
    index = build_index(tmp_path / "index", [path], task="search")
    documents = [index.documents[i] for i in range(len(index.documents))]
    assert documents == [
        [None, "T", "p"],
        [None, "N", "n1"],
        [None, None, "n2"],
        [None, None, "only a title"],
        [None, None, "r"],
    ]
