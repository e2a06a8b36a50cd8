"""Weights that no model can compute with are refused, whatever the model is opened for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_doubles import write as write_gguf
from language_doubles import decoder_config, pair_config
from random_checkpoint import random_arrays

import culet
from culet.architecture.embedding_config import tiny
from culet.checkpoints.embedding import read_embedding_model
from culet.checkpoints.recognize import read_any
from culet.checkpoints.write import write_checkpoint
from culet.cli import main as cli
from culet.errors import CheckpointError
from culet.files import remembered
from culet.files.tensors import StoredTensor
from culet.text.tokenizer_training import byte_tokenizer

WRONG: dict[str, Callable[[np.ndarray], object]] = {
    "one NaN": lambda array: array.__setitem__((-1, 0), np.nan),
    "infinity": lambda array: array.__setitem__((0, -1), -np.inf),
    "zeros": lambda array: array.fill(0),
    "denormals": lambda array: array.__imul__(np.float32(1e-39)),
}
SAID = {"one NaN": "NaN or infinity", "infinity": "NaN or infinity", "zeros": "zeros only"}
SAID["denormals"] = r"no number above \de-\d\d, which is too small"


def write(folder: Path, config: Any, change: str = "", names: tuple[str, ...] = ()) -> Path:
    arrays = random_arrays(config)
    for name in names:
        WRONG[change](arrays[name])
    tokenizer = byte_tokenizer().to_str()
    write_checkpoint(folder, config, arrays, tokenizer_json=tokenizer, prompts={})
    return folder


@pytest.mark.parametrize("precision", ["float32", "int8", "int4"])
@pytest.mark.parametrize("change", WRONG)
@pytest.mark.parametrize("name", ["embed", "blocks.3.attention.key", "blocks.6.ffn.up", "down"])
def test_no_precision_takes_weights_that_are_no_numbers(
    tmp_path: Path, precision: str, change: str, name: str
) -> None:
    folder = write(tmp_path / "m", tiny(), change, (name,))
    with pytest.raises(CheckpointError, match=SAID[change]):
        culet.load(folder, precision=precision)


@pytest.mark.parametrize("config", [tiny(), decoder_config(), pair_config()], ids=type)
def test_a_norm_may_be_zero_but_not_nan(tmp_path: Path, config: Any) -> None:
    arrays = random_arrays(config)
    name = next(name for name, array in arrays.items() if array.ndim == 1)
    tokenizer = byte_tokenizer().to_str()
    for value in (0.0, np.nan):
        arrays[name][:] = value
        write_checkpoint(tmp_path / "m", config, arrays, tokenizer_json=tokenizer, prompts={})
        if value == 0:
            read_any(tmp_path / "m")
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        read_any(tmp_path / "m")


@pytest.mark.parametrize("verb", ["info", "generate"])
@pytest.mark.parametrize("change", WRONG)
def test_the_commands_say_what_is_wrong_with_weights(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verb: str,
    change: str,
) -> None:
    folder = write(tmp_path / "d", decoder_config(), change, ("blocks.0.ffn.down",))
    prompt = ["--prompt", "a"] if verb == "generate" else []
    monkeypatch.setattr(sys, "argv", ["culet", verb, str(folder), *prompt])
    with pytest.raises(SystemExit) as done:
        cli.main()
    said = " ".join(capsys.readouterr().err.split())
    assert done.value.code == 2
    assert "the tensor model.layers.0.mlp.down_proj.weight holds" in said


def test_a_scale_of_nan_in_a_gguf_file_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "d.gguf"
    write_gguf(path, "Q8_0")
    found = read_any(path)
    tensor = found.tensors["blocks.2.ffn.gate"]
    with path.open("r+b") as file:
        file.seek(tensor.start)  # type: ignore[union-attr]
        file.write(np.float16(np.nan).tobytes())
    with pytest.raises(CheckpointError, match=r"tensor blk\.2\.ffn_gate\.weight holds NaN"):
        read_any(path)


def test_the_end_of_a_download_that_is_still_zero_is_noted(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", tiny())
    tensor = read_embedding_model(folder).tensors["embed"]
    with tensor.path.open("r+b") as file:
        file.seek(tensor.start + 100 * 32 * 4)
        file.write(bytes(150 * 32 * 4))
    with pytest.warns(UserWarning, match=r"rows 100 to 249 of the tensor embed_tokens\.weight "):
        found = read_embedding_model(folder)
    assert "only downloaded or copied in part" in found.notes[0]


def test_a_large_file_is_looked_at_once_while_it_is_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remembered, "WORTH_BYTES", 1000)
    monkeypatch.setattr(remembered, "_SETTLED_SECONDS", 0)
    read: list[str] = []
    real = StoredTensor.pieces

    def counted(tensor: StoredTensor) -> Iterator[np.ndarray]:
        read.append(tensor.name)
        return real(tensor)

    monkeypatch.setattr(StoredTensor, "pieces", counted)
    folder = write(tmp_path / "m", tiny())
    first = read_embedding_model(folder)
    assert len(read) == len(first.tensors)
    assert read_embedding_model(folder).fingerprint == first.fingerprint
    assert len(read) == len(first.tensors)
    write(folder, tiny(), "one NaN", ("embed",))
    for _ in range(2):  # what is wrong is not remembered
        with pytest.raises(CheckpointError, match="NaN or infinity"):
            read_embedding_model(folder)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pieces_are_the_tensor(tmp_path: Path, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("culet.files.tensors._PIECE_NUMBERS", 100)
    arrays, tokenizer = random_arrays(tiny()), byte_tokenizer().to_str()
    write_checkpoint(tmp_path, tiny(), arrays, tokenizer_json=tokenizer, dtype=dtype)
    for tensor in read_embedding_model(tmp_path).tensors.values():
        np.testing.assert_array_equal(np.concatenate(list(tensor.pieces())), tensor.float32())


def test_pieces_of_blocks_are_the_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("culet.checkpoints.gguf.container._PIECE_BYTES", 500)
    write_gguf(tmp_path / "d.gguf", "Q8_0")
    for tensor in read_any(tmp_path / "d.gguf").tensors.values():
        np.testing.assert_array_equal(np.concatenate(list(tensor.pieces())), tensor.float32())
