from __future__ import annotations

from pathlib import Path

import pytest

from culet.checkpoints.embedding import read_embedding_model
from culet.checkpoints.folder import read_json
from culet.checkpoints.gguf.container import read_gguf
from culet.checkpoints.recognize import read_any
from culet.errors import CheckpointError, InputError
from culet.files.rows import read_rows
from culet.files.tensors import read_tensors
from culet.files.texts import read_texts

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
CONTENTS = {
    "is a Git LFS pointer": POINTER,
    "is an empty file": b"",
    "is a file that begins with zeros": bytes(4096),
    "is a web page": b"<!DOCTYPE html><html><body>404</body></html>" + b" " * 99,
    "is a zip archive": b"PK\x03\x04" + b"x" * 99,
}


@pytest.mark.parametrize("message", list(CONTENTS))
@pytest.mark.parametrize(
    "read", [read_tensors, read_json, read_gguf, read_embedding_model, read_any]
)
def test_a_file_that_is_something_else_is_named(tmp_path: Path, message: str, read: object) -> None:
    path = tmp_path / ("a.gguf" if read is read_gguf else "a.safetensors")
    path.write_bytes(CONTENTS[message])
    with pytest.raises(CheckpointError, match=message):
        read(path)  # type: ignore[operator]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.tsv"])
def test_a_pointer_in_place_of_texts_is_not_embedded(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(POINTER)
    with pytest.raises(InputError, match=r"a\..* is a Git LFS pointer, which only names the file"):
        list(read_texts(path))
    if name == "a.jsonl":
        with pytest.raises(InputError, match="is a Git LFS pointer"):
            list(read_rows([path]))
