from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

import pytest

from culet.errors import InputError
from culet.search import documents as corpus_module
from culet.search.documents import Chunk, Skipped, read_corpus


def tree(root: Path, **files: str | bytes) -> Path:
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    tree(
        tmp_path, b_dot_md="# B\nbee", a_dot_txt="first", sub__c_dot_py="x = 1\n", README="read me"
    )
    corpus = read_corpus(tmp_path)
    assert corpus.chunks == (
        Chunk("README", 1, 1, "README", "read me"),
        Chunk("a.txt", 1, 1, "a.txt", "first"),
        Chunk("b.md", 1, 2, "B", "# B\nbee"),
        Chunk("sub/c.py", 1, 1, "sub/c.py", "x = 1"),
    )
    assert (corpus.num_files, corpus.skipped) == (4, ())


def test_hidden_files_and_the_folders_of_tools_are_left_out(tmp_path: Path) -> None:
    tree(
        tmp_path,
        _dot_hidden_dot_txt="no",
        _dot_git__a_dot_txt="no",
        sub__node_modules__a_dot_js="no",
        env__pyvenv_dot_cfg="",
        env__a_dot_py="no",
        a_dot_txt="yes",
    )
    corpus = read_corpus(tmp_path)
    assert [chunk.path for chunk in corpus.chunks] == ["a.txt"]
    assert corpus.skipped == ()


def test_what_cannot_be_read_is_listed_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_module, "MAX_FILE_BYTES", 50)
    tree(
        tmp_path,
        a_dot_txt="fine",
        b_dot_txt=b"bin\0ary",
        c_dot_txt=b"caf\xe9",
        d_dot_txt="long " * 20,
        e_dot_png=b"\x89PNG",
        f_dot_jsonl="{}",
    )
    os.symlink(tmp_path / "nowhere.txt", tmp_path / "g.txt")
    corpus = read_corpus(tmp_path)
    assert [chunk.path for chunk in corpus.chunks] == ["a.txt"]
    reasons = {skipped.path: skipped.reason for skipped in corpus.skipped}
    assert list(reasons) == ["b.txt", "c.txt", "d.txt", "e.png", "f.jsonl", "g.txt"]
    assert reasons["b.txt"] == "a binary file"
    assert "neither UTF-8 nor UTF-16 (byte 3)" in reasons["c.txt"]
    assert "more than the limit" in reasons["d.txt"]
    assert "not known by its name to be text" in reasons["e.png"]
    assert "name the file itself" in reasons["f.jsonl"]
    assert "cannot be opened" in reasons["g.txt"]


def test_a_pipe_in_a_folder_is_listed_and_not_waited_for(tmp_path: Path) -> None:
    tree(tmp_path, a_dot_txt="fine")
    os.mkfifo(tmp_path / "b.txt")
    os.mkfifo(tmp_path / "c.jsonl")
    corpus = read_corpus(tmp_path)
    assert [chunk.path for chunk in corpus.chunks] == ["a.txt"]
    reasons = {skipped.path: skipped.reason for skipped in corpus.skipped}
    assert list(reasons) == ["b.txt", "c.jsonl"]
    assert reasons["b.txt"] == "a pipe, a socket or a device, not a file"
    with pytest.raises(InputError, match=r"b\.txt is a pipe, .*; expected a folder, a text file"):
        read_corpus(tmp_path / "b.txt")


def test_a_name_that_is_not_utf8_is_shown_escaped_and_its_file_is_read(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/m\xe9nu"
    os.mkdir(folder)
    Path(os.fsdecode(folder + b"/caf\xe9.txt")).write_text("coffee")
    Path(os.fsdecode(folder + b"/th\xe9.png")).write_bytes(b"\0")
    corpus = read_corpus(tmp_path)
    shown = r"m\xe9nu/caf\xe9.txt"
    assert corpus.chunks == (Chunk(shown, 1, 1, shown, "coffee"),)
    assert [skipped.path for skipped in corpus.skipped] == [r"m\xe9nu/th\xe9.png"]
    (chunk,) = read_corpus(os.fsdecode(folder + b"/caf\xe9.txt")).chunks
    assert (chunk.path, chunk.title) == (r"caf\xe9.txt", r"caf\xe9.txt")


def test_links_to_folders_are_listed_and_links_to_files_read(tmp_path: Path) -> None:
    tree(tmp_path, far__a_dot_txt="far", docs__sub__b_dot_txt="near")
    os.symlink(tmp_path / "far", tmp_path / "docs" / "sub" / "link")
    os.symlink(tmp_path / "far", tmp_path / "docs" / "node_modules")
    os.symlink(tmp_path / "docs", tmp_path / "docs" / "round")
    os.symlink(tmp_path / "far" / "a.txt", tmp_path / "docs" / "c.txt")
    corpus = read_corpus(tmp_path / "docs")
    assert [chunk.path for chunk in corpus.chunks] == ["c.txt", "sub/b.txt"]
    reason = "a link to a folder; name that folder itself to search it"
    assert corpus.skipped == (Skipped("round", reason), Skipped("sub/link", reason))
    assert read_corpus(tmp_path / "docs" / "round").chunks == corpus.chunks


def test_folders_that_cannot_be_entered_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree(tmp_path, a_dot_txt="fine", shut__b_dot_txt="no", z__shut__c_dot_txt="no")
    scandir = os.scandir

    def guarded(path: str) -> object:  # permissions do not hold for the user of every test run
        if Path(path).name == "shut":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    corpus = read_corpus(tmp_path)
    assert [chunk.path for chunk in corpus.chunks] == ["a.txt"]
    reason = "cannot be entered: Permission denied"
    assert corpus.skipped == (Skipped("shut", reason), Skipped("z/shut", reason))
    with pytest.raises(InputError, match="shut cannot be entered: Permission denied; let this"):
        read_corpus(tmp_path / "shut")


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path: Path) -> None:
    tree(tmp_path, a_dot_md="\ufeff# A\r\n\r\ntext", b_dot_txt="über".encode("utf-16"))
    chunks = read_corpus(tmp_path).chunks
    assert chunks[0] == Chunk("a.md", 1, 3, "A", "# A\n\ntext")
    assert chunks[1].text == "über"


