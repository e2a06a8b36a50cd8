"""Training records: what is read, and every way a line or file can be bad, by file and line."""

from __future__ import annotations

import gzip
import json
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from training_doubles import write_lines

from culet.data.records import Record, read_records, stream_records
from culet.errors import InputError
from culet.files.rows import data_files

GOOD = {"query": "q", "positive": "p"}


def test_a_line_becomes_a_record_with_its_origin(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "a.jsonl",
        [
            {
                **GOOD,
                "negatives": ["n1", "n2"],
                "task": "code",
                "title": "T",
                "other": {"ignored": 1},
            },
            "",
            "   ",
            {"query": "zwei", "positive": "größer", "title": None, "task": None, "negatives": None},
        ],
    )
    records = read_records([path])
    assert list(records) == [
        Record(
            "q",
            "p",
            ("n1", "n2"),
            "code",
            "T",
            f"{path}:1",
        ),
        Record("zwei", "größer", origin=f"{path}:4"),
    ]
    assert records.skipped == ()


def test_records_are_a_sequence(tmp_path: Path) -> None:
    rows = [{"query": f"q{i}", "positive": "p"} for i in range(5)]
    records = read_records([write_lines(tmp_path / "a.jsonl", rows)])
    assert len(records) == 5
    assert records[-1].query == "q4"
    assert [record.query for record in records[1:4:2]] == ["q1", "q3"]
    with pytest.raises(IndexError):
        records[5]


def test_a_blank_title_is_no_title(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{**GOOD, "title": ""}, {**GOOD, "title": " \n"}])
    assert [record.title for record in read_records([path])] == [None, None]


def test_line_separators_inside_a_text_do_not_end_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"query": "a\u2028b\x85c", "positive": "p"}\n{"query": "d", "positive": "p"}')
    assert [(r.query, r.origin) for r in read_records([path])] == [
        ("a\u2028b\x85c", f"{path}:1"),
        ("d", f"{path}:2"),
    ]


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"query": "a", "positive": "p"}\r\n{"query": "b", "positive": "p"}\r\n'
    )
    assert [record.query for record in read_records([path])] == ["a", "b"]


BAD: list[tuple[str, str]] = [
    ("{", "expected a JSON object, got invalid JSON"),
    ('{"query": "q", "positive": "p"} x', "expected a JSON object, got invalid JSON"),
    ("[" * 100_000, "expected a JSON object, got invalid JSON"),
    ('["q", "p"]', r"expected a JSON object, got \['q', 'p'\]"),
    ("null", "expected a JSON object, got None"),
    ('{"query": "q"}', "expected a text that is not blank under 'positive', got nothing"),
    ('{"positive": "p"}', "expected a text that is not blank under 'query', got nothing"),
    ('{"query": "", "positive": "p"}', "expected a text that is not blank under 'query', got ''"),
    ('{"query": " \\n", "positive": "p"}', "expected a text that is not blank under 'query', got"),
    ('{"query": 5, "positive": "p"}', "expected a text that is not blank under 'query', got 5"),
    ('{"query": "q", "positive": ["p"]}', "expected a text that is not blank under 'positive'"),
    ('{"query": "q\\ud800", "positive": "p"}', "the field 'query' is not valid Unicode"),
    (
        '{"query": "q", "positive": "p", "negatives": "n"}',
        "expected a list of texts under 'negatives'",
    ),
    (
        '{"query": "q", "positive": "p", "negatives": 0}',
        "expected a list of texts under 'negatives', got 0",
    ),
    (
        '{"query": "q", "positive": "p", "negatives": {}}',
        "expected a list of texts under 'negatives'",
    ),
    (
        '{"query": "q", "positive": "p", "negatives": ["n", ""]}',
        "expected a text that is not blank under 'negatives'",
    ),
    (
        '{"query": "q", "positive": "p", "negatives": [null]}',
        "expected a text that is not blank under 'negatives'",
    ),
    (
        '{"query": "q", "positive": "p", "task": ""}',
        "expected a text that is not blank under 'task'",
    ),
    (
        '{"query": "q", "positive": "p", "title": 3}',
        "expected a text that is not blank under 'title'",
    ),
    (
        '{"query": "q", "positive": "p", "teacher_query": [1.0]}',
        "teacher_query is not read; let stage teach embed the texts",
    ),
    (
        '{"query": "q", "positive": "p", "negatives": ["n"], "teacher_negatives": ["k"]}',
        "teacher_negatives is not read",
    ),
]


@pytest.mark.parametrize(("line", "message"), BAD)
def test_a_bad_line_is_named_by_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    path = write_lines(tmp_path / "a.jsonl", [GOOD, "", line, GOOD])
    with pytest.raises(InputError, match=rf"a\.jsonl:3: {message}"):
        read_records([path])


def test_a_line_of_broken_bytes_is_named_too(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"query": "q", "positive": "p"}\n{"query": "\xff", "positive": "p"}\n')
    with pytest.raises(InputError, match=r"a\.jsonl:2: expected a JSON object, got invalid JSON"):
        read_records([path])


def test_bad_lines_can_be_skipped_and_are_listed(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [GOOD, *(line for line, _ in BAD), GOOD])
    records = read_records([path], skip_bad=True)
    assert [record.origin for record in records] == [f"{path}:1", f"{path}:{len(BAD) + 2}"]
    assert len(records.skipped) == len(BAD)
    assert records.skipped[0].startswith(f"{path}:2: expected a JSON object, got invalid JSON")


