"""What the language-model stages share: settings, windows of text, training, an encoder's head."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from culet.architecture.encoder_config import EncoderConfig
from culet.architecture.generating_config import EncoderDecoderConfig
from culet.checkpoints.write import write_checkpoint
from culet.data.batches.shuffle import check_seed
from culet.data.batches.windows import TextSourceConfig, WindowPlan, read_text_sources
from culet.errors import RecipeError
from culet.files.settings import LATER
from culet.files.tensors import StoredDtype
from culet.model.batch import pack
from culet.model.embedding_model import check_dtype
from culet.model.encoder import Encoder
from culet.model.heads import quieted, with_head
from culet.model.pooling import mean_pool
from culet.model.weights import from_arrays
from culet.stages.folder import StageFolder
from culet.stages.new_head import HeadConfig, embedding_config
from culet.stages.provenance import provenance
from culet.text.prompts import Prompts
from culet.text.tokenizer import TextTokenizer
from culet.train.averaging import average_files, save_weights, saved
from culet.train.language_steps import StepConfig
from culet.train.loop import AnyBatch
from culet.train.optim import OptimConfig
from culet.train.processes import current, put_together
from culet.train.resume import drop_state
from culet.train.session import Freeze, Session


@dataclass(frozen=True, kw_only=True)
class TokenTraining:
    """The settings of every language-model stage.

    Attributes:
        steps: Optimiser steps.
        batch_size: Examples in a batch.
        optim: How weights move.
        seed: Decides batches, masks and dropout.
        dropout: See `EncoderConfig`; the checkpoint has none.
        chunk_tokens: Tokens in the model at a time.
        compute_dtype: Dtype of activations; weights stay float32.
        save_dtype: Dtype of the checkpoints the stage writes.
        save_every: Steps between resumable states.
        average_last: Number of the last saved weights that are averaged; 1 takes the last ones.
        average_every: Steps between the weights that are averaged; the last step always counts.
        candidates: Words in each softmax besides those of its labels, a random sample that stands
            for all others; 0 takes the whole vocabulary. See
            `culet.losses.tokens.Candidates`.
    """

    steps: int
    batch_size: int = 64
    optim: OptimConfig = field(default_factory=OptimConfig)
    seed: int = 0
    dropout: float = 0.0
    chunk_tokens: int = 16_384
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    save_dtype: StoredDtype = "float32"
    save_every: int = 200
    average_last: int = 1
    average_every: int = 0
    candidates: int = field(default=0, metadata=LATER)

    def __post_init__(self) -> None:
        check_seed(self.seed)
        least = {"steps": 1, "batch_size": 1, "chunk_tokens": 1, "save_every": 1, "average_last": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise RecipeError(f"{name} must be at least {bound}, got {getattr(self, name)}")
        if self.candidates < 0:
            raise RecipeError(f"candidates must not be negative, got {self.candidates}")
        if self.average_last > 1 and self.average_every < 1:
            raise RecipeError(
                f"average_last = {self.average_last} needs average_every, the steps between the "
                "weights that are averaged"
            )

    def step_config(self, *, distill: float = 0.5) -> StepConfig:
        """Return how a step computes a batch."""
        dtype = check_dtype(getattr(torch, self.compute_dtype))
        return StepConfig(self.chunk_tokens, dtype, distill, self.candidates)


_TEXTS_OF_A_HEAD = 4096

# Settings that do not change what is learnt, and inputs that are identified by their content.
UNIMPORTANT = ("save_every", "init", "teacher")


def write_encoder(
    folder: StageFolder,
    encoder: EncoderConfig,
    arrays: Mapping[str, np.ndarray],
    head: HeadConfig,
    *,
    place: Path,
    tokenizer_json: str,
    dtype: StoredDtype,
    models: Sequence[Path],
    data: Sequence[Path],
    windows: tuple[WindowPlan, TextTokenizer] | None = None,
) -> None:
    """Write an encoder with a new head as an embedding checkpoint for the contrastive stages.

    Args:
        folder: The stage's folder.
        encoder: Architecture of the encoder.
        arrays: Its weights.
        head: The new head.
        place: Folder of the checkpoint.
        tokenizer_json: Its tokenizer.
        dtype: How weights are stored.
        models: Models it was made of, for the ledger and the card.
        data: Data it was trained on, for the same.
        windows: Texts, for a head that is fitted to them.

    Raises:
        InputError: If no embedding model can have such an encoder.
    """
    config, pooled = embedding_config(encoder, head), None
    arrays = quieted(arrays, head.sublayers)
    if head.whiten and windows is not None:
        model = from_arrays(config, with_head(config, arrays, seed=head.seed))
        pooled = pooled_windows(model.encoder, *windows)
    write_checkpoint(
        place,
        config,
        with_head(config, arrays, seed=head.seed, whiten=head.whiten, pooled=pooled),
        tokenizer_json=tokenizer_json,
        prompts=Prompts.default().to_names(),
        dtype=dtype,
        extra_files=provenance(folder, config, models, data),
    )


@torch.no_grad()
def pooled_windows(encoder: Encoder, plan: WindowPlan, tokenizer: TextTokenizer) -> np.ndarray:
    """Return the pooled states of about 4,096 windows of text, float32 [T, D].

    Raises:
        RecipeError: If the sources hold facts alone.
    """
    if all(source.triples for source in plan.sources):
        raise RecipeError("a head that whitens is fitted to texts, and the sources hold facts only")
    encoder.eval()
    device, pooled, step, count = encoder.embed.device, [], 0, 0
    while count < _TEXTS_OF_A_HEAD:
        slots = [s for s in plan.slots.draw(step) if not plan.sources[s.source].triples]
        windows = [plan.cut(slot)[0] for slot in slots]
        step += 1
        if windows:
            ends = [tokenizer.bos_id], [tokenizer.eos_id]
            texts = [np.concatenate([ends[0], window, ends[1]]) for window in windows]
            batch = pack(texts).to(device)
            pooled.append(mean_pool(encoder(batch, compute_dtype=torch.float32).hidden, batch))
            count += len(windows)
    return np.asarray(torch.cat(pooled).cpu().numpy())


def check_window(window: int, stack: EncoderConfig) -> None:
    """Raise RecipeError unless a window with BOS and EOS fits into a stack."""
    if window + 2 > stack.max_length:
        raise RecipeError(
            f"window = {window} needs room for {window + 2} tokens, and the model was made for "
            f"{stack.max_length}; make the window smaller"
        )


def read_windows(
    config: TokenTraining,
    sources: Sequence[TextSourceConfig],
    window: int,
    tokenizer: TextTokenizer,
    folder: StageFolder,
) -> WindowPlan:
    """Return windows of some texts, `window` tokens each; the first process tokenizes them once.

    Raises:
        InputError: At the first bad row, with file and line.
    """
    world = current()
    with world.first_then_others():
        read = read_text_sources(sources, tokenizer, folder.path / ".tokens")
    return WindowPlan(
        read,
        window=window,
        batch_size=config.batch_size,
        seed=config.seed,
        rank=world.rank,
        world_size=world.size,
    )


def train(
    config: TokenTraining,
    model: nn.Module,
    named: Mapping[str, nn.Parameter],
    step: Callable[[AnyBatch], dict[str, float]],
    batcher: Callable[[int], AnyBatch],
    folder: StageFolder,
    *,
    name: str,
    say: Callable[[str], None],
    freeze: Freeze | None = None,
) -> dict[str, Any] | None:
    """Train, resuming an interrupted run, and return what is worth recording.

    Afterwards the parameters are the average of the last saved ones, if that was asked for. Among
    several processes the first alone gets a result, and writes. Layers may be split over them
    (`World.shard_layers`): then the model is put together for the first one at the end, to be read.

    Args:
        config: The settings.
        model: The model whose weights these are.
        named: What is trained, by the names of the model; others may be added.
        step: See `Session.run`.
        batcher: See there.
        folder: The stage's folder.
        name: What messages call the stage.
        say: Takes lines for the person watching.
        freeze: Parameters that wait, and for how long.

    Raises:
        TrainingError: If the loss or its gradient stops being finite.
        Interrupted: After SIGINT, with the state saved.
    """
    named = _trainable(named, config.optim)
    session = Session(config, named.items(), folder, name=name, say=say, freeze=freeze)
    weights = folder.path / ".weights"

    def keep(done: int) -> None:
        save_weights(weights, session.optimizer.named, step=done, keep=config.average_last)

    if config.average_last > 1:
        session.keep_every(config.average_every, keep)
    session.run(step, batcher)
    if config.average_last > 1 and config.steps % config.average_every:
        keep(config.steps)
    session.take_average()
    put_together(model)
    if not current().first:
        return None
    if config.average_last > 1:
        _take_mean({**named, **dict(model.named_parameters())}, list(saved(weights).values()))
    return session.summary()


def finish(folder: StageFolder, result: dict[str, Any]) -> None:
    """Record that the stage is finished, and drop what only an unfinished one needs."""
    folder.finish(result)
    drop_state(folder.state)
    for name in (".weights", ".tokens"):
        shutil.rmtree(folder.path / name, ignore_errors=True)


def with_dropout(config: EncoderDecoderConfig, rate: float) -> EncoderDecoderConfig:
    """Return an architecture whose stacks have this dropout."""
    decoder = replace(config.decoder, stack=replace(config.decoder.stack, dropout=rate))
    return replace(config, encoder=replace(config.encoder, dropout=rate), decoder=decoder)


@torch.no_grad()
def _take_mean(named: Mapping[str, nn.Parameter], files: Sequence[Path]) -> None:
    for key, value in average_files(files).items():
        parameter = named[key]
        parameter.copy_(torch.from_numpy(value).view_as(parameter))


def _trainable(named: Mapping[str, nn.Parameter], optim: OptimConfig) -> dict[str, nn.Parameter]:
    """Return the parameters that learn; token tables whose rate is 0 need no gradient either."""
    still = {key for key in named if key.endswith("embed") and optim.embed_lr == 0}
    for key in still:
        named[key].requires_grad_(False)
    return {key: value for key, value in named.items() if key not in still}
