from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., tuple[int, str, str]]


def test_search_shows_where_and_how_near(run: Run, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "bread.md").write_text("# Bread\nhow to bake bread\n")
    (docs / "stars.md").write_text("# Stars\nvenus and mars\n")
    code, out, err = run("search", docs, "bake bread", "-k", 1)
    assert (code, err) == (0, "")
    first, title, line = out.splitlines()[:3]
    assert first.startswith(f" 1. {docs / 'bread.md'}:1-2  0.")
    assert (title, line) == ("    Bread", "    how to bake bread")
    assert "venus" not in out


def test_search_as_json_is_only_json(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("how to bake bread")
    (tmp_path / "b.bin").write_bytes(b"\0")
    code, out, err = run("search", tmp_path, "bread", "--json", "--no-cache")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert [hit["path"] for hit in found["hits"]] == ["a.txt"]
    assert found["fingerprint"] == "words"
    assert [item["path"] for item in found["skipped"]] == ["b.bin"]
    assert not (tmp_path / "cache").exists()


def test_search_says_what_was_left_out(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("how to bake bread")
    (tmp_path / "b.bin").write_bytes(b"\0")
    err = run("search", tmp_path, "bread")[2]
    assert err.startswith("left out 1: b.bin")


def test_several_folders_are_searched_at_once(run: Run, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(f"how to bake bread {name}")
    code, out, err = run("search", tmp_path / "one", tmp_path / "two", "bread two", "--top-k", 1)
    assert (code, err) == (0, "")
    assert out.startswith(f" 1. {tmp_path / 'two' / 'a.txt'}:1  0.")
    code, _, err = run("search", tmp_path / "one", tmp_path / "no", "bread")
    assert (code, err.startswith(f"culet: {tmp_path / 'no'} does not exist")) == (2, True)


def test_weak_hits_are_marked(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("how to bake bread")
    (tmp_path / "b.txt").write_text("venus and mars")
    out = run("search", tmp_path, "bake bread", "--weak-below", 0.3)[1]
    heads = [line for line in out.splitlines() if ".txt:" in line]
    assert [head.endswith(" weak") for head in heads] == [False, True]
    found = json.loads(run("search", tmp_path, "bake bread", "--json")[1])
    assert [hit["weak"] for hit in found["hits"]] == [False, True]
    assert found["weak_below"] == 0.3
