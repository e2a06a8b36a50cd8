"""The settings of the contrastive stages, and their estimate; see `culet.stages.tune`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from culet.architecture.embedding_config import EmbeddingConfig
from culet.data.batches.mixture import check_weights
from culet.data.batches.shuffle import check_seed
from culet.data.batches.sources import MixingConfig, SourceConfig
from culet.errors import InputError, RecipeError
from culet.files.settings import LATER
from culet.files.tensors import StoredDtype
from culet.model.lora import LoraConfig
from culet.stages.contract import Inputs, check_sources
from culet.stages.estimate import Context, Disk, Estimate, state_bytes, stored
from culet.stages.samples import Rows, Texts, tokens
from culet.stages.speed import speed_of_pairs
from culet.train.contrastive_step import LossConfig
from culet.train.gradient_cache import Chunking
from culet.train.optim import OptimConfig


@dataclass(frozen=True)
class TuneConfig:
    """One contrastive stage.

    Attributes:
        steps: Optimiser steps.
        sources: Where pairs come from; every batch is from one of them.
        mixing: How the weights of sources become shares of the batches.
        batch_size: Pairs in a batch.
        num_negatives: Hard negatives per query that are used.
        max_tokens: Longer texts are cut in training (and counted).
        dropout: See `EncoderConfig`.
        loss: What is minimised.
        optim: The optimiser.
        chunking: How batches are split to save memory.
        lora: Train low-rank additions only and merge them at the end.
        seed: Seed of batches, negatives and dropout.
        compute_dtype: Dtype of activations; weights stay float32.
        save_dtype: Dtype of the checkpoint the stage writes.
        save_every: Steps between resumable states.
        snapshot_every: Steps between whole checkpoints of the current weights, in
            snapshots/step-*, for an average within the run (stage merge, `last`); 0 turns them off.
        snapshots: How many of the last ones are kept.
        eval_every: Steps between evaluations of the current model; 0 turns them off.
        skip_bad_records: Leave bad lines out and count them instead of stopping.
        init: Checkpoint to start from; that of the stage before, if left out.
        mixture_number: Which mixture of a search to take, if the stage is given one: 1 is the
            best, 2 the next that is far enough from it.
    """

    steps: int
    sources: tuple[SourceConfig, ...]
    mixing: MixingConfig = field(default_factory=MixingConfig, metadata=LATER)
    batch_size: int = 128
    num_negatives: int = 0
    max_tokens: int = 256
    dropout: float = 0.0
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    chunking: Chunking = field(default_factory=Chunking)
    lora: LoraConfig | None = None
    seed: int = 0
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    save_dtype: StoredDtype = "float32"
    save_every: int = 200
    snapshot_every: int = field(default=0, metadata=LATER)
    snapshots: int = field(default=5, metadata=LATER)
    eval_every: int = 0
    skip_bad_records: bool = False
    init: Path | None = None
    mixture_number: int = field(default=1, metadata=LATER)

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.mixture_number < 1:
            raise RecipeError(f"mixture_number must be at least 1, got {self.mixture_number}")
        if self.steps < 1 or self.batch_size < 2 or self.save_every < 1 or self.max_tokens < 3:
            raise RecipeError(
                "steps and save_every must be at least 1, batch_size 2 and max_tokens 3; got "
                f"{self.steps}, {self.save_every}, {self.batch_size}, {self.max_tokens}"
            )
        if self.snapshot_every < 0 or self.snapshots < 1 or (self.snapshot_every and self.lora):
            raise RecipeError(
                "snapshot_every must not be negative, snapshots at least 1, and neither goes with "
                f"lora; got {self.snapshot_every} and {self.snapshots}"
            )
        if self.num_negatives < 0:
            raise RecipeError(f"num_negatives must not be negative, got {self.num_negatives}")
        check_sources(self.sources)
        try:
            check_weights([source.weight for source in self.sources])
        except InputError as error:
            raise RecipeError(str(error)) from None


def estimate(config: TuneConfig, context: Context) -> Estimate:
    """Return what a contrastive stage would take."""
    shape = context.shape(context.inputs["init"])
    loss, longest, dtype = config.loss, config.max_tokens, config.compute_dtype
    per_step, at_most = pairs_per_step(config, context.rows)
    disk = models = None
    if isinstance(shape, EmbeddingConfig):
        disk = _disk(config, shape)
        models = {"model": replace(shape, widths=trained_widths(config, shape))}
    return Estimate(
        config.steps,
        config.steps * per_step,
        at_most,
        lambda: speed_of_pairs(shape, loss, longest, dtype, context.machine),
        disk=disk,
        models=models or {},
    )


def trained_widths(config: TuneConfig, shape: EmbeddingConfig) -> tuple[int, ...]:
    """Return the widths the stage trains, largest first.

    Raises:
        RecipeError: If the model is not that wide, or the full width is not among them.
    """
    widths = tuple(sorted(config.loss.widths or shape.widths, reverse=True))
    full = shape.embedding_dim
    if widths[0] != full or widths[-1] < 1 or len(set(widths)) < len(widths):
        raise RecipeError(
            f"loss.widths must name the full width {full} and smaller ones, each once; "
            f"got {list(widths)}"
        )
    return widths


def pairs_per_step(
    config: TuneConfig, rows_at: Callable[[Iterable[Path]], Rows | None]
) -> tuple[float, bool]:
    """Return the tokens of a contrastive step, and whether that is an upper bound.

    Args:
        config: Settings of the stage.
        rows_at: Returns the rows behind some paths.
    """
    total = weights = 0.0
    at_most = False
    for source in config.sources:
        rows = rows_at([source.path])
        batch: float = source.batch_size or config.batch_size
        number = hard_negatives(config, source)

        def per_row(texts: Texts, number: int = number) -> float:
            read = (*texts.sides, *texts.negatives[:number])
            return sum(tokens(one, config.max_tokens) for one in read)

        share, each = source.weight, float((2 + number) * config.max_tokens)
        if rows is not None:
            mixing = config.mixing
            share *= min(rows.count, mixing.size_cap or rows.count) ** mixing.size_exponent
            each = rows.mean(per_row)
            batch = min(batch, rows.count)  # a batch takes no row twice
        at_most |= rows is None
        total += share * batch * each
        weights += share
    return total / weights, at_most


def _disk(config: TuneConfig, shape: EmbeddingConfig) -> Disk:
    """Return what the stage writes: a checkpoint, its state, snapshots."""
    kept = float(stored(shape, config.save_dtype))
    if config.snapshot_every:
        kept *= 1 + min(config.snapshots, config.steps // config.snapshot_every)
    moving = shape.num_parameters()
    if config.lora is not None:
        maps = {name: s for name, s in shape.weight_shapes().items() if len(s) == 2}
        moving = sum(config.lora.rank * sum(s) for name, s in maps.items() if name != "embed")
    return Disk(kept + state_bytes(moving, config.optim), kept)


def settle(config: TuneConfig, inputs: Inputs) -> TuneConfig:
    """Return the settings with the shares of the mixture that is the stage's input, if it exists.

    Raises:
        RecipeError: If there is none, but one is chosen.
        InputError: See `with_mixture`.
    """
    file = inputs["mixture"]
    if file is None and config.mixture_number > 1:
        raise RecipeError(
            f"mixture_number = {config.mixture_number} needs a `mixture`: the name of a stage "
            "search_mixture, or a path of its mixtures.json"
        )
    if file is None or not file.exists():
        return config
    return with_mixture(config, file, config.mixture_number)


def with_mixture(config: TuneConfig, file: Path, number: int) -> TuneConfig:
    """Return the settings of a tuning stage with the shares of a mixture that was found.

    Raises:
        InputError: If the file holds no such mixture, or other sources.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        names, kept = list(found["sources"]), list(found["kept"])
        shares = [dict(zip(names, point["shares"], strict=True)) for point in kept]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} does not hold the mixtures of a search ({error})") from error
    if number > len(shares):
        if len(shares) >= found.get("keep", len(shares) + 1):
            remedy = f"raise `keep` of the search, which is {found['keep']}"
        else:
            remedy = "search longer, or lower `apart` of the search"
            remedy += "" if "keep" in found else ", or raise its `keep`"
        raise InputError(
            f"{file} holds {len(shares)} mixtures that are far enough apart, and number {number} "
            f"is asked for; {remedy}"
        )
    return with_shares(config, shares[number - 1], where=str(file))


def with_shares(config: TuneConfig, shares: dict[str, float], *, where: str) -> TuneConfig:
    """Return settings with these shares of the batches.

    They hold whatever the sizes of the sources, so `mixing` does not apply.

    Raises:
        InputError: If the shares are of other sources.
    """
    own = [label(source) for source in config.sources]
    if sorted(own) != sorted(shares):
        raise InputError(
            f"{where} is about the sources {', '.join(shares)}; the stage has {', '.join(own)}: "
            "name them alike"
        )
    sources = tuple(replace(s, weight=shares[label(s)]) for s in config.sources)
    sources = tuple(source for source in sources if source.weight > 0)
    loss = config.loss
    if not any(source.teacher for source in sources):  # a mixture may drop all with a teacher
        loss = replace(loss, distill_projection="prefix")
    return replace(config, sources=sources, loss=loss, mixing=MixingConfig())


def hard_negatives(config: TuneConfig, source: SourceConfig) -> int:
    """Return how many hard negatives a query of a source has."""
    return config.num_negatives if source.num_negatives is None else source.num_negatives


def label(source: SourceConfig) -> str:
    """Return what a source is called in a mixture."""
    return source.name or source.path.name
