from __future__ import annotations

import gzip
import io
import json
import random
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from culet.errors import InputError
from culet.files.rows import json_rows
from culet.files.texts import TextRow, count_texts, read_texts


def texts(path: str | Path, **options: str) -> list[str]:
    return [row.text for row in read_texts(path, **options)]


def written(path: Path, content: str | bytes) -> Path:
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_plain_text_is_one_text_a_line_and_blank_lines_count(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, "\ufeffone\r\n\ntwo\u2028still two\n")
    assert texts(path) == ["one", "", "two\u2028still two"]


def test_standard_input_is_read_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"one\ntwo")))
    assert texts("-") == ["one", "two"]
    assert count_texts("-") is None


def test_a_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", b"one\nzw\xf6lf\n")
    with pytest.raises(InputError, match=r"a\.txt:2: not UTF-8"):
        texts(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.ndjson"])
def test_json_lines_give_text_title_and_id(tmp_path: Path, name: str) -> None:
    lines = [{"body": "one", "head": "T", "id": 7}, {"body": "two", "head": None}]
    path = written(tmp_path / name, "\n\n".join(map(json.dumps, lines)))
    assert list(read_texts(path, field="body", titles_field="head")) == [
        TextRow("one", "T", "7"),
        TextRow("two"),
    ]


def test_titles_are_read_only_when_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", '{"text": "one", "title": "T"}')
    assert list(read_texts(path)) == [TextRow("one")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"a\.jsonl:2: expected a JSON object, got invalid JSON"),
        ("[1]", r"a\.jsonl:2: expected a JSON object, got \[1\]"),
        ('{"body": "x"}', r"a\.jsonl:2: there is no field 'text'; there are 'body'"),
        ('{"text": 3}', r"a\.jsonl:2: expected a string under 'text', got int"),
    ],
)
def test_a_bad_json_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = written(tmp_path / "a.jsonl", '{"text": "one"}\n' + line)
    with pytest.raises(InputError, match=message):
        texts(path)


