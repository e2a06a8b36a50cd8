"""What the language-model stages share: settings, resuming, freezing, averaging, one loop."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

from culet.architecture.encoder_config import EncoderConfig
from culet.checkpoints.embedding import write_checkpoint
from culet.checkpoints.folder import SPECIAL_IDS
from culet.concurrency import Ahead
from culet.data.batches.shuffle import check_seed
from culet.data.batches.windows import TextSourceConfig, WindowPlan, read_text_sources
from culet.data.ledger import training_papers
from culet.data.records import data_files
from culet.errors import RecipeError
from culet.files import fingerprint
from culet.files.settings import LATER, identity, to_tables
from culet.files.tensors import StoredDtype
from culet.model.batch import pack
from culet.model.embedding_model import check_dtype
from culet.model.encoder import Encoder
from culet.model.heads import HeadConfig, embedding_config, quieted, with_head
from culet.model.pooling import mean_pool
from culet.model.weights import from_arrays
from culet.stages.folder import StageFolder
from culet.text.prompts import Prompts
from culet.text.tokenizer import TextTokenizer
from culet.train.averaging import average_files, save_weights, saved
from culet.train.language_steps import StepConfig
from culet.train.log import Report, Unreported, read_log
from culet.train.loop import Action, AnyBatch, Loop
from culet.train.loop import run as run_loop
from culet.train.optim import OptimConfig, Optimizer
from culet.train.processes import current, put_together
from culet.train.resume import drop_state, load_state, save_state


@dataclass(frozen=True, kw_only=True)
class TokenTraining:
    """What every language-model stage can be told.

    Attributes:
        steps: Optimiser steps.
        batch_size: Examples in a batch.
        optim: How weights move.
        seed: Decides batches, masks and dropout.
        dropout: See `EncoderConfig`; none is released.
        chunk_tokens: Tokens in the model at the same time.
        compute_dtype: Dtype of activations; weights stay float32.
        save_dtype: Dtype of the checkpoints the stage writes.
        save_every: Steps between resumable states.
        average_last: How many of the last saved weights are averaged; 1 takes the last ones.
        average_every: Steps between the weights that are averaged; the last step always counts.
        candidates: Words that each softmax is taken over beside those of its labels, a random
            sample that stands for all others; 0 takes the whole vocabulary. See
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
        """Return how a step goes about a batch."""
        dtype = check_dtype(getattr(torch, self.compute_dtype))
        return StepConfig(self.chunk_tokens, dtype, distill, self.candidates)


_TEXTS_OF_A_HEAD = 4096

# Settings that change nothing of what is learnt, and inputs that are told by what is in them.
UNIMPORTANT = ("save_every", "init", "teacher")


def open_folder(
    config: TokenTraining,
    out: Path,
    *,
    name: str,
    data: Sequence[Path],
    inputs: Sequence[str],
    say: Callable[[str], None],
) -> StageFolder:
    """Return the stage's folder, for a run of these settings, data files and inputs.

    Among several processes the first one makes it, and the others look at it then.
    """
    settings = identity(config, run=out.parent)
    for key in UNIMPORTANT:
        settings.pop(key, None)
    files = [file for path in data for file in data_files(path)]
    world = current()
    with world.first_then_others():
        folder = StageFolder(
            out,
            fingerprint=fingerprint.of_settings([settings, fingerprint.of_files(files), *inputs]),
            settings={name: to_tables(config)},
            writes=world.first,
        )
    folder.announced(name, say)
    return folder


def text_tokenizer(tokenizer_json: str, *, max_length: int = 100_000_000) -> TextTokenizer:
    """Return the tokenizer of a checkpoint of this family; by default no text is too long."""
    return TextTokenizer(
        Tokenizer.from_str(tokenizer_json),
        max_length,
        bos_id=SPECIAL_IDS["<bos>"],
        eos_id=SPECIAL_IDS["<eos>"],
    )


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
        encoder: Its architecture.
        arrays: Its weights.
        head: What is put on it.
        place: Where it goes.
        tokenizer_json: Its tokenizer.
        dtype: How weights are stored.
        models: What it was made of, for the ledger of its card.
        data: What it was trained on, likewise.
        windows: Texts, for a head that is fitted to them.

    Raises:
        InputError: If no embedding model can have such an encoder.
    """
    config, pooled = embedding_config(encoder, head), None
    arrays = quieted(arrays, head.sublayers)
    if head.whiten and windows is not None:
        model = from_arrays(config, with_head(config, arrays, replace(head, whiten=0.0)))
        pooled = pooled_windows(model.encoder, *windows)
    write_checkpoint(
        place,
        config,
        with_head(config, arrays, head, pooled=pooled),
        tokenizer_json=tokenizer_json,
        prompts=Prompts.default().to_names(),
        dtype=dtype,
        extra_files=folder_papers(folder) | training_papers(config, models, data),
    )


@torch.no_grad()
def pooled_windows(encoder: Encoder, plan: WindowPlan, tokenizer: TextTokenizer) -> np.ndarray:
    """Return what an encoder makes of about 4,096 windows of text, float32 [T, D].

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


