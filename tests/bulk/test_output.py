from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from culet.bulk.output import EmbeddingWriter
from culet.errors import InputError
from culet.files.texts import TextRow
from culet.files.vectors import json_lines

ROWS = [TextRow("one", "T", "1"), TextRow("two ä"), TextRow("")]
VECTORS = np.array([[0.1, -2.5e-7], [1 / 3, 0.0], [-1.0, 3.4e38]], dtype=np.float32)


SETTINGS = {"model": "0123", "precision": "float32"}
BOTH = ["a.npy", "a.jsonl"]  # that a run can go on with


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def vectors_in(path: Path) -> np.ndarray:
    """Return the vectors of a .npy or a JSONL, or of one that is not finished."""
    if path.name.removesuffix(".part").endswith(".npy"):
        return np.asarray(np.load(path, allow_pickle=False))
    lines = [json.loads(line)["embedding"] for line in path.read_text("utf-8").splitlines()]
    return np.array(lines, np.float32).reshape(-1, 2)


def write(path: Path, batches: list[int]) -> None:
    with EmbeddingWriter(path).begin(2) as writer:
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
    assert names(tmp_path) == ["a.npy"]


@pytest.mark.parametrize("num_rows", [9, 10, 99_999, 1_000_001])
def test_npy_header_keeps_its_length_as_the_rows_gain_digits(tmp_path: Path, num_rows: int) -> None:
    with EmbeddingWriter(tmp_path / "a.npy").begin(1) as writer:
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
    assert names(tmp_path) == [name]
    if name == "a.npy":
        assert np.load(tmp_path / name).shape == (0, 2)
    elif name == "a.jsonl":
        assert (tmp_path / name).read_bytes() == b""
    else:
        import pyarrow.parquet as parquet

        assert parquet.read_schema(tmp_path / name).field("embedding").type.list_size == 2


@pytest.mark.parametrize("name", ["a.npy", "a.jsonl", "a.parquet"])
def test_an_interrupted_file_never_has_the_final_name(tmp_path: Path, name: str) -> None:
    if name == "a.parquet":
        pytest.importorskip("pyarrow")
    writer = EmbeddingWriter(tmp_path / name).begin(2)

    def interrupted() -> None:
        with writer:
            writer.write(ROWS[:2], VECTORS[:2])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert writer.kept == tmp_path / f"{name}.part"
    assert writer.can_resume == (name != "a.parquet")
    assert names(tmp_path) == [f"{name}.part", f"{name}.part.json"]
    if name == "a.npy":
        assert np.array_equal(np.load(writer.kept), VECTORS[:2])
    elif name == "a.jsonl":
        assert len(writer.kept.read_text().splitlines()) == 2
    else:
        import pyarrow.parquet as parquet

        assert parquet.read_table(writer.kept).num_rows == 2


@pytest.mark.parametrize("name", BOTH)
def test_after_every_batch_the_file_is_valid_as_it_stands(tmp_path: Path, name: str) -> None:
    with EmbeddingWriter(tmp_path / name).begin(2, SETTINGS) as writer:
        for done in (1, 2, 3):
            writer.write(ROWS[done - 1 : done], VECTORS[done - 1 : done])
            assert np.array_equal(vectors_in(tmp_path / f"{name}.part"), VECTORS[:done])


@pytest.mark.parametrize("name", BOTH)
def test_what_a_broken_write_has_left_is_cut_off(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = EmbeddingWriter(tmp_path / name).begin(2)

    def fill_up() -> None:
        with writer:
            writer.write(ROWS[:2], VECTORS[:2])
            assert writer._raw is not None
            size = writer._raw.seek(0, os.SEEK_END)
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 3, hard))
            try:
                writer.write(ROWS[2:], VECTORS[2:])
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

    with pytest.raises(InputError, match=rf"cannot write .*{name}\.part: File too large"):
        fill_up()
    assert writer.num_rows == 2
    assert np.array_equal(vectors_in(tmp_path / f"{name}.part"), VECTORS[:2])
    assert np.array_equal(resumed(tmp_path / name), VECTORS)