def test_bad_json_lines_can_be_handled_one_by_one(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", b'{"a": 1}\n{\n\xff\n\n{"a": 2}\n')
    good, bad = [], []
    for raw in json_rows(path):
        try:
            good.append((raw.line, raw.parsed().value))
        except InputError:
            bad.append(raw.origin)
    assert good == [(1, {"a": 1}), (5, {"a": 2})]
    assert bad == [f"{path}:2", f"{path}:3"]


def test_csv_reads_quoted_texts_over_several_lines(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", '\ufefftext,title\n"one,\ntwo",T\nthree,\n')
    assert list(read_texts(path, titles_field="title")) == [
        TextRow("one,\ntwo", "T"),
        TextRow("three", ""),
    ]


def test_tsv_is_divided_at_tabs(tmp_path: Path) -> None:
    assert texts(written(tmp_path / "a.tsv", "id\ttext\n1\tone, two\n")) == ["one, two"]


def test_a_quote_in_a_tsv_is_only_a_quote(tmp_path: Path) -> None:
    table = 'id\ttext\r\n1\t"To be\r\n\r\n2\tor not to be"\n3\t"a ""b"" c"\n4\t\n'
    path = written(tmp_path / "a.tsv", table)
    assert list(read_texts(path)) == [
        TextRow('"To be', id="1"),
        TextRow('or not to be"', id="2"),
        TextRow('"a ""b"" c"', id="3"),
        TextRow("", id="4"),
    ]


def test_a_tsv_row_of_another_width_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tsv", 'id\ttext\n1\t"one\ttwo"\n')
    with pytest.raises(InputError, match=r"a\.tsv:2: .* header \(2\); a text in a TSV has no tabs"):
        texts(path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "text,id,text\none,1,two\n", "a.csv:1: the header names the column 'text' twice"),
        ("a.tsv", "text\ttext\none\ttwo\n", "a.tsv:1: the header names the column 'text' twice"),
        ("a.jsonl", '{"text": "one", "text": "two"}', "a.jsonl:1: .* an object has 'text' twice"),
        ("a.jsonl", '{"text": "one", "x": [{"y": 1, "y": 1}]}', "an object has 'y' twice"),
        ("a.jsonl", '{"text": "one", "te\\u0078t": "two"}', "an object has 'text' twice"),
    ],
)
def test_a_name_that_is_there_twice_is_refused(
    tmp_path: Path, name: str, content: str, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        texts(written(tmp_path / name, content))


def test_a_column_that_a_parquet_has_twice_is_refused(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.Table.from_arrays([arrow.array(["a"]), arrow.array(["b"])], ["text", "text"])
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet has the column 'text' twice; rename one"):
        texts(tmp_path / "a.parquet")


def test_csv_rows_of_another_width_are_named(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "id,text\n1,one\n2,two, three\n")
    with pytest.raises(InputError, match=r"a\.csv:3: .* another number of columns .* \(2\)"):
        texts(path)


def test_csv_without_the_column_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no field 'text'; there are 'id', 'body'"):
        texts(written(tmp_path / "a.csv", "id,body\n1,one\n"))


def test_an_empty_csv_has_no_texts(tmp_path: Path) -> None:
    assert texts(written(tmp_path / "a.csv", "")) == []


def test_parquet_gives_text_title_and_id(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    columns = {"id": [1, 2], "text": ["one", "two"], "title": ["T", None], "other": [0, 0]}
    parquet.write_table(arrow.table(columns), path)
    assert list(read_texts(path, titles_field="title")) == [
        TextRow("one", "T", "1"),
        TextRow("two", None, "2"),
    ]
    assert count_texts(path) == 2
    with pytest.raises(
        InputError, match="no field 'body'; there are 'id', 'text', 'title', 'other'"
    ):
        texts(path, field="body")


def test_a_damaged_parquet_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(InputError, match=r"a\.parquet cannot be read as Parquet"):
        texts(written(tmp_path / "a.parquet", "nothing"))


def test_a_damaged_gzip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"one\n" * 1000)[:-20])
    with pytest.raises(InputError, match=r"a\.txt\.gz:\d+: cannot be read: Compressed file ended"):
        texts(path)


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv"])
def test_a_gzip_damaged_in_its_middle_names_a_line(tmp_path: Path, kind: str) -> None:
    line = b'{"text": "one"}\n' if kind == "jsonl" else b"text\n"
    packer = zlib.compressobj(wbits=31)
    whole = packer.compress(line * 9000) + packer.flush(zlib.Z_FULL_FLUSH)
    path = tmp_path / f"a.{kind}.gz"
    path.write_bytes(whole + b"\xff" * 50)  # there is no block of that kind
    with pytest.raises(InputError, match=rf"a\.{kind}\.gz:\d+: cannot be read: Error -3"):
        texts(path)


@pytest.mark.parametrize("kind", ["csv", "tsv"])
@pytest.mark.parametrize(
    ("raw", "line"),
    [
        ("größe,text\n1,one\n".encode("latin-1"), 1),
        (b"text\none\ntw\xf6\n", 3),
    ],
    ids=["latin-1 header", "latin-1 row"],
)
def test_a_table_that_is_not_utf8_names_the_line(
    tmp_path: Path, kind: str, raw: bytes, line: int
) -> None:
    path = written(tmp_path / f"a.{kind}", raw)
    with pytest.raises(InputError, match=rf"a\.{kind}:{line}: not UTF-8 .* convert it to UTF-8"):
        texts(path)


def test_a_line_nested_too_deeply_is_named(tmp_path: Path) -> None:
    deep = '{"text": ' + "[" * 200_000 + "]" * 200_000 + "}"
    path = written(tmp_path / "a.jsonl", '{"text": "one"}\n' + deep)
    with pytest.raises(InputError, match=r"a\.jsonl:2: expected a JSON object, .* recursion"):
        texts(path)


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"text": "ab\ud83d"}, "text"),
        ({"text": "ab", "head": "ab\ud83d"}, "head"),
        ({"text": "ab", "head": None, "id": "ab\ud83d"}, "id"),
    ],
)
def test_half_a_character_is_named(tmp_path: Path, row: dict[str, str], field: str) -> None:
    lines = [{"text": "one", "head": "\U0001f48e"}, {"head": None} | row]
    path = written(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)))
    message = rf"a\.jsonl:2: the field '{field}' is not valid Unicode: a lone .* at character 2;"
    with pytest.raises(InputError, match=message):
        list(read_texts(path, titles_field="head"))