def test_a_check_of_the_callers_makes_bad_lines(tmp_path: Path) -> None:
    def check(record: Record) -> None:
        if record.query == "b":
            raise InputError(f"{record.origin}: no b")

    rows = [{"query": c, "positive": "p"} for c in "abc"]
    path = write_lines(tmp_path / "a.jsonl", rows)
    with pytest.raises(InputError, match=r"a\.jsonl:2: no b"):
        read_records([path], check=check)
    records = read_records([path], check=check, skip_bad=True)
    assert [record.query for record in records] == ["a", "c"]
    assert records.skipped == (f"{path}:2: no b",)


# --- files


def test_a_check_of_the_callers_makes_bad_lines_in_a_stream_too(tmp_path: Path) -> None:
    rows = [{"query": "a", "positive": "b"}, {"query": "c", "positive": "d"}]
    path = write_lines(tmp_path / "data.jsonl", rows)

    def check(record: Record) -> None:
        if record.query == "c":
            raise InputError(f"{record.origin}: no c")

    with pytest.raises(InputError, match=r"data\.jsonl:2: no c"):
        list(stream_records([path], check=check))
    skipped: list[str] = []
    found = stream_records([path], skip_bad=True, check=check, skipped=skipped)
    assert [row.value for _, row in found] == rows[:1]
    assert skipped == [f"{path}:2: no c"]


def test_gzip_is_read_with_its_line_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"query": "a", "positive": "p"}\n{"query": "b"}\n'))
    with pytest.raises(InputError, match=r"a\.jsonl\.gz:2: expected a text .* under 'positive'"):
        read_records([path])
    assert len(read_records([path], skip_bad=True)) == 1


def test_a_gzip_file_that_ends_early_or_is_damaged_is_refused_even_when_skipping(
    tmp_path: Path,
) -> None:
    rows = "".join(json.dumps({"query": f"{i * i}", "positive": "p"}) + "\n" for i in range(999))
    whole = gzip.compress(rows.encode())
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"a\.jsonl\.gz:\d+: cannot be read: "):
        read_records([path], skip_bad=True)
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + b"\xff" * 64 + whole[middle + 64 :])
    with pytest.raises(InputError, match=r"a\.jsonl\.gz:\d+: cannot be read: "):
        read_records([path], skip_bad=True)
    path.write_text(rows)
    with pytest.raises(InputError, match=r"a\.jsonl\.gz:1: cannot be read: [Nn]ot a gzipped file"):
        read_records([path])


def parquet(path: Path, columns: dict[str, list[Any]]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_rows_become_records(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "a.parquet",
        {
            "query": ["a", "b"],
            "positive": ["p", "r"],
            "negatives": [["n"], None],
            "title": [None, "T"],
            "day": [date(2024, 1, 2), None],
            "raw": [b"\xff", b"\x00"],
        },
    )
    assert list(read_records([path])) == [
        Record("a", "p", ("n",), origin=f"{path}:1"),
        Record("b", "r", title="T", origin=f"{path}:2"),
    ]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"query": ["a", "b"]}, r"a\.parquet:1: expected a text .* under 'positive'"),
        (
            {"query": ["a", None], "positive": ["p", "p"]},
            r"a\.parquet:2: expected a text .* under 'query'",
        ),
        (
            {"query": ["a", "b"], "positive": [b"p", b"\xff"]},
            r"a\.parquet: the column positive holds bytes, expected text, .* write the file",
        ),
        (
            {"query": ["a", "b"], "positive": ["p", "p"], "negatives": [["n"], [None]]},
            r"a\.parquet:2: expected a text .* under 'negatives'",
        ),
    ],
)
def test_a_bad_parquet_row_is_named_by_file_and_row(
    tmp_path: Path, columns: dict[str, list[Any]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read_records([parquet(tmp_path / "a.parquet", columns)])


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match=r"a\.parquet cannot be read as Parquet"):
        read_records([path])
    parquet(path, {"query": ["a" * 50] * 500, "positive": [str(i) for i in range(500)]})
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + b"\xff" * 400 + whole[404:])  # the footer is whole, a page is not
    with pytest.raises(
        InputError, match=r"a\.parquet: row 1, or one soon after it, cannot be read"
    ):
        read_records([path], skip_bad=True)


def test_a_folder_gives_its_training_files_in_order_and_nothing_else(tmp_path: Path) -> None:
    write_lines(tmp_path / "b.jsonl", [{"query": "b", "positive": "p"}])
    parquet(tmp_path / "a.parquet", {"query": ["a"], "positive": ["p"]})
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b'{"query": "c", "positive": "p"}\n'))
    (tmp_path / "README.md").write_text("no records")
    (tmp_path / "deeper.jsonl").mkdir()
    assert [record.query for record in read_records([tmp_path])] == ["a", "b", "c"]
    assert [f.name for f in data_files(tmp_path)] == ["a.parquet", "b.jsonl", "c.jsonl.gz"]


def test_several_paths_keep_their_order(tmp_path: Path) -> None:
    paths = [write_lines(tmp_path / f"{n}.jsonl", [{"query": n, "positive": "p"}]) for n in "zab"]
    records = read_records(paths)
    assert [(r.query, r.origin) for r in records] == [
        (n, f"{path}:1") for n, path in zip("zab", paths, strict=True)
    ]


def test_files_without_any_record_are_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", ["", " "])
    with pytest.raises(InputError, match=r"no usable record in .*a\.jsonl"):
        read_records([path])
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(InputError, match="no usable record"):
        read_records([tmp_path])
    write_lines(path, ["{"])
    with pytest.raises(InputError, match="no usable record"):
        read_records([path], skip_bad=True)


def test_paths_that_cannot_be_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"training data .*none\.jsonl does not exist"):
        read_records([tmp_path / "none.jsonl"])
    with pytest.raises(InputError, match=r"holds no file ending in \.jsonl, "):
        read_records([tmp_path])
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match=r"a\.txt: expected a file ending in \.jsonl, "):
        read_records([tmp_path / "a.txt"])
