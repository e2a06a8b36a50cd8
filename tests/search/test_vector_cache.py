from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from culet.files.fingerprint import of_texts
from culet.search.vector_cache import cache_folder, cache_path, with_cache

TEXTS = ["a", "bb", "ccc", "bb"]
KEYS = [of_texts(text) for text in TEXTS]


class Lengths:
    """Encodes a text as its length, one at a time, and remembers what it was asked for."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.asked: list[int] = []
        self.fail_after = fail_after

    def __call__(self, places: list[int]) -> Iterator[np.ndarray]:
        for place in places:
            if len(self.asked) == self.fail_after:
                raise KeyboardInterrupt
            self.asked.append(place)
            yield np.full((1, 2), len(TEXTS[place]), dtype=np.float32)


def run(path: Path | None, encode: Lengths, keys: list[bytes] = KEYS) -> tuple[list[float], int]:
    def no_report(text: str) -> None:
        raise AssertionError(text)

    vectors, encoded = with_cache(path, keys, encode, dim=2, report=no_report)
    return vectors[:, 0].tolist(), encoded


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "cache.npz"


def test_without_a_file_equal_texts_are_still_encoded_once() -> None:
    encode = Lengths()
    assert run(None, encode) == ([1, 2, 3, 2], 3)
    assert encode.asked == [0, 1, 2]


def test_what_was_encoded_is_found_again(path: Path) -> None:
    run(path, Lengths())
    encode = Lengths()
    assert run(path, encode) == ([1, 2, 3, 2], 0)
    assert encode.asked == []


def test_an_interrupted_job_keeps_what_was_done(path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(path, Lengths(fail_after=2))
    encode = Lengths()
    assert run(path, encode) == ([1, 2, 3, 2], 1)
    assert encode.asked == [2]


def test_vectors_of_texts_that_are_gone_are_dropped(path: Path) -> None:
    run(path, Lengths())
    run(path, Lengths(), KEYS[:1])
    with np.load(path) as file:
        assert file["vectors"].tolist() == [[1, 1]]


@pytest.mark.parametrize("damage", ["cut", "flip", "text", "shape", "nan"])
def test_a_damaged_file_is_reported_ignored_and_replaced(path: Path, damage: str) -> None:
    run(path, Lengths())
    raw = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(raw[: len(raw) // 2])
    elif damage == "flip":
        place = raw.index(np.full(2, 3, np.float32).tobytes())
        raw[place] ^= 1
        path.write_bytes(raw)
    elif damage == "text":
        path.write_text("not an archive")
    elif damage == "shape":
        np.savez(path, keys=np.zeros((1, 16), np.uint8), vectors=np.zeros((1, 5), np.float32))
    else:
        keys = np.frombuffer(KEYS[0], np.uint8)[None]
        np.savez(path, keys=keys, vectors=np.full((1, 2), np.nan, np.float32))
    reported: list[str] = []
    vectors, encoded = with_cache(path, KEYS, Lengths(), dim=2, report=reported.append)
    assert (vectors[:, 0].tolist(), encoded) == ([1, 2, 3, 2], 3)
    assert len(reported) == 1
    assert "damaged and were ignored" in reported[0]
    assert run(path, Lengths())[1] == 0


def test_a_folder_that_cannot_be_written_is_reported_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    reported: list[str] = []
    vectors, _ = with_cache(
        tmp_path / "file" / "c.npz", KEYS, Lengths(), dim=2, report=reported.append
    )
    assert vectors[:, 0].tolist() == [1, 2, 3, 2]
    assert len(reported) == 1
    assert "not kept for the next search" in reported[0]


def test_the_place_depends_on_model_and_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "culet"
    models = [
        SimpleNamespace(fingerprint=fingerprint, backend=backend, precision=precision)
        for fingerprint in "ab"
        for backend in ("openvino", "torch")
        for precision in ("float32", "int4")
    ]
    places = {cache_path(model, tmp_path / corpus) for model in models for corpus in "xy"}
    assert len(places) == 16
    same = cache_path(models[0], tmp_path / "z" / ".." / "x")
    assert cache_path(models[0], tmp_path / "x") == same
    undecodable = Path(os.fsdecode(b"caf\xe9"))
    assert cache_path(models[0], tmp_path / undecodable).parent == same.parent


def _search_again_and_again(path: Path, first: int, complaints: Connection) -> None:
    for count in range(40):
        keys = [of_texts(f"{first} {count} {i}") for i in range(300)]
        encode = lambda places: [np.ones((len(places), 64), np.float32)]  # noqa: E731
        with_cache(path, keys, encode, dim=64, report=complaints.send)
    complaints.close()


def test_searches_at_the_same_time_leave_a_whole_file(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    running, heard = [], []
    for first in range(3):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_search_again_and_again, args=(path, first, theirs))
        process.start()
        theirs.close()
        running.append((process, ours))
    for process, ours in running:
        with suppress(EOFError):
            while True:
                heard.append(ours.recv())
        process.join()
        assert process.exitcode == 0
    assert heard == []
    assert [file.name for file in path.parent.iterdir()] == ["cache.npz"]


def test_the_cache_folder_follows_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_folder() == tmp_path / ".cache" / "culet"