def test_a_damaged_page_of_a_parquet_names_a_row(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    rows = {"text": [str(random.Random(n).random()) for n in range(4000)]}
    options = {"compression": "zstd", "use_dictionary": False, "row_group_size": 2000}
    parquet.write_table(arrow.table(rows), path, **options)
    start = parquet.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    raw = bytearray(path.read_bytes())
    raw[start + 60 : start + 2000] = bytes(1940)
    path.write_bytes(raw)
    message = r"a\.parquet: row \d+, or one soon after it, cannot be read: "
    with pytest.raises(InputError, match=message):
        texts(path)


def test_a_parquet_whose_text_is_not_utf8_names_a_row(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    column = arrow.array([b"one", b"tw\xf6"]).view(arrow.string())
    parquet.write_table(arrow.table({"text": column}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet: row 1, or one soon after it, .*utf-8"):
        texts(tmp_path / "a.parquet")


def test_unknown_kinds_and_missing_files_say_what_is_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read \.pdf; expected one of \.txt, \.jsonl"):
        texts(written(tmp_path / "a.pdf", "x"))
    with pytest.raises(InputError, match="is not a file"):
        texts(tmp_path / "b.txt")


@pytest.mark.parametrize(
    ("name", "content", "count"),
    [
        ("a.txt", "one\n\ntwo", 3),
        ("a.jsonl", '{"text": "a"}\n\n{"text": "b"}\n', 2),
        ("a.csv", "text\none\n", None),
        ("a.txt.gz", "one\n", None),
    ],
)
def test_counting_agrees_with_reading(
    tmp_path: Path, name: str, content: str, count: int | None
) -> None:
    path = written(tmp_path / name, content)
    assert count_texts(path) == count
    assert count is None or len(texts(path)) == count


def test_reading_is_a_stream(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", '{"text": "one"}\nbroken\n')
    rows = read_texts(path)
    assert next(iter(rows)) == TextRow("one")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl", "a.txt.gz", "-"])
def test_utf16_with_a_byte_order_mark_is_read_as_utf8_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, name: str
) -> None:
    wanted = ["naïve → 𝄞", "\u0a0a ਊ", "three"]
    lines = wanted if "txt" in name or name == "-" else ["text", *wanted]
    if name == "a.jsonl":
        lines = [json.dumps({"text": text}, ensure_ascii=False) for text in wanted]
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    raw = (mark + "\r\n".join(lines) + "\r\n").encode(encoding)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(raw)))
    assert texts(name if name == "-" else written(tmp_path / name, raw)) == wanted


def test_utf16_that_is_cut_off_or_utf32_is_named(tmp_path: Path) -> None:
    for raw in ("one\ntwo".encode("utf-16")[:-1], "one".encode("utf-32")):
        with pytest.raises(InputError, match=r"a\.txt"):
            texts(written(tmp_path / "a.txt", raw))


def test_a_null_is_what_an_empty_cell_is(tmp_path: Path) -> None:
    rows = '{"text": null, "title": null}\n{"text": "", "title": ""}\n'
    empty = list(read_texts(written(tmp_path / "a.csv", "text,title\n,\n"), titles_field="title"))
    found = list(read_texts(written(tmp_path / "a.jsonl", rows), titles_field="title"))
    assert [row.text for row in (*empty, *found)] == ["", "", ""]
    assert not any(row.title for row in (*empty, *found))
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow").table({"text": ["a", None]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet") == ["a", ""]


@pytest.mark.parametrize(
    ("name", "raw", "left"),
    [
        ("a.txt", b"one\n\xff\ntwo\n", ["a.txt:2: not UTF-8"]),
        ("a.csv", b"text,x\none,\nbad\ntwo,\n", ["a.csv:3: this row has another number"]),
        ("a.tsv", b"text\tx\none\t\nbad\ntwo\t\n", ["a.tsv:3: this row has another number"]),
        (
            "a.jsonl",
            b'{"text": "one"}\n{\n{"a": 1}\n{"text": 3}\n{"text": "\\ud800"}\n{"text": "two"}\n',
            [
                "a.jsonl:2: expected a JSON object",
                "a.jsonl:3: there is no field 'text'",
                "a.jsonl:4: expected a string",
                "a.jsonl:5: the field 'text' is not valid Unicode",
            ],
        ),
    ],
)
def test_bad_rows_can_be_left_out_each_with_its_reason(
    tmp_path: Path, name: str, raw: bytes, left: list[str]
) -> None:
    path, errors = written(tmp_path / name, raw), []
    assert [row.text for row in read_texts(path, on_bad=errors.append)] == ["one", "two"]
    for error, start in zip(errors, left, strict=True):
        assert str(error).startswith(f"{tmp_path}/{start}")
