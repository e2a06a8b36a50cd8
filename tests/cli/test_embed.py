from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from word_embedder import WordEmbedder

from culet import loading

Run = Callable[..., tuple[int, str, str]]


def test_embed_writes_vectors_in_the_order_of_the_lines(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("mars\n\nvenus\n")
    out = tmp_path / "out.npy"
    code, stdout, err = run("embed", tmp_path / "in.txt", "-o", out)
    assert (code, stdout) == (0, "")
    assert err == f"3 vectors of 64 numbers in {out}\n"
    assert np.array_equal(np.load(out), WordEmbedder().encode_document(["mars", "", "venus"]))


def test_embed_of_standard_input_replaces_an_earlier_result(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.npy"
    for text in ("mars\n", "venus\n"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert run("embed", "-", "-o", out)[0] == 0
    assert np.array_equal(np.load(out), WordEmbedder().encode_document(["venus"]))


def test_resume_with_nothing_to_go_on_with_begins(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    code, _, err = run("embed", "-t", "mars", "-o", out, "--resume")
    assert (code, err.splitlines()) == (
        0,
        [
            f"culet: there is nothing to resume in {out}.part; beginning",
            f"1 vector of 64 numbers in {out}",
        ],
    )
    assert np.load(out).shape == (1, 64)


def test_embed_reads_fields_titles_and_width(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"body": "mars", "head": "planets"}')
    out = tmp_path / "out.npy"
    options = ("--field", "body", "--titles-field", "head", "--truncate-to", 32)
    assert run("embed", tmp_path / "in.jsonl", "-o", out, *options)[0] == 0
    expected = WordEmbedder().encode_document(["mars"], titles=["planets"], truncate_to=32)
    assert np.array_equal(np.load(out), expected)


def test_embed_prints_json_lines_when_no_file_is_named(run: Run) -> None:
    code, out, _ = run("embed", "-t", "mars", "--text", "venus", "--task", "clustering")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [line["text"] for line in lines] == ["mars", "venus"]
    expected = WordEmbedder().encode_query(["mars", "venus"], task="clustering")
    assert np.array_equal(np.array([line["embedding"] for line in lines], np.float32), expected)


def test_a_missing_file_is_noticed_before_a_model_is_loaded(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_load(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(loading, "load", no_load)
    assert run("embed", "nowhere.txt")[0] == 2
    texts = tmp_path / "a.jsonl"
    texts.write_text('{"text": "mars"}')
    (tmp_path / "link.jsonl").symlink_to(texts)
    (tmp_path / "d.npy").mkdir()
    (tmp_path / "b.npy.part").write_bytes(b"kept")
    for out, message in {
        "a.jsonl": "a.jsonl is the input itself; give --out another name",
        "link.jsonl": "link.jsonl is the input itself",
        "d.npy": "d.npy: a folder of that name is there",
        "b.npy": "b.npy.part holds unreadable rows of an interrupted run",
        "none/b.npy": "the folder",
    }.items():
        code, _, err = run("embed", texts, "-o", tmp_path / out)
        assert (code, message in err) == (2, True), err
    assert texts.read_text() == '{"text": "mars"}'
    assert run("search", "nowhere", "x")[0] == 2


@pytest.mark.filterwarnings("default")
def test_a_cut_text_is_a_warning_in_one_line(run: Run) -> None:
    code, _, err = run("embed", "-t", "word " * 99)
    assert (code, err) == (0, "warning: 1 of 1 texts were cut\n")
    assert run("embed", "-q", "-t", "word " * 99)[2] == "warning: 1 of 1 texts were cut\n"


def test_bad_rows_are_left_out_when_asked_to_be(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "mars"}\n{"text": 3}\n{"text": "venus"}\n')
    code, _, err = run("embed", path)
    assert (code, "in.jsonl:2: expected a string" in err) == (2, True)
    code, out, err = run("embed", path, "--skip-bad", "-q")
    assert (code, [json.loads(line)["text"] for line in out.splitlines()]) == (0, ["mars", "venus"])
    assert err.startswith(f"left out: {path}:2: expected a string under 'text', got int")