def test_line_numbers_are_those_of_an_editor(tmp_path: Path) -> None:
    # Form feeds and Unicode line separators do not begin a line in an editor.
    tree(tmp_path, a_dot_txt="one\x0cpage\u2028two\n\n\nfour")
    (chunk,) = read_corpus(tmp_path).chunks
    assert (chunk.first_line, chunk.last_line) == (1, 4)


def test_later_parts_of_a_long_definition_carry_its_head_as_title(tmp_path: Path) -> None:
    method = "    def method(self):\n        return 'x'\n\n"
    tree(tmp_path, a_dot_py="class Gem(Stone):\n" + method * 10)
    titles = [chunk.title for chunk in read_corpus(tmp_path, target_chars=100).chunks]
    assert titles[0] == "a.py"
    assert set(titles[1:]) == {"a.py: class Gem(Stone):"}


def test_one_file_is_a_corpus_whatever_its_suffix(tmp_path: Path) -> None:
    tree(tmp_path, notes_dot_xyz="hello")
    assert read_corpus(tmp_path / "notes.xyz").chunks == (
        Chunk("notes.xyz", 1, 1, "notes.xyz", "hello"),
    )
    tree(tmp_path, blob_dot_xyz=b"\0")
    with pytest.raises(InputError, match=r"blob\.xyz cannot be read: a binary file"):
        read_corpus(tmp_path / "blob.xyz")


def test_a_missing_corpus_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; expected a folder, a text file or a"):
        read_corpus(tmp_path / "nowhere")


def test_an_empty_folder_has_no_chunks(tmp_path: Path) -> None:
    assert read_corpus(tmp_path).chunks == ()


def test_json_lines_are_documents(tmp_path: Path) -> None:
    rows = [{"id": 3, "title": "Mars", "text": "red"}, {"text": "blue", "title": ""}]
    tree(tmp_path, a_dot_jsonl="\n".join(map(json.dumps, rows)))
    assert read_corpus(tmp_path / "a.jsonl").chunks == (
        Chunk("a.jsonl", 1, 1, "Mars", "red", "3"),
        Chunk("a.jsonl", 2, 2, None, "blue"),
    )


def test_a_long_document_of_a_jsonl_stays_on_its_line(tmp_path: Path) -> None:
    text = "A sentence of words. " * 20
    tree(tmp_path, a_dot_jsonl=json.dumps({"text": "short"}) + "\n" + json.dumps({"text": text}))
    chunks = read_corpus(tmp_path / "a.jsonl", target_chars=100).chunks
    assert len(chunks) > 3
    assert {(chunk.first_line, chunk.last_line) for chunk in chunks[1:]} == {(2, 2)}
    assert " ".join(chunk.text for chunk in chunks[1:]) == text.strip()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nothing", r"a\.jsonl:2: expected a JSON object"),
        ('{"body": "x"}', r"a\.jsonl:2: there is no field 'text'; there are 'body'"),
        (
            '{"text": "x", "title": 1}',
            r"a\.jsonl:2: expected a string or null under 'title', got int",
        ),
        (r'{"text": "x\ud83d"}', r"a\.jsonl:2: the field 'text' is not valid .* at character 1;"),
        (r'{"text": "x", "title": "\udc00"}', r"a\.jsonl:2: the field 'title' is not valid"),
        (r'{"text": "x", "id": "\udc00"}', r"a\.jsonl:2: the field 'id' is not valid Unicode"),
    ],
)
def test_a_bad_line_stops_or_is_listed(tmp_path: Path, line: str, message: str) -> None:
    tree(tmp_path, a_dot_jsonl='{"text": "one"}\n' + line + '\n{"text": "three"}\n')
    with pytest.raises(InputError, match=message):
        read_corpus(tmp_path / "a.jsonl")
    corpus = read_corpus(tmp_path / "a.jsonl", on_bad_line="skip")
    assert [chunk.text for chunk in corpus.chunks] == ["one", "three"]
    (skipped,) = corpus.skipped
    assert isinstance(skipped, Skipped)
    assert skipped.path == "a.jsonl:2"
    assert re.search(message, f"{skipped.path}: {skipped.reason}")
    assert "a.jsonl" not in skipped.reason


def test_the_field_of_the_text_can_be_named(tmp_path: Path) -> None:
    tree(tmp_path, a_dot_jsonl='{"body": "one"}')
    (chunk,) = read_corpus(tmp_path / "a.jsonl", text_field="body").chunks
    assert chunk.text == "one"
