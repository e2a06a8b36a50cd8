"""The OpenVINO engine against the PyTorch model, on random weights where nothing is a default."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_checkpoint import write_random
from runtime_doubles import BFLOAT16, HAS_BFLOAT16, LENGTHS, embed, reference, resident_bytes, texts

from culet.architecture.embedding_config import EmbeddingConfig, embeddinggemma_300m, tiny
from culet.checkpoints.checkpoint import EmbeddingCheckpoint
from culet.checkpoints.embedding import read_embedding_model
from culet.errors import InputError
from culet.runtime.openvino import engine as engine_module
from culet.runtime.openvino.attention import in_blocks, views
from culet.runtime.openvino.engine import OpenVinoEngine
from culet.runtime.openvino.memory import check_memory
from culet.runtime.openvino.plugin import few_primitives
from culet.runtime.openvino.processor import check_precision
from culet.runtime.openvino.rectangles import rectangles, round_length


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingCheckpoint:
    return read_embedding_model(write_random(tmp_path_factory.mktemp("runtime") / "m"))


def test_float32_gives_the_vectors_of_the_model_around_every_edge(
    checkpoint: EmbeddingCheckpoint,
) -> None:
    ids = texts(LENGTHS)
    engine = OpenVinoEngine(checkpoint, "float32", threads=1)
    together, expected = embed(engine, ids), reference(checkpoint, ids)
    assert np.abs(together - expected).max() <= 1e-5
    alone = np.concatenate([embed(engine, [one]) for one in ids])
    assert np.abs(alone - together).max() <= 2e-6  # what stands beside a text does not matter


@pytest.mark.parametrize("precision", [BFLOAT16])
def test_bfloat16_stays_near_around_every_edge(
    checkpoint: EmbeddingCheckpoint, precision: str
) -> None:
    ids = texts(LENGTHS)
    engine = OpenVinoEngine(checkpoint, precision, threads=1)
    together, expected = embed(engine, ids), reference(checkpoint, ids)
    assert (together * expected).sum(axis=1).min() >= 0.9995
    assert np.abs(together - expected).max() > 1e-5  # it did compute in bfloat16
    alone = np.concatenate([embed(engine, [one]) for one in ids])
    assert (together * alone).sum(axis=1).min() >= 0.9999  # what stands beside a text


def test_the_default_is_bfloat16_where_the_cpu_has_it(checkpoint: EmbeddingCheckpoint) -> None:
    best = "bfloat16" if HAS_BFLOAT16 else "float32"
    assert OpenVinoEngine(checkpoint, None, threads=1).precision == best


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
    checkpoint = read_embedding_model(write_random(tmp_path / "m", config))
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
@pytest.mark.parametrize("precision", ["float32", BFLOAT16, "int8"])
def test_every_pooling_agrees(changes: dict[str, Any], precision: str, tmp_path: Path) -> None:
    config: EmbeddingConfig = replace(tiny(), **changes)
    checkpoint = read_embedding_model(write_random(tmp_path / "m", config))
    ids = texts((1, 2, 5, 9, 30, 300))
    engine = OpenVinoEngine(checkpoint, precision, threads=1, cache=tmp_path / "cache")
    gap = np.abs(embed(engine, ids) - reference(checkpoint, ids)).max()
    assert gap <= (1e-5 if precision == "float32" else 0.05)


@pytest.mark.parametrize("length", [4, 9, 128, 256, 640])
def test_a_local_layer_sees_its_window_and_no_padding(length: int) -> None:
    config = replace(tiny().encoder, window=8, max_length=2048)
    inside = np.ones((2, length), dtype=bool)
    inside[1, length // 2 :] = False
    local, whole = views(inside, config)
    width = int(local.width[0])
    reach = local.reach.reshape(length // width, -1)
    assert in_blocks(length, config) == (length > 144) == (len(reach) > 1)
    mask = np.broadcast_to(local.mask, (2 * len(reach), 1, width, reach.shape[1]))
    mask = mask.reshape(2, len(reach), width, -1)
    seen = np.zeros((2, length, length), dtype=int)
    for text, block, query, key in np.argwhere(mask == 0):
        seen[text, block * width + query, reach[block, key]] += 1
    place = np.arange(length)
    near = np.abs(place[:, None] - place[None, :]) <= 8
    assert np.array_equal(seen, (near[None] & inside[:, None, :]).astype(int))  # each key once
    assert np.array_equal(np.broadcast_to(whole.mask == 0, (2, 1, 1, length))[:, 0, 0], inside)


# --- rectangles ----------------------------------------------------------------------------------


def test_rectangles_hold_every_text_once_within_the_budget() -> None:
    rng = np.random.default_rng(0)
    lengths = [int(n) for n in np.clip(rng.lognormal(3.5, 1.0, size=500), 1, 2048)]
    found = rectangles(lengths, 1024, start_cost=16)
    assert sorted(np.concatenate(found).tolist()) == list(range(500))
    padded = 0
    for index in found:
        longest = round_length(max(lengths[i] for i in index), 2048)
        assert len(index) == 1 or len(index) * longest <= 1024
        assert bin(len(index)).count("1") == 1 or bin(len(index) // 3).count("1") == 1
        padded += len(index) * longest
    assert padded <= 1.08 * sum(lengths)  # little padding
    tops = [max(lengths[i] for i in index) for index in found]
    assert tops == sorted(tops, reverse=True)
    assert rectangles([], 1024, start_cost=16) == []


@pytest.mark.parametrize("start_cost", [0, 16, 100])
def test_no_other_rectangles_are_cheaper(start_cost: int) -> None:
    rng = np.random.default_rng(start_cost)
    lengths = sorted(rng.integers(1, 90, size=9).tolist(), reverse=True)

    def cost(sizes: Sequence[int]) -> float:
        firsts = np.cumsum([0, *sizes[:-1]])
        tokens = [n * round_length(lengths[i], 2048) for n, i in zip(sizes, firsts, strict=True)]
        return sum(tokens) + start_cost * len(sizes)

    def partitions(count: int) -> Iterator[tuple[int, ...]]:
        if count == 0:
            yield ()
        for first in (n for n in (1, 2, 3, 4, 6, 8) if n <= count):
            yield from ((first, *rest) for rest in partitions(count - first))

    found = rectangles(lengths, 1024, start_cost=start_cost)
    assert cost([len(index) for index in found]) == min(map(cost, partitions(len(lengths))))


def test_lengths_come_from_a_short_list() -> None:
    assert [round_length(n, 2048) for n in (1, 5, 64, 65, 129, 513, 2047)] == [
        4, 8, 64, 72, 144, 576, 2048,
    ]  # fmt: skip
    assert round_length(1999, 2000) == 2000  # never beyond the context
    assert len({round_length(n, 2048) for n in range(1, 2049)}) < 80


def test_memory_stays_flat_over_many_shapes(checkpoint: EmbeddingCheckpoint) -> None:
    engine = OpenVinoEngine(checkpoint, "float32", threads=1)
    rng = np.random.default_rng(0)

    def some(count: int) -> int:
        for _ in range(count):
            length = int(rng.integers(1, 64))
            rows = int(rng.integers(1, 12))
            embed(engine, texts([length] * rows, seed=length))
        return resident_bytes()

    if not Path("/proc/self/statm").exists():
        pytest.skip("no /proc here")
    some(600)
    before = resident_bytes()
    assert some(1500) - before < 12_000_000


def test_many_threads_may_share_an_engine(checkpoint: EmbeddingCheckpoint) -> None:
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
    checkpoint: EmbeddingCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_memory(embeddinggemma_300m(), "float32", None)
    check_memory(embeddinggemma_300m(), "float32", 2_000_000_000)
    with pytest.raises(
        InputError, match=r"needs about 1,428 MB of memory in float32, and 500 MB are free.*int8"
    ):
        check_memory(embeddinggemma_300m(), "float32", 500_000_000)
    check_memory(embeddinggemma_300m(), "int4", 275_000_000)
    with pytest.raises(InputError, match=r"in int4, and 100 MB are free; close other programs$"):
        check_memory(embeddinggemma_300m(), "int4", 100_000_000)
    monkeypatch.setattr(engine_module, "available_memory", lambda: 1000)
    with pytest.raises(InputError, match="needs about 101 MB of memory"):
        OpenVinoEngine(checkpoint)


def test_code_kept_for_shapes_is_bounded_unless_the_user_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.delenv(name, raising=False)
    with few_primitives(64):
        assert os.environ[name] == "64"
    assert name not in os.environ  # other libraries read it too
    monkeypatch.setenv(name, "7")
    with few_primitives(64):
        assert os.environ[name] == "7"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity of threads here")
def test_a_process_of_few_threads_is_bound_to_no_core(checkpoint: EmbeddingCheckpoint) -> None:
    engine = OpenVinoEngine(checkpoint, "float32", threads=1)
    allowed, seen, ready = frozenset(os.sched_getaffinity(0)), set(), threading.Event()
    mine = threading.get_native_id()

    def look() -> None:
        while not ready.is_set():
            seen.add(frozenset(os.sched_getaffinity(mine)))

    looking = threading.Thread(target=look)
    looking.start()
    for _ in range(20):
        embed(engine, texts(LENGTHS))
    ready.set()
    looking.join()
    assert seen == {allowed}  # else two such processes would share the first core


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
from culet.cli.main import main
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