def folder_papers(folder: StageFolder) -> dict[str, str]:
    """Return the small file that says with which settings a checkpoint was made."""
    return {"culet_recipe.toml": (folder.path / "recipe.toml").read_text("utf-8")}


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
    """Return windows of so many tokens of some texts; the first process tokenizes them, once.

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


@dataclass(frozen=True)
class Freeze:
    """Parameters that wait while the others learn.

    Attributes:
        names: Which.
        steps: For how many steps; their moments begin empty afterwards.
    """

    names: frozenset[str]
    steps: int


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
    """Train, resuming where an interrupted run was, and return what is worth recording.

    Afterwards the parameters are the average of the last saved ones, if that was asked for. Among
    several processes each has its part of the batches; the first alone gets a result, and writes.
    Layers may be split over them (`World.shard_layers`): then the model is put together for the
    first one at the end, to be read.

    Args:
        config: The settings.
        model: Whose weights those are.
        named: What is trained, by the names of the model; others may be added.
        step: Adds the gradients of a batch, or of this process's part of one.
        batcher: Makes the batch of a step, or this process's part of it.
        folder: The stage's folder.
        name: What messages call the stage.
        say: Takes lines for the person watching.
        freeze: Who waits, and how long.

    Raises:
        TrainingError: If the loss or its gradient stops being finite.
        Interrupted: After SIGINT, with the state saved.
    """
    world = current()
    named = _that_move(named, config.optim)
    optimizer = Optimizer(named.items(), config.optim, steps=config.steps)
    if freeze is not None:
        _give_empty_moments(optimizer, freeze.names)
    torch.manual_seed(config.seed)
    first = load_state(folder.state, optimizer, fingerprint=folder.fingerprint)
    if first:
        say(f"{name}: resuming after step {first} of {config.steps}")
    weights = folder.path / ".weights"
    actions: list[Action] = []

    def keep(done: int) -> None:
        save_weights(weights, optimizer.named, step=done, keep=config.average_last)

    if config.average_last > 1:
        actions.append((config.average_every, keep))
        if first and first % config.average_every == 0 and first not in saved(weights):
            keep(first)  # a kill came between the state and the weights of that step
    if freeze is not None and first < freeze.steps:
        _let_learn(named, freeze, False)
        actions.append((freeze.steps, lambda done: _let_learn(named, freeze, True)))

    def save(done: int) -> None:
        save_state(folder.state, optimizer, step=done, fingerprint=folder.fingerprint)

    with (
        Ahead(map(batcher, range(first, config.steps))) as batches,
        _report(name, folder, start=first, steps=config.steps) as report,
    ):
        loop = Loop(step, optimizer, save, report, config.save_every, actions, seed=config.seed)
        run_loop(loop, batches, start=first, steps=config.steps)
    if config.average_last > 1 and config.steps % config.average_every:
        keep(config.steps)
    with torch.no_grad():
        for key, average in optimizer.average.items():
            optimizer.named[key].copy_(average)
    put_together(model)
    if not world.first:
        return None
    if config.average_last > 1:
        _take_average({**named, **dict(model.named_parameters())}, list(saved(weights).values()))
    return _summary(config, folder)


def _report(name: str, folder: StageFolder, *, start: int, steps: int) -> Report:
    return Report(name, folder.log, start=start, steps=steps) if current().first else Unreported()


def finish(folder: StageFolder, result: dict[str, Any]) -> None:
    """Record that the stage is finished, and drop what only an unfinished one needs."""
    folder.finish(result)
    drop_state(folder.state)
    for name in (".weights", ".tokens"):
        shutil.rmtree(folder.path / name, ignore_errors=True)


def _summary(config: TokenTraining, folder: StageFolder) -> dict[str, Any]:
    log = read_log(folder.log)
    return {
        "steps": config.steps,
        "tokens": sum(line["tokens"] for line in log),
        "seconds": round(sum(line["seconds"] for line in log), 3),
        "waited_seconds": round(sum(line["waited_seconds"] for line in log), 3),
        "texts_cut": sum(line["texts_cut"] for line in log),
        "last": log[-1] if log else {},
    }


@torch.no_grad()
def _take_average(named: Mapping[str, nn.Parameter], files: Sequence[Path]) -> None:
    for key, value in average_files(files).items():
        parameter = named[key]
        parameter.copy_(torch.from_numpy(value).view_as(parameter))


def _that_move(named: Mapping[str, nn.Parameter], optim: OptimConfig) -> Mapping[str, nn.Parameter]:
    """Return what learns: token tables whose rate is 0 do not, and cost no gradient either."""
    still = {key for key in named if key.endswith("embed") and optim.embed_lr == 0}
    for key in still:
        named[key].requires_grad_(False)
    return {key: value for key, value in named.items() if key not in still}


def _give_empty_moments(optimizer: Optimizer, names: frozenset[str]) -> None:
    """Give parameters that wait what AdamW would make at their first step, so it can be saved."""
    for key in names & optimizer.named.keys():
        parameter = optimizer.named[key]
        optimizer.adam.state[parameter] = {
            "step": torch.tensor(0.0, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }


def _let_learn(named: Mapping[str, nn.Parameter], freeze: Freeze, learn: bool) -> None:
    for key in freeze.names & named.keys():
        named[key].requires_grad_(learn)
