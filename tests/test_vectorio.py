from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from word_embedder import WordEmbedder

from culet import vectorio
from culet.errors import InputError
from culet.textio import TextRow
from culet.vectorio import EmbeddingWriter, embed_rows, json_lines

ROWS = [TextRow("one", "T", "1"), TextRow("two ä"), TextRow("")]
VECTORS = np.array([[0.1, -2.5e-7], [1 / 3, 0.0], [-1.0, 3.4e38]], dtype=np.float32)


def write(path: Path, batches: list[int]) -> None:
    with EmbeddingWriter(path) as writer:
        start = 0
        for size in batches:
            writer.write(ROWS[start : start + size], VECTORS[start : start + size])
            start += size
        assert writer.num_rows == start


def test_npy_written_in_batches_loads_as_one_array(tmp_path: Path) -> None:
    write(tmp_path / "a.npy", [2, 1])
    loaded = np.load(tmp_path / "a.npy", allow_pickle=False)
    assert loaded.dtype == np.float32
    assert np.array_equal(loaded, VECTORS)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


@pytest.mark.parametrize("num_rows", [9, 10, 99_999, 1_000_001])
def test_npy_header_keeps_its_length_as_the_rows_gain_digits(tmp_path: Path, num_rows: int) -> None:
    with EmbeddingWriter(tmp_path / "a.npy") as writer:
        writer.write([], np.zeros((num_rows, 1), dtype=np.float32))
    assert np.load(tmp_path / "a.npy").shape == (num_rows, 1)
    assert (tmp_path / "a.npy").stat().st_size == 128 + 4 * num_rows


def test_json_numbers_give_the_same_float32_back(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [1, 2])
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text("utf-8").splitlines()]
    assert np.array_equal(np.array([line.pop("embedding") for line in lines], np.float32), VECTORS)
    assert lines == [{"id": "1", "title": "T", "text": "one"}, {"text": "two ä"}, {"text": ""}]


def test_parquet_holds_texts_and_vectors(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write(tmp_path / "a.parquet", [1, 2])
    table = parquet.read_table(tmp_path / "a.parquet")
    assert table.column_names == ["id", "title", "text", "embedding"]
    assert table["text"].to_pylist() == ["one", "two ä", ""]
    assert np.array_equal(np.array(table["embedding"].to_pylist(), np.float32), VECTORS)


@pytest.mark.parametrize("name", ["a.npy", "a.jsonl", "a.parquet"])
def test_no_rows_still_make_a_valid_file(tmp_path: Path, name: str) -> None:
    if name == "a.parquet":
        pytest.importorskip("pyarrow")
    write(tmp_path / name, [])
    assert (tmp_path / name).is_file()
    if name == "a.npy":
        assert np.load(tmp_path / name).shape == (0, 0)


@pytest.mark.parametrize("name", ["a.npy", "a.jsonl", "a.parquet"])
def test_an_interrupted_file_never_has_the_final_name(tmp_path: Path, name: str) -> None:
    if name == "a.parquet":
        pytest.importorskip("pyarrow")
    writer = EmbeddingWriter(tmp_path / name)

    def interrupted() -> None:
        with writer:
            writer.write(ROWS[:2], VECTORS[:2])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert writer.kept == tmp_path / f"{name}.part"
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.part"]
    if name == "a.npy":
        assert np.array_equal(np.load(writer.kept), VECTORS[:2])
    elif name == "a.jsonl":
        assert len(writer.kept.read_text().splitlines()) == 2
    else:
        import pyarrow.parquet as parquet

        assert parquet.read_table(writer.kept).num_rows == 2


def test_npy_drops_the_rest_of_a_row_that_was_not_finished(tmp_path: Path) -> None:
    with EmbeddingWriter(tmp_path / "a.npy") as writer:
        writer.write(ROWS, VECTORS)
        writer._file._file.write(b"half")  # type: ignore[attr-defined]
    assert np.array_equal(np.load(tmp_path / "a.npy"), VECTORS)


def test_a_failure_before_the_first_row_leaves_nothing(tmp_path: Path) -> None:
    writer = EmbeddingWriter(tmp_path / "a.npy")
    with pytest.raises(ValueError, match="early"), writer:
        raise ValueError("early")
    assert writer.kept is None
    assert list(tmp_path.iterdir()) == []


def test_an_older_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_text("old")
    with EmbeddingWriter(tmp_path / "a.npy") as writer:
        writer.write(ROWS, VECTORS)
        assert (tmp_path / "a.npy").read_text() == "old"
    assert np.load(tmp_path / "a.npy").shape == (3, 2)


def test_names_that_cannot_be_written_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ends in \.npy, \.jsonl, \.parquet"):
        EmbeddingWriter(tmp_path / "a.txt")
    with pytest.raises(InputError, match=r"folder .*nowhere is missing"):
        EmbeddingWriter(tmp_path / "nowhere" / "a.npy")


def test_rows_are_embedded_in_order_across_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectorio, "BATCH_TEXTS", 2)
    embedder = WordEmbedder()
    rows = [TextRow(text) for text in ("a", "b b", "c", "d", "e")]
    seen: list[str] = []
    parts: list[np.ndarray] = []

    def take(batch: list[TextRow], embedding: np.ndarray) -> None:
        seen.extend(row.text for row in batch)
        parts.append(embedding)

    assert embed_rows(embedder, rows, take, progress=False) == 5  # type: ignore[arg-type]
    assert seen == ["a", "b b", "c", "d", "e"]
    expected = embedder.encode_document([row.text for row in rows])
    assert np.array_equal(np.concatenate(parts), expected)


