"""Estimates shared by the stages that train on tokens or embed texts.

Tokens per second are measured briefly, on random weights of the model's architecture.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from culet.architecture.embedding_config import EmbeddingConfig
from culet.architecture.generating_config import DecoderConfig, EncoderDecoderConfig
from culet.checkpoints.checkpoint import Checkpoint
from culet.data.batches.collate import PairBatch
from culet.data.batches.windows import TokenPairs, TokenWindows
from culet.errors import CuletError
from culet.files.tensors import read_tensors, write_tensors
from culet.model.decoder import Decoder
from culet.model.embedding_model import EmbeddingModel, initialize
from culet.model.encoder_decoder import EncoderDecoder
from culet.model.weights import to_arrays
from culet.runtime.pytorch import TorchEngine
from culet.stages.estimate import (
    Context,
    Disk,
    Estimate,
    Machine,
    state_bytes,
    stored,
    table_parameters,
)
from culet.stages.samples import Rows, tokens
from culet.train.contrastive_step import LossConfig, contrastive_step
from culet.train.gradient_cache import one_tower
from culet.train.language_steps import StepConfig, head_table, pairs_step, windows_step
from culet.train.processes import find_device

if TYPE_CHECKING:
    from culet.stages.estimate import Shape
    from culet.stages.language import TokenTraining

Step = Callable[[int], int]  # processes about this many tokens and returns the exact number

_SHORTEST, _LONGEST = 128, 2048  # tokens of measured steps, each four times as long as the last
_SECONDS, _WAIT = 1.5, 8.0  # rough limits of measuring, in CPU time and by the clock
_TOKEN, _TEXT = 4 / 3, 24  # bytes on disk per byte of text as tokens, and per text
_TYPICAL = 32  # tokens of a text in a batch of pairs
_SCALING = 0.9  # two threads are 1.9 times as fast as one, sixteen 12 times; about
_MAX_WEIGHTS = 1 << 29  # of a model that is built to be measured: 4 GB with its gradients
_MAX_WRITTEN = 1 << 26  # of one that is written to disk for OpenVINO as well


def speed_of_pairs(
    shape: Any, loss: LossConfig, max_tokens: int, dtype: str, machine: Machine
) -> float | None:
    """Return the tokens a second of a contrastive step; None if the model is not known."""
    if not isinstance(shape, EmbeddingConfig) or shape.num_parameters() > _MAX_WEIGHTS:
        return None
    loss = replace(loss, distill_projection="prefix")  # there is no teacher here
    return _pairs(shape, loss, min(max_tokens, _TYPICAL), dtype, machine)


@cache
def _pairs(
    shape: EmbeddingConfig, loss: LossConfig, length: int, dtype: str, machine: Machine
) -> float:
    def prepared(device: str) -> Step:
        model = initialize(EmbeddingModel(shape), seed=0).to(device)
        towers = one_tower(model, compute_dtype=getattr(torch, dtype))

        def step(tokens: int) -> int:
            texts = _texts(shape.encoder.vocab_size, 2 * max(2, tokens // length // 2), length)
            pairs = len(texts) // 2
            first = np.arange(pairs)
            batch = PairBatch(texts, first, pairs + first, np.empty((pairs, 0), dtype=np.int64))
            contrastive_step(towers, batch, loss)
            return batch.num_tokens

        return step

    return measured(prepared, machine)


def speed_of_language(
    shape: Any, length: int, dtype: str, machine: Machine, *, candidates: int, still: bool
) -> float | None:
    """Return the tokens a second of a step of a language model; None if that is not known.

    Args:
        shape: The model.
        length: Tokens of an example.
        dtype: Of activations.
        machine: Where it runs.
        candidates: See `culet.stages.language.TokenTraining`.
        still: The token tables are frozen.
    """
    known = isinstance(shape, DecoderConfig | EncoderDecoderConfig)
    if not known or shape.num_parameters() > _MAX_WEIGHTS:
        return None
    config = StepConfig(compute_dtype=getattr(torch, dtype), candidates=candidates)
    return _language(shape, length, config, still, machine)


@cache
def _language(
    shape: DecoderConfig | EncoderDecoderConfig,
    length: int,
    config: StepConfig,
    still: bool,
    machine: Machine,
) -> float:
    def prepared(device: str) -> Step:
        model: Decoder | EncoderDecoder
        model = Decoder(shape) if isinstance(shape, DecoderConfig) else EncoderDecoder(shape)
        model = model.to(device)
        for name, parameter in model.named_parameters():
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
            parameter.requires_grad_(not (still and name.endswith("embed")))

        def step(tokens: int) -> int:
            number = max(2, tokens // length)
            if isinstance(model, Decoder):
                texts = _texts(model.config.stack.vocab_size, number, length)
                windows = TokenWindows(texts, texts)
                windows_step(model.stack, head_table(model), windows, config)
                return windows.num_tokens
            half = max(2, length // 2)
            sources, targets = (
                _texts(model.config.encoder.vocab_size, number, size)
                for size in (half, max(2, length - half))
            )
            pairs = TokenPairs(sources, targets)
            pairs_step(model, pairs, config, bos=2)
            return pairs.num_tokens

        return step

    return measured(prepared, machine)


def language_estimate(
    config: TokenTraining,
    context: Context,
    *,
    trained: Shape | None,
    models: Mapping[str, Shape | None],
    per_step: float,
    length: int,
    at_most: bool = False,
    texts: Sequence[Path] = (),
) -> Estimate:
    """Return what a stage that trains a language model would take.

    Args:
        config: Its settings.
        context: The recipe around it.
        trained: The model that is trained; None if its speed cannot be measured.
        models: The models it leaves, the trained one first.
        per_step: Tokens of a step.
        length: Tokens of an example.
        at_most: `per_step` is an upper bound.
        texts: What is stored as tokens while it runs.
    """
    still = config.optim.embed_lr == 0
    known = [shape for shape in models.values() if shape is not None]
    disk = None
    if known:
        kept = float(sum(stored(shape, config.save_dtype) for shape in known))
        moving = known[0].num_parameters() - (table_parameters(known[0]) if still else 0)
        last = config.average_last + 1 if config.average_last > 1 else 0
        rows = context.rows(texts)
        streams = 0.0 if rows is None else rows.total(lambda row: _TOKEN * sum(row.sides) + _TEXT)
        waiting = last * stored(known[0], "float32") + streams
        disk = Disk(kept + state_bytes(moving, config.optim) + waiting, kept)

    def speed() -> float | None:
        return speed_of_language(
            trained,
            length,
            config.compute_dtype,
            context.machine,
            candidates=config.candidates,
            still=still,
        )

    steps = config.steps
    return Estimate(steps, steps * per_step, at_most, speed, disk=disk, models=models)


def embedding_estimate(
    rows: Rows | None, shape: Any, precision: str | None, machine: Machine
) -> Estimate:
    """Return the estimate of embedding each text of some rows once."""
    if rows is None:
        return Estimate(speed=lambda: None)
    longest = getattr(getattr(shape, "encoder", None), "max_length", float("inf"))
    count = rows.total(lambda row: sum(tokens(size, longest) for size in row.own))
    length = round(count / rows.total(lambda row: len(row.own)))
    return Estimate(
        tokens=count, speed=lambda: speed_of_embedding(shape, length, precision, machine)
    )


def speed_of_embedding(
    shape: Any, length: int, precision: str | None, machine: Machine
) -> float | None:
    """Return the tokens a second of embedding texts, by the engine that `culet.load` chooses."""
    if not isinstance(shape, EmbeddingConfig) or shape.num_parameters() > _MAX_WEIGHTS:
        return None
    return _embedding(shape, max(8, min(length, shape.encoder.max_length)), precision, machine)


@cache
def _embedding(
    shape: EmbeddingConfig, length: int, precision: str | None, machine: Machine
) -> float:
    with tempfile.TemporaryDirectory() as folder:

        def prepared(device: str) -> Step:
            engine = _engine(shape, device, Path(folder), precision)

            def step(tokens: int) -> int:
                texts = _texts(shape.encoder.vocab_size, max(1, tokens // length), length)
                for _ in engine.embed(texts):
                    pass
                return sum(map(len, texts))

            return step

        return measured(prepared, machine)


def _engine(shape: EmbeddingConfig, device: str, folder: Path, precision: str | None) -> Any:
    """Return the engine that a stage would embed with, its weights random."""
    model = initialize(EmbeddingModel(shape), seed=0).eval()
    if device == "cpu" and shape.num_parameters() <= _MAX_WRITTEN:
        file = folder / "model.safetensors"
        write_tensors(file, to_arrays(model))
        arrays = dict(read_tensors(file))
        tokenizer = folder / "tokenizer.json"
        checkpoint = Checkpoint(folder, shape, "", arrays, tokenizer, fingerprint="random")
        try:
            from culet.runtime.openvino.engine import OpenVinoEngine

            return OpenVinoEngine(checkpoint, precision, threads=1, cache=folder)
        except (ImportError, CuletError):
            pass  # PyTorch embeds then, or the stage reports what is wrong
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    return TorchEngine(model.to(device, dtype), device=device, dtype=dtype)


def measured(prepared: Callable[[str], Step], machine: Machine) -> float:
    """Return the tokens a second of a step on a machine.

    A CPU is measured with one thread: with several, threads spin while they wait for one whose core
    is busy, and beside another run the estimate would be a hundred times too long.

    Args:
        prepared: Returns the step on a device.
        machine: Where the run computes.
    """
    before = torch.get_num_threads()
    device = find_device(machine.device, 0, 1)
    if device != "cpu":
        return timed(prepared(device), on_cpu=False)
    speedup = float((machine.threads or before) ** _SCALING)
    torch.set_num_threads(1)
    try:
        return speedup * timed(prepared(device))
    finally:
        torch.set_num_threads(before)


def timed(step: Step, *, on_cpu: bool = True) -> float:
    """Return the tokens a second of a step.

    Steps grow until they are long enough to be typical, or enough time has passed. On a CPU only
    the time that this process computes counts, not what other processes take.
    """
    step(_SHORTEST)  # one-off work does not count
    size, best, waited, computed = _SHORTEST, 0.0, 0.0, 0.0
    while True:
        clock, work = time.perf_counter(), time.process_time()
        done = step(size)
        seconds = time.perf_counter() - clock
        taken = min(seconds, time.process_time() - work) if on_cpu else seconds
        best = max(best, done / max(taken, 1e-6))
        waited, computed = waited + seconds, computed + taken
        # the next step takes about four times as long
        if size >= _LONGEST or computed + 4 * taken > _SECONDS or waited + 4 * seconds > _WAIT:
            return best
        size = min(_LONGEST, 4 * size)


def _texts(vocab_size: int, number: int, length: int) -> list[np.ndarray]:
    """Return texts of random tokens."""
    tokens = np.random.default_rng(0).integers(min(5, vocab_size - 1), vocab_size, (number, length))
    return list(tokens)
