"""What the contrastive stages can be told; see `culet.stages.tune`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from culet.data.batches.mixture import check_weights
from culet.data.batches.shuffle import check_seed
from culet.data.batches.sources import MixingConfig, SourceConfig
from culet.errors import InputError, RecipeError
from culet.files.settings import LATER
from culet.files.tensors import StoredDtype
from culet.model.lora import LoraConfig
from culet.train.contrastive_step import Chunking, LossConfig
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
        optim: How weights move.
        chunking: How batches are cut for memory.
        lora: Train low-rank additions only and merge them at the end.
        seed: Decides batches, negatives and dropout.
        compute_dtype: Dtype of activations; weights stay float32.
        save_dtype: Dtype of the checkpoint the stage writes.
        save_every: Steps between resumable states.
        snapshot_every: Steps between whole checkpoints of the weights as they are, in
            snapshots/step-*, for an average within the run (stage merge, `last`); 0 turns them off.
        snapshots: How many of the last ones are kept.
        eval_every: Steps between evaluations of the model as it is; 0 turns them off.
        skip_bad_records: Leave bad lines out and count them instead of stopping.
        init: Checkpoint to start from; the stage before, if left out.
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

    def __post_init__(self) -> None:
        check_seed(self.seed)
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
        if not self.sources:
            raise RecipeError("at least one source is needed: add a [[<stage>.sources]] table")
        try:
            check_weights([source.weight for source in self.sources])
        except InputError as error:
            raise RecipeError(str(error)) from None
