"""Several rectangles at a time: the same vectors, and nothing left behind when it stops early."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_checkpoint import write_random
from runtime_doubles import BFLOAT16, LENGTHS, embed, texts

from culet.checkpoints.embedding import Checkpoint, read_checkpoint
from culet.runtime.openvino import engine as engine_module
from culet.runtime.openvino.engine import OpenVinoEngine
from culet.runtime.openvino.streams import Streams


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return read_checkpoint(write_random(tmp_path_factory.mktemp("streams") / "m"))


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Streams of each model as it is compiled; all that is embedded counts as bulk."""
    made: list[str] = []
    whole = OpenVinoEngine._compile_whole

    def spy(self: OpenVinoEngine, weights: Any, **settings: Any) -> Any:
        made.append(settings.get("NUM_STREAMS", "1"))
        return whole(self, weights, **settings)

    monkeypatch.setattr(OpenVinoEngine, "_compile_whole", spy)
    monkeypatch.setattr(engine_module, "_BULK_TOKENS", 1000)
    return made


@pytest.mark.parametrize("precision", ["float32", BFLOAT16, "int8"])
def test_bulk_gives_the_vectors_of_one_stream(
    checkpoint: Checkpoint, precision: str, tmp_path: Path, compiled: list[str]
) -> None:
    ids = texts(LENGTHS * 3)
    single = embed(OpenVinoEngine(checkpoint, precision, threads=1, cache=tmp_path), ids)
    engine = OpenVinoEngine(checkpoint, precision, threads=2, cache=tmp_path)
    query = embed(engine, ids[:3])
    assert compiled == ["1", "1"]  # too little for a second model
    gap = 0.01 if precision == "bfloat16" else 1e-5
    assert np.allclose(embed(engine, ids), single, atol=gap)
    assert np.allclose(embed(engine, ids), single, atol=gap)
    assert np.array_equal(embed(engine, ids[:3]), query)  # by the first model, as before
    assert compiled == ["1", "1", "2"]
    assert len(list(tmp_path.glob("*.blob"))) == 1  # one file for both


def test_one_thread_has_one_stream(
    checkpoint: Checkpoint, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(OpenVinoEngine(checkpoint, "float32", threads=1), texts(LENGTHS))
    assert compiled == ["1"]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    embed(OpenVinoEngine(checkpoint, "float32"), texts(LENGTHS))  # of the core it may use
    assert compiled == ["1", "1"]


def test_without_memory_for_a_second_model_one_stream_goes_on(
    checkpoint: Checkpoint, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = texts(LENGTHS)
    engine = OpenVinoEngine(checkpoint, "float32", threads=2)
    monkeypatch.setattr(engine_module, "available_memory", lambda: 1000)
    with pytest.warns(UserWarning, match="go through one stream: the model needs about .* MB"):
        first = embed(engine, ids)
    monkeypatch.setattr(engine_module, "available_memory", lambda: None)  # it is not asked again
    assert np.allclose(embed(engine, ids), first, atol=1e-5)
    assert compiled == ["1"]


def test_closing_early_leaves_a_working_engine_and_no_threads(
    checkpoint: Checkpoint, compiled: list[str]
) -> None:
    ids = texts(LENGTHS)
    engine = OpenVinoEngine(checkpoint, "float32", threads=2)
    whole = embed(engine, ids)
    for _ in range(3):
        going = engine.embed(ids)
        next(going)
        going.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("culet-stream")]
    assert np.allclose(embed(engine, ids), whole, atol=1e-5)


def test_callers_on_several_threads_share_the_streams(
    checkpoint: Checkpoint, compiled: list[str]
) -> None:
    ids = texts(LENGTHS)
    engine = OpenVinoEngine(checkpoint, "float32", threads=2)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: embed(engine, ids), range(8)))
    for vectors in found[1:]:
        assert np.allclose(vectors, found[0], atol=1e-5)
    assert compiled == ["1", "2"]  # the second once


def test_a_request_has_one_borrower_at_a_time() -> None:
    busy: set[int] = set()
    most = 0

    def run(number: int) -> Any:
        def compute(*_: Any) -> np.ndarray:
            nonlocal most
            assert number not in busy
            busy.add(number)
            most = max(most, len(busy))
            time.sleep(0.001)
            busy.remove(number)
            return np.full(1, number)

        return compute

    streams = Streams([run(0), run(1)], start_cost=1)

    def work(item: int) -> int:
        with streams.borrowed() as request:
            request(*[None] * 4)  # type: ignore[arg-type]
        return item

    assert list(streams.each(work, range(50))) == list(range(50))
    assert most == 2


@pytest.mark.parametrize("number", [1, 2])
def test_an_error_reaches_the_caller_and_what_was_not_begun_is_left_out(number: int) -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        if item == 3:
            raise KeyboardInterrupt
        time.sleep(0 if item < 3 else 0.02)  # the caller must get a turn
        return item

    streams = Streams([lambda *_: np.zeros(1)] * number, start_cost=1)
    with pytest.raises(KeyboardInterrupt):
        list(streams.each(work, range(1000)))
    assert len(begun) < 500