def test_a_parquet_file_that_broke_off_is_not_kept(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    writer = EmbeddingWriter(tmp_path / "a.parquet").begin(2)

    def fill_up() -> None:
        with writer:
            writer.write(ROWS[:2], VECTORS[:2])
            assert writer._raw is not None
            writer._raw.close()  # nothing more can be written
            writer.write(ROWS[2:], VECTORS[2:])

    with pytest.raises(ValueError, match="closed file"):
        fill_up()
    assert (writer.kept, names(tmp_path)) == (None, [])


def test_a_failure_before_the_first_row_leaves_nothing(tmp_path: Path) -> None:
    writer = EmbeddingWriter(tmp_path / "a.npy").begin(2)
    with pytest.raises(ValueError, match="early"), writer:
        raise ValueError("early")
    assert writer.kept is None
    assert names(tmp_path) == []


# --- what an interrupted run has left ------------------------------------------------------------


def interrupted(path: Path, done: int = 2, **options: bool) -> None:
    """Write some rows, one a batch, and stop."""
    writer = EmbeddingWriter(path, **options).begin(2, SETTINGS)

    def stopped() -> None:
        with writer:
            for i in range(done):
                writer.write(ROWS[i : i + 1], VECTORS[i : i + 1])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()


def resumed(path: Path, settings: dict[str, str] | None = None) -> np.ndarray:
    """Write what is missing, and return the vectors of the file."""
    writer = EmbeddingWriter(path, resume=True).begin(2, settings or {})
    first = writer.num_rows
    rest = list(writer.rest(ROWS))
    assert rest == ROWS[first:]
    with writer:
        writer.write(rest, VECTORS[first:])
    return vectors_in(path)


@pytest.mark.parametrize("name", BOTH)
def test_a_run_goes_on_after_the_rows_of_an_interrupted_one(tmp_path: Path, name: str) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    write(whole / name, [1, 1, 1])
    for done in (0, 1, 2, 3):
        interrupted(tmp_path / name, done)
        assert np.array_equal(resumed(tmp_path / name, SETTINGS), VECTORS)
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
        assert names(tmp_path) == [name, "whole"]


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("half", [b"", b"half", b'{"id"'])
def test_a_killed_run_goes_on_after_what_it_has_noted(
    tmp_path: Path, name: str, half: bytes
) -> None:
    program = KILLED.format(path=str(tmp_path / name), half=half)
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGKILL
    assert names(tmp_path) == [f"{name}.part", f"{name}.part.json"]
    if name == "a.npy":
        assert np.array_equal(vectors_in(tmp_path / f"{name}.part"), VECTORS[:2])
    assert np.array_equal(resumed(tmp_path / name), VECTORS)


KILLED = """
import os, signal
import numpy as np
from culet.files.texts import TextRow
from culet.bulk.output import EmbeddingWriter
with EmbeddingWriter({path!r}).begin(2) as writer:
    writer.write([TextRow("one", "T", "1")], np.array([[0.1, -2.5e-7]], np.float32))
    writer.write([TextRow("two ä")], np.array([[1 / 3, 0.0]], np.float32))
    writer._raw.write({half!r})
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("name", BOTH)
def test_rows_of_an_interrupted_run_are_never_overwritten_unasked(
    tmp_path: Path, name: str
) -> None:
    interrupted(tmp_path / name)
    before = (tmp_path / f"{name}.part").read_bytes()
    message = (
        rf"{name}\.part holds 2 rows of an interrupted run; go on after them with --resume, begin "
        "anew with --overwrite, or move it away"
    )
    with pytest.raises(InputError, match=message):
        EmbeddingWriter(tmp_path / name)
    for options in ({"overwrite": True}, {"resume": True}):  # which fail before the first batch
        with (
            pytest.raises(ValueError, match="early"),
            EmbeddingWriter(tmp_path / name, **options).begin(2, SETTINGS),
        ):
            raise ValueError("early")
        assert (tmp_path / f"{name}.part").read_bytes() == before
    interrupted(tmp_path / name, 1, overwrite=True)
    assert np.array_equal(vectors_in(tmp_path / f"{name}.part"), VECTORS[:1])
    assert np.array_equal(resumed(tmp_path / name, SETTINGS), VECTORS)


def test_of_a_parquet_file_that_cannot_be_read_nothing_is_promised(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet.part").write_bytes(b"PAR1")
    message = (
        r"a\.parquet\.part holds unreadable rows of an interrupted run; begin anew with "
        "--overwrite, or move"
    )
    with pytest.raises(InputError, match=message):
        EmbeddingWriter(tmp_path / "a.parquet")
    with pytest.raises(InputError, match="rows cannot be added to a Parquet file; --resume takes"):
        EmbeddingWriter(tmp_path / "a.parquet", resume=True)
    with EmbeddingWriter(tmp_path / "a.parquet", overwrite=True).begin(2) as writer:
        writer.write(ROWS, VECTORS)
    assert names(tmp_path) == ["a.parquet"]


def test_going_on_with_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    interrupted(path)
    before = (tmp_path / "a.npy.part").read_bytes()

    def resume(
        width: int = 2, settings: dict[str, str] = SETTINGS, rows: list[TextRow] = ROWS
    ) -> None:
        EmbeddingWriter(path, resume=True).begin(width, settings).rest(rows)

    resume()
    start = r"a\.npy\.part cannot be resumed: "
    with pytest.raises(InputError, match=start + "its width is 2, and that of this run is 3; use"):
        resume(width=3)
    with pytest.raises(InputError, match=start + "its model is '0123', and that of .* is '4567'"):
        resume(settings=SETTINGS | {"model": "4567"})
    other = [ROWS[0], TextRow("another"), ROWS[2]]
    for rows in (other, ROWS[:1], [TextRow("one", None, "1"), *ROWS[1:]]):
        with pytest.raises(InputError, match=start + "its 2 rows do not belong to the first 2"):
            resume(rows=rows)
    with pytest.raises(InputError, match="--resume goes on and --overwrite begins anew; give one"):
        EmbeddingWriter(path, resume=True, overwrite=True)
    (tmp_path / "a.npy.part").write_bytes(before[:-1])
    with pytest.raises(InputError, match=start + "it is damaged, with 0 whole rows of 2"):
        resume()
    for damage in ("[]", "{}", "{"):
        (tmp_path / "a.npy.part.json").write_text(damage)
        with pytest.raises(InputError, match=start + r"a\.npy\.part\.json, the record of what it"):
            resume()


def test_two_runs_never_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    late = EmbeddingWriter(path).begin(2)
    message = r"a\.npy\.part is being written by another run; wait until it ends, or give another"
    with EmbeddingWriter(path).begin(2) as writer:
        writer.write(ROWS[:2], VECTORS[:2])
        for options in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(InputError, match=message):
                EmbeddingWriter(path, **options)
        with pytest.raises(InputError, match=message), late:  # begun before there was a file
            late.write(ROWS[:1], VECTORS[:1])
        writer.write(ROWS[2:], VECTORS[2:])
    assert np.array_equal(np.load(path), VECTORS)
    assert names(tmp_path) == ["a.npy"]


def test_an_older_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_text("old")
    with EmbeddingWriter(tmp_path / "a.npy").begin(2) as writer:
        writer.write(ROWS, VECTORS)
        assert (tmp_path / "a.npy").read_text() == "old"
    assert np.load(tmp_path / "a.npy").shape == (3, 2)


def test_names_that_cannot_be_written_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ends in \.npy, \.jsonl, \.parquet"):
        EmbeddingWriter(tmp_path / "a.txt")
    with pytest.raises(InputError, match=r"folder .*nowhere is missing"):
        EmbeddingWriter(tmp_path / "nowhere" / "a.npy")
    (tmp_path / "d.npy").mkdir()
    with pytest.raises(InputError, match=r"d\.npy: a folder of that name is there"):
        EmbeddingWriter(tmp_path / "d.npy")


def test_json_lines_of_one_row() -> None:
    assert list(json_lines(ROWS[:1], VECTORS[:1])) == [
        '{"id": "1", "title": "T", "text": "one", "embedding": [0.100000001,-2.49999999e-07]}\n'
    ]
