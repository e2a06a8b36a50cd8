"""Several rectangles at a time: the same vectors, and nothing left behind when it stops early."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_checkpoint import write_random
from runtime_doubles import BFLOAT16, LENGTHS, embed, reference, texts

from culet.architecture.embedding_config import embeddinggemma_300m, tiny
from culet.checkpoints.checkpoint import EmbeddingCheckpoint
from culet.checkpoints.embedding import read_embedding_model
from culet.runtime.openvino import engine as engine_module
from culet.runtime.openvino.engine import OpenVinoEngine
from culet.runtime.openvino.processor import cpu_flags, int8_needs_one_stream
from culet.runtime.openvino.quantized import int8_widths
from culet.runtime.openvino.streams import Request, Streams


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingCheckpoint:
    return read_embedding_model(write_random(tmp_path_factory.mktemp("streams") / "m"))


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
    checkpoint: EmbeddingCheckpoint, precision: str, tmp_path: Path, compiled: list[str]
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
    of_one_stream = precision == "int8" and int8_needs_one_stream(
        int8_widths(checkpoint.config), cpu_flags()
    )
    assert compiled == (["1", "1"] if of_one_stream else ["1", "1", "2"])
    assert len(list(tmp_path.glob("*.blob"))) == 1  # one file for both


# --- what a CPU gets wrong -----------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["amx_int8", "amx_bf16"])
def test_int8_of_uneven_widths_takes_one_stream_on_a_cpu_with_amx(
    flag: str,
    checkpoint: EmbeddingCheckpoint,
    compiled: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_module, "cpu_flags", lambda: frozenset({"avx2", flag}))
    embed(OpenVinoEngine(checkpoint, "int8", threads=2, cache=tmp_path), texts(LENGTHS))
    assert compiled == ["1"]
    monkeypatch.setattr(engine_module, "cpu_flags", lambda: frozenset({"avx2"}))
    embed(OpenVinoEngine(checkpoint, "int8", threads=2, cache=tmp_path), texts((1,)))
    assert compiled == ["1", "1"]


def test_int8_of_even_widths_keeps_its_streams_on_a_cpu_with_amx(
    compiled: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = replace(tiny().encoder, model_dim=64, ffn_dim=64, head_dim=32)
    config = replace(tiny(), encoder=encoder)
    wide = read_embedding_model(write_random(tmp_path / "m", config))
    monkeypatch.setattr(engine_module, "cpu_flags", lambda: frozenset({"amx_int8"}))
    ids = texts(LENGTHS)
    engine = OpenVinoEngine(wide, "int8", threads=2, cache=tmp_path / "cache")
    assert (embed(engine, ids) * reference(wide, ids)).sum(axis=1).mean() >= 0.995
    assert compiled == ["1", "2"]


def test_the_rule_goes_by_widths_and_flags() -> None:
    amx, other = frozenset({"avx512_vnni", "amx_int8"}), frozenset({"avx512_vnni"})
    assert int8_widths(tiny()) == {32, 48, 64, 96}  # model, ffn, query+key+value, gate+up
    assert int8_widths(embeddinggemma_300m()) == {768, 1152, 1280, 2304}
    assert int8_needs_one_stream({48, 64}, amx)
    assert int8_needs_one_stream({48, 64}, None)  # a CPU of which nothing is known
    assert not int8_needs_one_stream({48, 64}, other)
    assert not int8_needs_one_stream(int8_widths(embeddinggemma_300m()), amx)


def test_flags_are_read_where_the_system_says_them(tmp_path: Path) -> None:
    assert cpu_flags(tmp_path) is None  # no /proc
    (tmp_path / "proc").mkdir()
    path = tmp_path / "proc/cpuinfo"
    path.mkdir()
    assert cpu_flags(tmp_path) is None  # cannot be read
    path.rmdir()
    path.write_text("processor\t: 0\nflags\t\t: fpu amx_int8\n\nflags\t\t: fpu\n")
    assert cpu_flags(tmp_path) == {"fpu", "amx_int8"}
    path.write_text("processor\t: 0\nFeatures\t: fp asimd\n")
    assert cpu_flags(tmp_path) == {"fp", "asimd"}
    path.write_bytes(b"processor: 0\n\xff\xfe")
    assert cpu_flags(tmp_path) is None


def spoilt(how: str) -> type[Request]:
    """Return requests of a compiled model whose embeddings are spoilt."""

    class Spoilt(Request):
        def __call__(self, *inputs: Any) -> np.ndarray:
            out = super().__call__(*inputs)
            if how == "varying":
                return np.random.default_rng().normal(size=out.shape).astype(np.float32)
            if how == "not a number":
                return np.full_like(out, np.nan)
            share = {"one text": 1.0, "slightly": 0.15, "by rounding": 1e-6}[how]
            out[0] += share * np.linalg.norm(out[0]) * np.eye(1, out.shape[1])[0]
            return out

    return Spoilt


@pytest.mark.parametrize("how", ["varying", "not a number", "one text", "slightly"])
@pytest.mark.parametrize("precision", ["float32", BFLOAT16, "int8"])
def test_streams_that_give_wrong_vectors_are_given_up(
    checkpoint: EmbeddingCheckpoint,
    precision: str,
    how: str,
    compiled: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_module, "cpu_flags", lambda: frozenset())
    ids = texts(LENGTHS)
    right = embed(OpenVinoEngine(checkpoint, precision, threads=1, cache=tmp_path), ids)
    engine = OpenVinoEngine(checkpoint, precision, threads=2, cache=tmp_path)
    monkeypatch.setattr(engine_module, "Request", spoilt(how))  # of all that is opened from now on
    with pytest.warns(
        UserWarning,
        match=f"2 streams of openvino cpu {precision} gave wrong vectors on this machine "
        r"\(cosine .* to those of one stream\); .* all texts go through one stream from now on",
    ):
        found = embed(engine, ids)
    gap = 0.01 if precision == "bfloat16" else 1e-5
    assert np.allclose(found, right, atol=gap)
    assert np.allclose(embed(engine, ids), right, atol=gap)  # without a second warning
    assert compiled == ["1", "1", "2"]


def test_streams_that_differ_by_rounding_are_kept(
    checkpoint: EmbeddingCheckpoint, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = OpenVinoEngine(checkpoint, "float32", threads=2)
    runs: list[int] = []
    monkeypatch.setattr(engine_module, "Request", spoilt("by rounding"))
    single = Streams.borrowed

    def spy(self: Streams) -> Any:
        runs.append(self.number)
        return single(self)

    monkeypatch.setattr(Streams, "borrowed", spy)
    embed(engine, texts(LENGTHS))
    assert runs.count(1) == 2  # to pack the weights, and for the first rectangle
    embed(engine, texts(LENGTHS))
    assert runs.count(1) == 2  # not checked again


# --- when there is one stream --------------------------------------------------------------------


def test_one_thread_has_one_stream(
    checkpoint: EmbeddingCheckpoint, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(OpenVinoEngine(checkpoint, "float32", threads=1), texts(LENGTHS))
    assert compiled == ["1"]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    embed(OpenVinoEngine(checkpoint, "float32"), texts(LENGTHS))  # of the core it may use
    assert compiled == ["1", "1"]


def test_without_memory_for_a_second_model_one_stream_goes_on(
    checkpoint: EmbeddingCheckpoint, compiled: list[str], monkeypatch: pytest.MonkeyPatch
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
    checkpoint: EmbeddingCheckpoint, compiled: list[str]
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
    checkpoint: EmbeddingCheckpoint, compiled: list[str]
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
