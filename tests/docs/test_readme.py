"""What the README shows works as shown; so do docs/runtime.md's program and the docs' imports."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from culet.files.texts import read_texts

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
BLOCKS = _BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
RUNTIME = _BLOCK.findall((ROOT / "docs" / "runtime.md").read_text(encoding="utf-8"))
COMMANDS = [text for kind, text in BLOCKS if not kind and "culet " in text]
PYTHON = [text for kind, text in BLOCKS if kind == "python"]


def test_the_readme_has_commands_and_python() -> None:
    assert len(COMMANDS) >= 2
    assert len(PYTHON) >= 1


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_of_the_readme_runs(command: str, tmp_path: Path) -> None:
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        ["bash", "-euc", command], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("program", PYTHON)
def test_each_program_of_the_readme_runs(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(program, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


DOCS = sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_what_the_docs_import_is_there(page: Path) -> None:
    for kind, text in _BLOCK.findall(page.read_text(encoding="utf-8")):
        if kind == "python":
            for line in re.findall(r"^(?:import|from) culet.*", text, re.MULTILINE):
                exec(line, {})


def test_the_runtimes_stream_gives_the_vectors_of_culet_embed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = [text for kind, text in RUNTIME if kind == "python"]
    assert len(programs) == 1
    lines = ["a cut gem", "", "la pierre taillée", "the last line"]
    (tmp_path / "ten-million-lines.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(programs[0], "runtime.md", "exec"), names)
    rows = [row.text for row in read_texts("ten-million-lines.txt")]  # as `culet embed` reads them
    assert rows == lines
    expected = names["embedder"].encode_document(rows)
    assert np.array_equal(names["vectors"], expected)
