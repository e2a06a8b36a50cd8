from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from culet.files import fingerprint, remembered


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files of a few hundred bytes count as large, in a cache of each test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprint, "WORTH_BYTES", 100)
    monkeypatch.setattr(remembered, "WORTH_BYTES", 100)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of large files, each time one is hashed; all may be remembered at once."""
    names: list[str] = []
    real = hashlib.file_digest

    def counted(file: object, *rest: object) -> object:
        names.append(Path(file.name).name)  # type: ignore[attr-defined]
        return real(file, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(hashlib, "file_digest", counted)
    monkeypatch.setattr(remembered, "_SETTLED_SECONDS", 0)
    return names


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "npy", "safetensors", "gguf"])
@pytest.mark.parametrize("size", [80, 400])
def test_every_byte_of_every_file_counts(tmp_path: Path, suffix: str, size: int) -> None:
    path = tmp_path / f"file.{suffix}"
    found = set()
    for place in range(size):
        path.write_bytes(bytes(place) + b"1" + bytes(size - place - 1))
        found.add(fingerprint.of_files([path]))
    assert len(found) == size


def test_small_weights_and_data_keep_the_fingerprints_they_had(tmp_path: Path) -> None:
    small, data = tmp_path / "m.safetensors", tmp_path / "d.jsonl"
    small.write_bytes(b"x" * 100)
    data.write_bytes(b"x" * 500)
    for path, size in ((small, 100), (data, 500)):
        whole = hashlib.sha256(f"{path.name}:{size}\n".encode() + b"x" * size)
        assert fingerprint.of_files([path]) == whole.hexdigest()[:16]


def test_large_weights_are_read_once_while_they_are_unchanged(
    tmp_path: Path, read: list[str]
) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"x" * 500)
    first = fingerprint.of_files([path])
    assert fingerprint.of_files([path]) == first
    assert fingerprint.sha256(path) == hashlib.sha256(b"x" * 500).hexdigest()
    assert read == ["m.safetensors"]


def test_a_change_in_place_is_seen_though_size_and_time_are_put_back(
    tmp_path: Path, read: list[str]
) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"x" * 500)
    first, before = fingerprint.of_files([path]), path.stat()
    time.sleep(0.05)  # longer than the ticks that times of files are kept in
    with path.open("r+b") as file:
        file.seek(250)
        file.write(b"y")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert fingerprint.of_files([path]) != first
    assert len(read) == 2


def test_what_has_just_changed_is_not_remembered(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "_SETTLED_SECONDS", 60)
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"x" * 500)
    assert fingerprint.of_files([path]) == fingerprint.of_files([path])
    assert len(read) == 2


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"state": 1, "found": "00"}', "\0"])
def test_a_damaged_note_in_the_cache_is_made_again(
    tmp_path: Path, read: list[str], content: str
) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"x" * 500)
    first = fingerprint.of_files([path])
    (note,) = (tmp_path / "cache" / "culet" / "files").iterdir()
    note.write_text(content)
    assert fingerprint.of_files([path]) == fingerprint.of_files([path]) == first
    assert len(read) == 2


def test_without_a_cache_the_file_is_read_each_time(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"x" * 500)
    assert fingerprint.of_files([path]) == fingerprint.of_files([path])
    assert len(read) == 2
