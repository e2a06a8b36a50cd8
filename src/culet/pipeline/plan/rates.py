"""Tokens a second: from logs, or measured for a moment on a model of random weights."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from culet.pipeline.graph import RunConfig
from culet.pipeline.stage import Stage
from culet.train.log import read_log

if TYPE_CHECKING:
    from culet.architecture.embedding_config import EmbeddingConfig
    from culet.pipeline.plan.architectures import Shape

_FIRST, _MOST = 128, 2048  # tokens of the steps that are measured, each four times the one before
_SECONDS, _WAIT = 1.5, 8.0  # of computing, and on a clock, that measuring may take; about
_TYPICAL = 32  # tokens of a text in a batch of pairs
_SCALING = 0.9  # two threads are 1.9 times as fast as one, sixteen 12 times; about
_MOST_WEIGHTS = 1 << 29  # of a model that is made to be measured: 4 GB with its gradients
_MOST_WRITTEN = 1 << 26  # of one that is written down for OpenVINO as well


def log_of(stage: Stage) -> list[dict[str, Any]]:
    """Return the log of a stage, empty if there is none."""
    return read_log(stage.folder / "log.jsonl")


def log_aside(stage: Stage) -> list[dict[str, Any]]:
    """Return the log of the youngest earlier run of a stage that was moved aside."""
    logs = sorted(
        stage.folder.parent.glob(f"{stage.name}.*/log.jsonl"), key=lambda file: file.stat().st_mtime
    )
    return read_log(logs[-1]) if logs else []


def logged(log: Sequence[Mapping[str, Any]]) -> float:
    """Return the tokens a second of a log, waiting for data included."""
    waited = [line["tokens"] / (line["seconds"] + line["waited_seconds"]) for line in log]
    return float(median(waited))


def of_pairs(shape: Shape | None, config: Any, run: RunConfig) -> float | None:
    """Return the tokens a second of a contrastive step."""
    from culet.architecture.embedding_config import EmbeddingConfig

    if not isinstance(shape, EmbeddingConfig) or shape.num_parameters() > _MOST_WEIGHTS:
        return None
    loss = replace(config.loss, distill_projection="prefix")  # there is no teacher here
    length = min(config.max_tokens, _TYPICAL)
    return _pairs(shape, length, loss, config.compute_dtype, run)


def of_language(
    shape: Shape | None, stage: Stage, before: Shape | None, run: RunConfig
) -> float | None:
    """Return the tokens a second of a step of next, hidden or missing tokens.

    Args:
        shape: What is trained.
        stage: Its stage.
        before: What it starts from.
        run: Device and threads.
    """
    from culet.architecture.embedding_config import EmbeddingConfig
    from culet.architecture.generating_config import DecoderConfig, EncoderDecoderConfig

    config = stage.config
    if isinstance(shape, EmbeddingConfig) and isinstance(before, DecoderConfig):
        shape = before  # without its mask, and with its head
    if not isinstance(shape, DecoderConfig | EncoderDecoderConfig):
        return None
    if shape.num_parameters() > _MOST_WEIGHTS or stage.inputs.get("teacher") is not None:
        return None
    length = getattr(config, "window", None) or config.max_source_tokens + config.max_target_tokens
    still = config.optim.embed_lr == 0
    return _language(shape, length, config.compute_dtype, config.candidates, still, run)


def of_embedding(
    shape: Shape | None, length: int, precision: str | None, run: RunConfig
) -> float | None:
    """Return the tokens a second of embedding texts, by the engine that `culet.load` takes."""
    from culet.architecture.embedding_config import EmbeddingConfig

    if not isinstance(shape, EmbeddingConfig) or shape.num_parameters() > _MOST_WEIGHTS:
        return None
    return _embedding(shape, max(8, min(length, shape.encoder.max_length)), precision, run)


@cache
def _pairs(shape: EmbeddingConfig, length: int, loss: Any, dtype: str, run: RunConfig) -> float:
    import torch

    from culet.data.batches.collate import PairBatch
    from culet.model.embedding_model import EmbeddingModel, initialize
    from culet.train.contrastive_step import contrastive_step

    def step(tokens: int) -> int:
        texts = _texts(shape.encoder.vocab_size, 2 * max(2, tokens // length // 2), length)
        pairs = len(texts) // 2
        first = np.arange(pairs)
        batch = PairBatch(texts, first, pairs + first, np.empty((pairs, 0), dtype=np.int64))
        contrastive_step(model, batch, loss, compute_dtype=getattr(torch, dtype))
        return batch.num_tokens

    with _computing(run) as (device, speedup):
        model = initialize(EmbeddingModel(shape), seed=0).to(device)
        return speedup * measured(step, on_cpu=device == "cpu")


@cache
def _language(
    shape: Any, length: int, dtype: str, candidates: int, still: bool, run: RunConfig
) -> float:
    import torch

    from culet.architecture.generating_config import DecoderConfig
    from culet.data.batches.windows import TokenPairs, TokenWindows
    from culet.model.decoder import Decoder
    from culet.model.encoder_decoder import EncoderDecoder
    from culet.train.language_steps import StepConfig, head_table, pairs_step, windows_step

    config = StepConfig(compute_dtype=getattr(torch, dtype), candidates=candidates)
    model: Decoder | EncoderDecoder
    model = Decoder(shape) if isinstance(shape, DecoderConfig) else EncoderDecoder(shape)
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
            else:
                parameter.zero_()
        parameter.requires_grad_(not (still and name.endswith("embed")))

    def step(tokens: int) -> int:
        number = max(2, tokens // length)
        if isinstance(model, Decoder):
            texts = _texts(shape.stack.vocab_size, number, length)
            windows = TokenWindows(texts, texts)
            windows_step(model.stack, head_table(model), windows, config)
            return windows.num_tokens
        half = max(2, length // 2)
        sources, targets = (
            _texts(shape.encoder.vocab_size, number, size) for size in (half, max(2, length - half))
        )
        pairs = TokenPairs(sources, targets)
        pairs_step(model, pairs, config, bos=2)
        return pairs.num_tokens

    with _computing(run) as (device, speedup):
        model = model.to(device)
        return speedup * measured(step, on_cpu=device == "cpu")


@cache
def _embedding(shape: EmbeddingConfig, length: int, precision: str | None, run: RunConfig) -> float:
    def step(tokens: int) -> int:
        texts = _texts(shape.encoder.vocab_size, max(1, tokens // length), length)
        for _ in engine.embed(texts):
            pass
        return sum(map(len, texts))

    with _computing(run) as (device, speedup), tempfile.TemporaryDirectory() as folder:
        engine = _engine(shape, device, Path(folder), precision)
        return speedup * measured(step, on_cpu=device == "cpu")


def _engine(shape: EmbeddingConfig, device: str, folder: Path, precision: str | None) -> Any:
    """Return the engine that a stage would embed with, its weights random."""
    import torch

    from culet.model.embedding_model import EmbeddingModel, initialize
    from culet.runtime.pytorch import TorchEngine

    model = initialize(EmbeddingModel(shape), seed=0).eval()
    if device == "cpu" and shape.num_parameters() <= _MOST_WRITTEN:
        engine = _openvino(model, shape, folder, precision)
        if engine is not None:
            return engine
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    return TorchEngine(model.to(device, dtype), device=device, dtype=dtype)


def _openvino(model: Any, shape: EmbeddingConfig, folder: Path, precision: str | None) -> Any:
    """Return the engine of CPUs for a model, or None where it is not installed."""
    from culet.checkpoints.embedding import Checkpoint
    from culet.errors import CuletError
    from culet.files.tensors import read_tensors, write_tensors
    from culet.model.weights import to_arrays

    try:
        from culet.runtime.openvino.engine import OpenVinoEngine
    except ImportError:
        return None
    file = folder / "model.safetensors"
    write_tensors(file, to_arrays(model))
    tensors = dict(read_tensors(file))
    checkpoint = Checkpoint(folder, shape, tensors, {}, folder / "tokenizer.json", "measured", ())
    try:
        return OpenVinoEngine(checkpoint, precision, threads=1, cache=folder)
    except CuletError:
        return None  # the stage will say what is wrong


def measured(step: Callable[[int], int], *, on_cpu: bool = True) -> float:
    """Return the tokens a second of a step that takes about so many tokens and says how many.

    Steps grow until they are long enough to be typical, or enough time has gone by. On a CPU what
    other processes take of it does not count: a wait for them is no computing.
    """
    step(_FIRST)  # what is done once is no part of it
    size, best, waited, computed = _FIRST, 0.0, 0.0, 0.0
    while True:
        clock, work = time.perf_counter(), time.process_time()
        done = step(size)
        seconds = time.perf_counter() - clock
        taken = min(seconds, time.process_time() - work) if on_cpu else seconds
        best = max(best, done / max(taken, 1e-6))
        waited, computed = waited + seconds, computed + taken
        # the next step takes some four times as long
        if size >= _MOST or computed + 4 * taken > _SECONDS or waited + 4 * seconds > _WAIT:
            return best
        size = min(_MOST, 4 * size)


def _texts(vocab_size: int, number: int, length: int) -> list[np.ndarray]:
    """Return texts of random tokens."""
    return list(
        np.random.default_rng(0).integers(min(5, vocab_size - 1), vocab_size, (number, length))
    )


@contextmanager
def _computing(run: RunConfig) -> Iterator[tuple[str, float]]:
    """Yield where a run computes, and how many times as fast as what is measured.

    A CPU is measured in one thread: of several, those that wait for one whose core has other work
    spin, and the estimate beside another run would be a hundred times too long.
    """
    import torch

    from culet.train.processes import find_device

    before = torch.get_num_threads()
    device = find_device(run.device, 0, 1)
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        yield device, (run.threads or before) ** _SCALING if device == "cpu" else 1.0
    finally:
        torch.set_num_threads(before)
