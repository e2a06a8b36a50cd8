from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from random_checkpoint import write_random

import culet
from culet.checkpoints.embedding import read_embedding_model
from culet.checkpoints.sums import SUMS_FILE, check_sums
from culet.cli import main as cli
from culet.errors import CheckpointError
from culet.loading import PACKAGED


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random(tmp_path_factory.mktemp("sums") / "m", max_shard_bytes=100_000)


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sound, tmp_path / "m")


def swap_tensors(folder: Path) -> None:
    """Swap two maps of one shape; no name, shape or size shows it."""
    tensors = read_embedding_model(folder).tensors
    key, value = (tensors[f"blocks.2.attention.{name}"] for name in ("key", "value"))
    raws = [tensor.float32().tobytes() for tensor in (key, value)]
    for tensor, raw in zip((value, key), raws, strict=True):
        with tensor.path.open("r+b") as file:
            file.seek(tensor.start)
            file.write(raw)


def flip_bit(folder: Path) -> None:
    tensor = read_embedding_model(folder).tensors["down"]
    raw = bytearray(tensor.path.read_bytes())
    raw[tensor.start + 8] ^= 1
    tensor.path.write_bytes(raw)


def edit_prompt(folder: Path) -> None:
    path = folder / "config_sentence_transformers.json"
    path.write_text(path.read_text().replace("search result", "search results"))


CHANGES: dict[Callable[[Path], object], str] = {
    swap_tensors: r"model-0000\d-of-0000\d\.safetensors",
    flip_bit: r"3_Dense/model\.safetensors",
    edit_prompt: r"config_sentence_transformers\.json",
    lambda folder: (
        folder / "4_Normalize" / "config.json"
    ).unlink(): r"4_Normalize/config\.json \(",
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_a_written_folder_is_seen_by_info_and_on_request(
    folder: Path,
    change: Callable[[Path], object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert check_sums(folder) == len((folder / SUMS_FILE).read_text().splitlines())
    change(folder)
    with pytest.raises(CheckpointError, match=f"is not as culet wrote it: {CHANGES[change]}"):
        culet.load(folder, verify=True)
    culet.load(folder)
    monkeypatch.setattr(sys, "argv", ["culet", "info", str(folder)])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert done.value.code == 2
    assert "is not as culet wrote it" in " ".join(capsys.readouterr().err.split())


def test_the_model_card_may_be_edited_and_files_added(folder: Path) -> None:
    (folder / "README.md").write_text("mine")
    (folder / ".gitattributes").write_text("*")
    assert check_sums(folder)


def test_other_tools_read_the_sums(folder: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", SUMS_FILE], cwd=folder, check=True)


def test_a_folder_without_sums_is_read_but_not_verified(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / SUMS_FILE).unlink()
    assert check_sums(folder) is None
    culet.load(folder)
    with pytest.raises(CheckpointError, match="has no SHA256SUMS, so its files cannot be verified"):
        culet.load(folder, verify=True)
    monkeypatch.setattr(sys, "argv", ["culet", "info", str(folder), "--json"])
    with pytest.raises(SystemExit):
        cli.main()
    assert json.loads(capsys.readouterr().out)["verified_files"] is None


@pytest.mark.parametrize("line", ["", "x  a", f"{'0' * 64}  /etc/hostname", f"{'0' * 64}  ../a"])
def test_a_damaged_file_of_sums_is_refused(folder: Path, line: str) -> None:
    with (folder / SUMS_FILE).open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(CheckpointError, match="a line is no SHA-256 and a name"):
        check_sums(folder)


def test_the_packaged_model_is_as_it_was_made() -> None:
    assert check_sums(PACKAGED) == 15
