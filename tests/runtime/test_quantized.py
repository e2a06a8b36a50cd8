"""int8 and int4 engines against the PyTorch model, and the cached file their weights come from."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_checkpoint import write_random
from runtime_doubles import LENGTHS, embed, reference, resident_bytes, texts

from culet.architecture.embedding_config import tiny
from culet.checkpoints.checkpoint import EmbeddingCheckpoint
from culet.checkpoints.embedding import read_embedding_model
from culet.checkpoints.write import write_checkpoint
from culet.files.tensors import read_tensors
from culet.quant.grids import int4_blocks, int8_rows
from culet.runtime.openvino import engine as engine_module
from culet.runtime.openvino import quantized
from culet.runtime.openvino.engine import OpenVinoEngine
from culet.runtime.openvino.quantized import quantized_weights
from culet.runtime.openvino.weights import pack as pack_codes
from culet.runtime.openvino.weights import unpack


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingCheckpoint:
    return read_embedding_model(write_random(tmp_path_factory.mktemp("runtime") / "m"))


@pytest.mark.parametrize(("precision", "least"), [("int8", 0.998), ("int4", 0.98)])
def test_quantised_vectors_stay_near(
    checkpoint: EmbeddingCheckpoint, precision: str, least: float, tmp_path: Path
) -> None:
    ids = texts(LENGTHS)
    engine = OpenVinoEngine(checkpoint, precision, threads=1, cache=tmp_path)
    cosines = (embed(engine, ids) * reference(checkpoint, ids)).sum(axis=1)
    assert cosines.mean() >= least
    assert cosines.mean() < 0.999999  # it is quantised


def test_quantised_weights_are_kept_and_give_the_same_vectors(
    checkpoint: EmbeddingCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = texts((5, 40))
    first = embed(OpenVinoEngine(checkpoint, "int4", threads=1, cache=tmp_path), ids)
    assert len(list(tmp_path.glob("*int4*.safetensors"))) == 1
    monkeypatch.setattr(
        "culet.runtime.openvino.quantized.int4_blocks", None
    )  # nothing is made again
    again = embed(OpenVinoEngine(checkpoint, "int4", threads=1, cache=tmp_path), ids)
    assert np.array_equal(first, again)


@pytest.mark.parametrize("damage", ["cut", "bit", "crc", "text"])
def test_a_damaged_file_is_made_again_with_a_word(
    checkpoint: EmbeddingCheckpoint, damage: str, tmp_path: Path
) -> None:
    ids = texts((5, 40))
    good = embed(OpenVinoEngine(checkpoint, "int8", threads=1, cache=tmp_path), ids)
    (path,) = tmp_path.glob("*.safetensors")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-7])
    elif damage == "bit":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    elif damage == "crc":
        path.with_suffix(".crc32").unlink()
    else:
        path.with_suffix(".crc32").write_bytes(b"\xff\xfe\xff")
    with pytest.warns(UserWarning, match="the cached weights are damaged and are made again: "):
        engine = OpenVinoEngine(checkpoint, "int8", threads=1, cache=tmp_path)
    assert np.array_equal(embed(engine, ids), good)
    OpenVinoEngine(checkpoint, "int8", threads=1, cache=tmp_path)  # whole again: no warning


def test_a_cache_that_cannot_be_written_costs_the_next_start_only(
    checkpoint: EmbeddingCheckpoint, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.warns(UserWarning, match="int4 weights are not kept for the next start: cannot"):
        engine = OpenVinoEngine(checkpoint, "int4", threads=1, cache=blocked)
    assert embed(engine, texts((5,))).shape == (1, 32)


def test_codes_of_int8_and_int4_are_the_nearest() -> None:
    matrix = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)
    matrix[2] = 0
    codes, scales = int8_rows(matrix)
    assert np.abs(codes * scales - matrix).max() <= np.abs(matrix).max() / 127 / 2 + 1e-6
    assert codes.min() >= -127
    codes4, zeros, scales4 = int4_blocks(matrix, block=32)
    decoded = ((codes4.astype(np.float32) - zeros) * scales4).reshape(matrix.shape)
    error = np.linalg.norm(decoded - matrix) / np.linalg.norm(matrix)
    assert 0.03 < error < 0.09
    assert np.array_equal(decoded[2], matrix[2])
    grid = (np.arange(16, dtype=np.float32) - 5)[None].repeat(2, axis=1) * 0.25
    codes4, zeros, scales4 = int4_blocks(grid, block=32)
    assert np.allclose((codes4.astype(np.float32) - zeros) * scales4, grid[:, None])  # on the grid


def test_packed_codes_come_back() -> None:
    codes = np.random.default_rng(0).integers(0, 16, size=(3, 4, 32)).astype(np.uint8)
    assert pack_codes(codes).shape == (3, 4, 16)
    assert np.array_equal(unpack(pack_codes(codes)), codes)


def decoded(path: Path, checkpoint: EmbeddingCheckpoint) -> EmbeddingCheckpoint:
    """Return a checkpoint of the weights that a cached file stands for, decoded one by one."""
    stored = {name: tensor.mapped() for name, tensor in read_tensors(path, codes=True).items()}
    arrays = {name: np.array(array) for name, array in checkpoint.arrays().items()}
    for name, codes in stored.items():
        stack = name.removesuffix(".codes")
        if stack == name:
            continue
        if codes.dtype == np.uint8:
            values = unpack(codes) - stored[f"{stack}.zeros"].astype(np.float32)
        else:
            values = codes.astype(np.float32)
        rows = (values * stored[f"{stack}.scales"]).reshape(len(codes), -1)
        first = 0
        for part in stack.split("+"):
            arrays[part][...] = rows[first : first + len(arrays[part])]
            first += len(arrays[part])
    folder = path.with_name(f"{path.stem}-decoded")
    tokenizer = checkpoint.tokenizer_json
    write_checkpoint(
        folder, checkpoint.config, arrays, tokenizer_json=tokenizer, prompts=checkpoint.prompts
    )
    return read_embedding_model(folder)


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize(
    "changes", [{"num_heads": 4, "num_kv_heads": 2}, {"window": 4}, {"num_kv_heads": 1}]
)
def test_an_engine_computes_what_its_codes_say(
    precision: str, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (
        engine_module.compile_settings
    )  # in float32, so that codes and scales show to the last bit
    monkeypatch.setattr(
        engine_module, "compile_settings", lambda *a, rounds: settings(*a, rounds=False)
    )
    config = replace(tiny(), encoder=replace(tiny().encoder, **changes))
    checkpoint = read_embedding_model(write_random(tmp_path / "m", config))
    engine = OpenVinoEngine(checkpoint, precision, threads=1, cache=tmp_path / "cache")
    ids = texts((1, 5, 300, 769))
    (path,) = (tmp_path / "cache").glob("*.safetensors")
    found, expected = embed(engine, ids), reference(decoded(path, checkpoint), ids)
    if precision == "int8" and np.abs(found - expected).max() > 1e-5:
        # a CPU that multiplies int8 rounds the activations too, in groups of 64
        assert (found * expected).sum(axis=1).min() >= 0.9995
    else:
        assert np.abs(found - expected).max() <= 1e-5


def test_int4_keeps_its_memory_over_many_shapes(
    checkpoint: EmbeddingCheckpoint, tmp_path: Path
) -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("no /proc here")
    engine = OpenVinoEngine(checkpoint, "int4", threads=1, cache=tmp_path)

    def all_shapes() -> int:
        for length in range(4, 68, 4):
            for rows in (1, 2, 3):
                embed(engine, texts([length] * rows, seed=length))
        return resident_bytes()

    all_shapes()
    before = all_shapes()
    assert all_shapes() - before < 4_000_000


def test_two_processes_may_make_the_same_weights_at_once(
    checkpoint: EmbeddingCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = quantized._fill
    processes = iter((os.getpid(), os.getpid() + 1, os.getpid() + 1, os.getpid()))
    monkeypatch.setattr("culet.files.atomic.os.getpid", lambda: next(processes))

    def while_another_does_the_same(*arguments: Any) -> None:
        monkeypatch.setattr(quantized, "_fill", fill)
        quantized_weights(checkpoint, "int8", folder=tmp_path)
        fill(*arguments)

    monkeypatch.setattr(quantized, "_fill", while_another_does_the_same)
    found = quantized_weights(checkpoint, "int8", folder=tmp_path)  # a warning would be an error
    assert len(list(tmp_path.iterdir())) == 2  # the file and its checksum
    again = quantized_weights(checkpoint, "int8", folder=tmp_path)
    assert all(np.array_equal(found[name], again[name]) for name in found)
