"""Encodings of the terminal, and standard streams that are full, closed or not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DOUBLES = Path(__file__).parents[1] / "doubles"
PROGRAM = f"""
import sys
sys.path.insert(0, {str(DOUBLES)!r})
from word_embedder import WordEmbedder
from culet import loading
from culet.cli import main as cli
loading.load = lambda *_, **__: WordEmbedder()
cli.main()
"""
ENCODINGS = {
    name: {"PYTHONIOENCODING": name} for name in ("cp1252", "latin-1", "ascii", "utf-8")
} | {"C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}}


def culet(*arguments: object, env: dict[str, str] | None = None, **options: Any) -> Any:
    known = {name: value for name, value in os.environ.items() if not name.startswith("LC_")}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(os.fsencode, map(str, arguments))],
        env=known | {"PYTHONPATH": os.pathsep.join(sys.path)} | (env or {}),
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options,
    )


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "gemmes → ß.md").write_text("# Taillée 𝄞\nla pierre naïve → taillée\n", "utf-8")
    (folder / "left\u202eout.bin").write_bytes(b"\0")
    return folder


@pytest.mark.parametrize("encoding", list(ENCODINGS))
def test_any_encoding_gets_json_without_loss_and_text_with_replacements(
    docs: Path, encoding: str
) -> None:
    env = ENCODINGS[encoding]
    done = culet("search", docs, "pierre naïve", "--no-cache", env=env)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    assert b"pierre" in done.stdout
    done = culet("search", docs, "pierre naïve", "--no-cache", "--json", env=env)
    found = json.loads(done.stdout)  # as UTF-8
    assert found["question"] == "pierre naïve"
    assert found["hits"][0]["text"] == "# Taillée 𝄞\nla pierre naïve → taillée"
    done = culet("embed", "-t", "naïve → 𝄞", env=env)
    assert json.loads(done.stdout)["text"] == "naïve → 𝄞"
    done = culet("info", env=env)
    assert (done.returncode, done.stderr) == (0, b"")
    done = culet("embed", docs / "→.txt", env=env)
    assert done.returncode == 2
    assert done.stderr.startswith(b"culet: ")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(
    "arguments", [("--version",), ("--help",), ("embed", "-t", "mars"), ("info", "--json")]
)
def test_a_full_output_is_a_sentence(arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        done = culet(*arguments, stdout=full)
    assert done.returncode == 2
    assert done.stderr.decode() == (
        "culet: standard output cannot be written: No space left on device\n"
    )


def closed(number: int) -> Callable[[], None]:
    return lambda: os.close(number)


@pytest.mark.skipif(sys.platform == "win32", reason="no preexec_fn")
def test_closed_streams_are_a_sentence_or_do_no_harm(tmp_path: Path) -> None:
    done = culet("embed", "-t", "mars", preexec_fn=closed(1))
    assert (done.returncode, done.stderr) == (
        2,
        b"culet: standard output cannot be written: it is closed\n",
    )
    done = culet("embed", "-t", "mars", "-o", tmp_path / "out.npy", preexec_fn=closed(1))
    assert (done.returncode, (tmp_path / "out.npy").exists()) == (0, True)
    done = culet("embed", "-", preexec_fn=closed(0))
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == (b"culet: standard input is closed; give texts to it, or name a file\n")
    done = culet("embed", "nowhere.txt", preexec_fn=closed(2))
    assert (done.returncode, done.stdout) == (2, b"")