def test_side_task_titles_and_width_reach_the_embedder() -> None:
    embedder = WordEmbedder()
    got: list[np.ndarray] = []
    rows = [TextRow("mars", "planets")]
    for side in ("query", "document"):
        embed_rows(
            embedder,  # type: ignore[arg-type]
            rows,
            lambda _, embedding: got.append(embedding),
            side=side,
            task="clustering",
            truncate_to=32,
            progress=False,
        )
    assert np.array_equal(
        got[0], embedder.encode_query(["mars"], task="clustering", truncate_to=32)
    )
    assert np.array_equal(
        got[1], embedder.encode_document(["mars"], titles=["planets"], truncate_to=32)
    )
    assert got[0].shape == (1, 32)


def test_an_error_in_a_later_batch_says_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectorio, "BATCH_TEXTS", 2)
    rows = [TextRow("a"), TextRow("b"), TextRow("c"), TextRow("word " * 99)]
    with pytest.raises(InputError, match="text 3 has 99 words"):
        embed_rows(
            WordEmbedder(),  # type: ignore[arg-type]
            rows,
            lambda *_: None,
            on_long="error",
            progress=False,
        )


def test_cut_texts_are_reported_with_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectorio, "BATCH_TEXTS", 2)
    rows = [TextRow("a"), TextRow("b"), TextRow("word " * 99)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        embed_rows(WordEmbedder(), rows, lambda *_: None, progress=False)  # type: ignore[arg-type]
    assert [str(warning.message) for warning in caught] == ["1 of 1 texts were cut"]


def test_cut_texts_are_reported_beside_the_bar(capsys: pytest.CaptureFixture[str]) -> None:
    embed_rows(WordEmbedder(), [TextRow("word " * 99)], lambda *_: None)  # type: ignore[arg-type]
    assert capsys.readouterr().err == "warning: 1 of 1 texts were cut\n"


def test_json_lines_of_one_row() -> None:
    assert list(json_lines(ROWS[:1], VECTORS[:1])) == [
        '{"id": "1", "title": "T", "text": "one", "embedding": [0.100000001,-2.49999999e-07]}\n'
    ]
