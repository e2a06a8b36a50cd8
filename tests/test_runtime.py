"""The OpenVINO engine against the PyTorch model, on random weights where nothing is a default."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_checkpoint import write_random

from culet.checkpoint import Checkpoint, read_checkpoint
from culet.errors import InputError
from culet.model.batch import pack
from culet.model.config import EmbeddingConfig, embeddinggemma_300m, tiny
from culet.model.weights import from_arrays
from culet.quant.grids import int4_blocks, int8_rows
from culet.runtime import engine as engine_module
from culet.runtime.engine import (
    OpenVinoEngine,
    check_memory,
    check_precision,
    largest_rows,
    rectangles,
    round_length,
)
from culet.runtime.weights import pack as pack_codes
from culet.runtime.weights import unpack

LENGTHS = (
    1,
    2,
    3,
    17,
    254,
    255,
    256,
    257,
    258,
    259,
    511,
    512,
    513,
    514,
    700,
    768,
    769,
    800,
    1024,
    1025,
    2048,
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return read_checkpoint(write_random(tmp_path_factory.mktemp("runtime") / "m"))


def texts(lengths: Sequence[int], *, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(16, 272, size=length).astype(np.int32) for length in lengths]


def embed(engine: OpenVinoEngine, ids: list[np.ndarray]) -> np.ndarray:
    parts = list(engine.embed(ids))
    order = np.concatenate([index for index, _ in parts])
    assert sorted(order.tolist()) == list(range(len(ids)))
    vectors = np.empty_like(np.concatenate([vectors for _, vectors in parts]))
    vectors[order] = np.concatenate([vectors for _, vectors in parts])
    return vectors


def reference(checkpoint: Checkpoint, ids: list[np.ndarray]) -> np.ndarray:
    model = from_arrays(checkpoint.config, checkpoint.arrays())
    with torch.inference_mode():
        return model(pack(ids)).numpy()


def test_float32_gives_the_vectors_of_the_model_around_every_edge(checkpoint: Checkpoint) -> None:
    ids = texts(LENGTHS)
    engine = OpenVinoEngine(checkpoint, "float32", threads=1)
    together, expected = embed(engine, ids), reference(checkpoint, ids)
    assert np.abs(together - expected).max() <= 1e-5
    alone = np.concatenate([embed(engine, [one]) for one in ids])
    assert np.abs(alone - together).max() <= 2e-6  # what stands beside a text does not matter


@pytest.mark.parametrize(
    "changes",
    [
        {"num_heads": 4, "num_kv_heads": 2},
        {"num_heads": 2, "num_kv_heads": 2},
        {"window": 4},
        {"global_layers": ()},
        {"attention_scale": 0.3},
        {"norm_eps": 1e-2},
    ],
)
def test_other_shapes_agree_too(changes: dict[str, Any], tmp_path: Path) -> None:
    config = replace(tiny(), encoder=replace(tiny().encoder, **changes))
    checkpoint = read_checkpoint(write_random(tmp_path / "m", config))
    ids = texts((1, 5, 9, 30, 300))
    found = embed(OpenVinoEngine(checkpoint, "float32", threads=1), ids)
    assert np.abs(found - reference(checkpoint, ids)).max() <= 1e-5


@pytest.mark.parametrize(
    "changes",
    [
        {"pooling": "first", "pooling_tokens": 3},
        {"pooling": "last"},
        {"pooling": "last", "pooling_tokens": 4},
        {"pooling": "attention", "pooling_heads": 4},
    ],
)
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_every_pooling_agrees(changes: dict[str, Any], precision: str, tmp_path: Path) -> None:
    config: EmbeddingConfig = replace(tiny(), **changes)
    checkpoint = read_checkpoint(write_random(tmp_path / "m", config))
    ids = texts((1, 2, 5, 9, 30, 300))
    engine = OpenVinoEngine(checkpoint, precision, threads=1, cache=tmp_path / "cache")
    gap = np.abs(embed(engine, ids) - reference(checkpoint, ids)).max()
    assert gap <= (1e-5 if precision == "float32" else 0.05)


@pytest.mark.parametrize(("precision", "least"), [("int8", 0.998), ("int4", 0.95)])
def test_quantised_vectors_stay_near(
    checkpoint: Checkpoint, precision: str, least: float, tmp_path: Path
) -> None:
    ids = texts(LENGTHS)
    engine = OpenVinoEngine(checkpoint, precision, threads=1, cache=tmp_path)
    cosines = (embed(engine, ids) * reference(checkpoint, ids)).sum(axis=1)
    assert cosines.mean() >= least
    assert cosines.mean() < 0.999999  # it is quantised


# --- the file of quantised weights ---------------------------------------------------------------


def test_quantised_weights_are_kept_and_give_the_same_vectors(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = texts((5, 40))
    first = embed(OpenVinoEngine(checkpoint, "int4", threads=1, cache=tmp_path), ids)
    assert len(list(tmp_path.glob("*int4*.safetensors"))) == 1
    monkeypatch.setattr("culet.runtime.quantized.int4_blocks", None)  # nothing is made again
    again = embed(OpenVinoEngine(checkpoint, "int4", threads=1, cache=tmp_path), ids)
    assert np.array_equal(first, again)


@pytest.mark.parametrize("damage", ["cut", "bit", "crc", "text"])
def test_a_damaged_file_is_made_again_with_a_word(
    checkpoint: Checkpoint, damage: str, tmp_path: Path
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
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.warns(UserWarning, match="int8 weights are not kept for the next start: cannot"):
        engine = OpenVinoEngine(checkpoint, "int8", threads=1, cache=blocked)
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


# --- rectangles ----------------------------------------------------------------------------------


def test_rectangles_hold_every_text_once_within_the_budget() -> None:
    rng = np.random.default_rng(0)
    lengths = [int(n) for n in np.clip(rng.lognormal(3.5, 1.0, size=500), 1, 2048)]
    found = rectangles(lengths, budget=1024)
    assert sorted(np.concatenate(found).tolist()) == list(range(500))
    padded = 0
    for index in found:
        longest = round_length(max(lengths[i] for i in index), 2048)
        assert len(index) == 1 or len(index) * longest <= 1024
        assert largest_rows(len(index)) == len(index)
        padded += len(index) * longest
    assert padded <= 1.12 * sum(lengths)  # little padding
    tops = [max(lengths[i] for i in index) for index in found]
    assert tops == sorted(tops, reverse=True)
    assert rectangles([], budget=1024) == []


def test_sides_come_from_short_lists() -> None:
    assert [largest_rows(n) for n in (1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 25)] == [
        1, 2, 3, 4, 4, 6, 6, 8, 8, 12, 24,
    ]  # fmt: skip
    assert [round_length(n, 2048) for n in (1, 5, 64, 65, 129, 513, 2047)] == [
        4, 8, 64, 72, 144, 576, 2048,
    ]  # fmt: skip
    assert round_length(1999, 2000) == 2000  # never beyond the context
    assert len({round_length(n, 2048) for n in range(1, 2049)}) < 80


def test_memory_stays_flat_over_many_shapes(checkpoint: Checkpoint) -> None:
    engine = OpenVinoEngine(checkpoint, "float32", threads=1)
    rng = np.random.default_rng(0)

    def some(count: int) -> int:
        for _ in range(count):
            length = int(rng.integers(1, 64))
            rows = int(rng.integers(1, 12))
            embed(engine, texts([length] * rows, seed=length))
        return _resident_bytes()

    if not Path("/proc/self/statm").exists():
        pytest.skip("no /proc here")
    some(600)
    before = _resident_bytes()
    assert some(1500) - before < 12_000_000


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_many_threads_may_share_an_engine(checkpoint: Checkpoint) -> None:
    engine = OpenVinoEngine(checkpoint, "float32", threads=1)
    ids = [texts([5 + i, 40]) for i in range(8)]
    expected = [embed(engine, one) for one in ids]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda one: embed(engine, one), ids * 5))
    assert all(np.array_equal(a, b) for a, b in zip(found, expected * 5, strict=True))


# --- refusals ------------------------------------------------------------------------------------


def test_bfloat16_is_the_default_where_the_cpu_has_it() -> None:
    assert check_precision(None, ["FP32", "INT8", "BF16"]) == "bfloat16"
    assert check_precision(None, ["FP32", "INT8"]) == "float32"
    assert check_precision("int4", ["FP32"]) == "int4"
    with pytest.raises(InputError, match="this CPU has no bfloat16 instructions"):
        check_precision("bfloat16", ["FP32", "INT8"])


def test_too_little_memory_is_said_before_loading(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_memory(embeddinggemma_300m(), "float32", None)
    check_memory(embeddinggemma_300m(), "float32", 2_000_000_000)
    with pytest.raises(
        InputError, match=r"needs about 1,428 MB of memory in float32, and 500 MB are free.*int8"
    ):
        check_memory(embeddinggemma_300m(), "float32", 500_000_000)
    check_memory(embeddinggemma_300m(), "int4", 500_000_000)
    with pytest.raises(InputError, match=r"in int4, and 100 MB are free; close other programs$"):
        check_memory(embeddinggemma_300m(), "int4", 100_000_000)
    monkeypatch.setattr(engine_module, "_available_memory", lambda: 1000)
    with pytest.raises(InputError, match="needs about 101 MB of memory"):
        OpenVinoEngine(checkpoint)


FREED_ELSEWHERE = """
import gc, signal, threading
import culet
held = [culet.load(device="cpu", threads=1)]
held[0].encode_query("a")
thread = threading.Thread(target=held.clear)
thread.start()
thread.join()
gc.collect()
signal.signal(signal.SIGINT, lambda *_: print("heard"))
signal.raise_signal(signal.SIGINT)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ")
def test_a_signal_is_survived_after_a_model_was_freed_on_another_thread() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", FREED_ELSEWHERE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr


WITHOUT_TORCH = """
import sys
for name in ("torch", "jaxtyping", "transformers", "sentence_transformers", "pyarrow", "sklearn"):
    sys.modules[name] = None  # an import of it fails
from culet.cli import main
main()
"""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["embed", "--text", "a"], '"embedding": ['),
        (["embed", "--text", "a", "--precision", "int8", "--query"], '"embedding": ['),
        (["search", "{folder}", "which fruit is red?", "-k", "1"], "apple"),
        (["info"], "parameters"),
    ],
)
def test_embed_search_and_info_need_no_torch(
    arguments: list[str], words: str, tmp_path: Path
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("The apple is a red fruit.\n")
    command = [item.format(folder=tmp_path / "docs") for item in arguments]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *command],
        capture_output=True,
        text=True,
        env={"PATH": "", "XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert words in done.stdout
