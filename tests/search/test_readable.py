from __future__ import annotations

import json
from pathlib import Path

import pytest

from culet.search.documents import read_corpora, read_corpus

PAGE = """<!DOCTYPE html>
<html><head><title>T</title><style>p { color: red }</style>
<script>var hidden = "<p>no</p>";</script></head>
<body class="x">
<h1>Gems &amp;
 stones</h1>
<p>A <b>cut</b> gem
is bright.<br>A new line &lt;b&gt; stays.</p>
<noscript>no</noscript>
<ul><li>ruby</li><li>opal</li></ul>
</body></html>
"""


def test_a_web_page_is_its_text_at_its_lines(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(PAGE)
    (chunk,) = read_corpus(tmp_path / "a.html").chunks
    lines = [line for line in chunk.text.split("\n") if line]
    assert lines == [
        "# Gems & stones", "A cut gem", "is bright.", "A new line <b> stays.", "ruby", "opal",
    ]  # fmt: skip
    assert (chunk.first_line, chunk.last_line, chunk.title) == (5, 10, "Gems & stones")


@pytest.mark.parametrize("indent", [1, None])
def test_a_notebook_is_its_cells_without_outputs(tmp_path: Path, indent: int | None) -> None:
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": ["# Gems\n", "naïve text"]},
        {
            "cell_type": "code",
            "source": ["# no heading\n", "print(1)"],
            "outputs": [{"text": ["print(1)", "output"]}],
        },
        {"cell_type": "markdown", "source": "## Stones\nmore"},
    ]
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({"cells": cells}, indent=indent))
    chunks = read_corpus(path, target_chars=40).chunks
    whole = "\n".join(chunk.text for chunk in chunks)
    assert "naïve text" in whole
    assert "```\n# no heading\nprint(1)\n```" in whole
    assert "output" not in whole
    raw = path.read_text().split("\n")
    if indent:
        assert "# Gems" in raw[chunks[0].first_line - 1]
    assert all(1 <= chunk.first_line <= chunk.last_line <= len(raw) for chunk in chunks)
    assert chunks[-1].title == "Gems > Stones"


@pytest.mark.parametrize(("name", "sign"), [("a.csv", ","), ("a.tsv", "\t")])
def test_rows_of_a_table_name_their_columns(tmp_path: Path, name: str, sign: str) -> None:
    (tmp_path / name).write_text(f"stone{sign}colour\nruby{sign}red\n\nopal{sign}\n")
    chunks = read_corpus(tmp_path, target_chars=10).chunks
    assert [(chunk.first_line, chunk.text) for chunk in chunks] == [
        (2, "stone: ruby"),
        (2, "colour: red"),
        (4, "stone: opal"),
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("a.ipynb", "{"), ("a.ipynb", "[]"), ("a.ipynb", '{"cells": [3]}')),
        *(("a.ipynb", '{"cells": 3}'), ("a.ipynb", '{"cells": [{"source": [3]}]}')),
        *(("a.csv", 'a,b\n"c'), ("a.csv", "a,b\nc"), ("a.tsv", "a\tb\nc")),
    ],
)
def test_what_is_damaged_is_searched_as_it_is_written(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert "\n".join(chunk.text for chunk in read_corpus(tmp_path).chunks) == text


def test_a_file_without_a_suffix_is_text_if_it_can_be(tmp_path: Path) -> None:
    (tmp_path / "NOTES").write_text("mars")
    (tmp_path / "tool").write_bytes(b"\x7fELF\0\0")
    corpus = read_corpus(tmp_path)
    assert [chunk.path for chunk in corpus.chunks] == ["NOTES"]
    assert [(item.path, item.reason) for item in corpus.skipped] == [("tool", "a binary file")]


def test_what_git_ignores_is_left_out_and_listed(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    for name in (".git/x", "docs/a.md", "docs/b.log", "docs/keep.log", "docs/build/c.md", "d.tmp"):
        path = repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")
    (repository / ".gitignore").write_text("*.log\nbuild/\n/d.tmp\n# comment\n")
    (repository / "docs" / ".gitignore").write_text("!keep.log\n")
    corpus = read_corpus(repository / "docs")  # rules above it count
    assert [chunk.path for chunk in corpus.chunks] == ["a.md", "keep.log"]
    assert [(item.path, item.reason) for item in corpus.skipped] == [
        ("build", "ignored by a .gitignore"),
        ("b.log", "ignored by a .gitignore"),
    ]
    assert len(read_corpus(repository / "docs", gitignore=False).chunks) == 4
    assert len(read_corpus(repository / "docs" / "build").chunks) == 1  # asked for by name


def test_several_folders_are_shown_by_their_names(tmp_path: Path) -> None:
    for name in ("one/a.md", "two/a.md", "three.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"text of {name}")
    places = [tmp_path / "one", tmp_path / "two", tmp_path / "three.txt", tmp_path / "one"]
    corpus = read_corpora(places)
    assert [chunk.path for chunk in corpus.chunks] == [
        f"{tmp_path}/one/a.md", f"{tmp_path}/two/a.md", f"{tmp_path}/three.txt",
    ]  # fmt: skip
    assert corpus.num_files == 3
    assert [chunk.path for chunk in read_corpora(places[:1]).chunks] == ["a.md"]
