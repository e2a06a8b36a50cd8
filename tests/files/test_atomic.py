from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from culet.errors import InputError
from culet.files import atomic
from culet.files.atomic import locked, new_file, new_folder, take, write_json


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_folder(path: Path, **files: str) -> None:
    with new_folder(path) as aside:
        for name, text in files.items():
            (aside / name).write_text(text)


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "x.json"
    with new_file(path) as aside:
        aside.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert names(path.parent) == ["x.json"]


def test_an_error_inside_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    def fail() -> None:
        with new_file(path) as aside:
            aside.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_takes_the_place_of_the_older_one_as_a_whole(
    tmp_path: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:  # a system without a one-step exchange
        monkeypatch.setattr(atomic.ctypes, "CDLL", lambda name: object())
    path = tmp_path / "m"
    write_folder(path, a="1", b="2")
    write_folder(path, a="3")
    assert names(path) == ["a"]
    assert (path / "a").read_text() == "3"
    assert names(tmp_path) == ["m"]


def test_an_error_inside_leaves_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "m"
    write_folder(path, a="old")

    def fail() -> None:
        with new_folder(path) as aside:
            (aside / "a").write_text("half")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert (path / "a").read_text() == "old"
    assert names(tmp_path) == ["m"]


def test_a_failed_second_rename_puts_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m"
    write_folder(path, a="old")
    monkeypatch.setattr(atomic.ctypes, "CDLL", lambda name: object())
    rename = os.replace

    def failing(source: Path, target: Path) -> None:
        if source.name == ".m.partial":
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(atomic.os, "replace", failing)
    with pytest.raises(InputError, match=r"cannot write .*m: No space left on device"):
        write_folder(path, a="new")
    assert (path / "a").read_text() == "old"
    assert names(tmp_path) == ["m"]


def test_content_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    monkeypatch.setattr(atomic, "_sync", lambda path: synced.append((path.name, names(tmp_path))))
    with new_file(tmp_path / "f") as aside:
        aside.write_text("x")
    assert synced == [(".f.partial", [".f.partial"]), (tmp_path.name, ["f"])]
    synced.clear()
    (tmp_path / "f").unlink()
    write_folder(tmp_path / "m", a="x")
    before = [".m.partial"]
    assert synced == [("a", before), (".m.partial", before), (tmp_path.name, ["m"])]


KILLED = """
import os, signal, sys
from pathlib import Path
from culet.files.atomic import locked, new_file, new_folder, take
path = Path(sys.argv[1])
with (new_folder if sys.argv[2] == "folder" else new_file)(path) as aside:
    (aside / "a" if sys.argv[2] == "folder" else aside).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_kill_9_leaves_the_old_content_and_the_next_write_tidies_up(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "m"
    content = path / "a" if kind == "folder" else path

    def write(text: str) -> None:
        if kind == "folder":
            write_folder(path, a=text)
        else:
            with new_file(path) as aside:
                aside.write_text(text)

    write("old")
    killed = subprocess.run([sys.executable, "-c", KILLED, path, kind], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert content.read_text() == "old"
    assert names(tmp_path) == [".m.partial", "m"]
    write("new")
    assert content.read_text() == "new"
    assert names(tmp_path) == ["m"]


def test_a_place_that_cannot_be_written_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    inside = tmp_path / "file" / "x"  # root may write into any folder, but not into a file
    for write in (new_file, new_folder):
        with pytest.raises(InputError, match=f"cannot create {tmp_path / 'file'}"), write(inside):
            pass


def test_a_full_disk_is_an_input_error(tmp_path: Path) -> None:
    def fail() -> None:
        with new_file(tmp_path / "x"):
            raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"cannot write .*x: No space left on device"):
        fail()
    assert names(tmp_path) == []


def test_a_folder_never_takes_the_place_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_text("precious")
    with pytest.raises(InputError, match="a file of that name is there"):
        write_folder(path, a="1")
    assert path.read_text() == "precious"


def test_what_a_killed_writer_left_goes_once_it_is_old(tmp_path: Path) -> None:
    old, young = tmp_path / ".f.123.partial", tmp_path / ".f.456.partial"
    for path in (old, young):
        path.write_text("half")
    os.utime(old, (1, 1))
    with new_file(tmp_path / "f", together=True) as aside:
        aside.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".f.456.partial", "f"]


def test_threads_that_write_one_file_at_once_write_aside_each_for_itself(tmp_path: Path) -> None:
    both_are_open = threading.Barrier(2)

    def write(text: str) -> None:
        with new_file(tmp_path / "f", together=True) as aside, aside.open("w") as file:
            file.write(text)
            both_are_open.wait(timeout=60)

    texts = ["a" * 100_000, "b" * 200_000]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, texts))
    assert names(tmp_path) == ["f"]
    assert (tmp_path / "f").read_text() in texts


def test_a_folder_made_for_a_lock_goes_with_it_and_an_older_one_stays(tmp_path: Path) -> None:
    (tmp_path / "older").mkdir()
    for name in ("older", "deep/new", "filled"):
        with locked(tmp_path / name, what="a run"):
            if name == "filled":
                (tmp_path / name / "file").touch()
    assert names(tmp_path) == ["deep", "filled", "older"]
    assert names(tmp_path / "deep") == []


@pytest.mark.parametrize("change", ["renamed", "replaced", "removed"])
def test_what_has_lost_its_name_since_it_was_opened_is_not_taken(
    tmp_path: Path, change: str
) -> None:
    path = tmp_path / "vectors"
    with path.open("x") as file:
        if change == "renamed":
            path.rename(tmp_path / "whole")
        elif change == "replaced":
            (tmp_path / "other").touch()
            (tmp_path / "other").replace(path)
        else:
            path.unlink()
        assert not take(file.fileno(), path)


def test_where_the_system_has_no_locks_work_goes_on_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with locked(tmp_path, what="a run"):
        with pytest.raises(InputError, match="is in use by a run of another process"):
            locked(tmp_path, what="a run").__enter__()
        monkeypatch.setitem(sys.modules, "fcntl", None)
        with locked(tmp_path, what="a run"):
            pass
    assert tmp_path.is_dir()


def test_json_is_whole_readable_and_keeps_half_a_surrogate_pair(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    write_json(path, {"größe": [1, "\ud83d"]})
    assert path.read_text(encoding="utf-8") == '{\n  "größe": [\n    1,\n    "\\ud83d"\n  ]\n}\n'
    assert json.loads(path.read_text(encoding="utf-8")) == {"größe": [1, "\ud83d"]}
    with pytest.raises(TypeError):
        write_json(path, {"a": object()}, together=True)
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]
