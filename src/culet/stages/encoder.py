"""The cheap ways from a decoder to an encoder: none, masked tokens, masked next tokens.

The causal mask is removed and, if asked for, the encoder learns to predict masked tokens: from
their own states (masked language modelling, BERT, arXiv 1810.04805) or from the states before
them, as in the decoder (masked next-token prediction, LLM2Vec, 2404.05961, section 2.2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer
from torch import nn

from culet.architecture.encoder_config import EncoderConfig
from culet.architecture.generating_config import DecoderConfig
from culet.checkpoints.checkpoint import DecoderCheckpoint
from culet.checkpoints.folder import text_tokenizer
from culet.checkpoints.gemma import read_decoder
from culet.data.batches.windows import (
    TextSourceConfig,
    TokenWindows,
    WindowBatcher,
    masked_token,
)
from culet.errors import InputError, RecipeError
from culet.losses.tokens import IGNORED
from culet.model.adapt import EncoderWindow, adapted_config
from culet.model.heads import with_head
from culet.model.weights import from_arrays, to_arrays
from culet.stages.contract import Contract, Input, Inputs, Job, check_sources, of_records
from culet.stages.estimate import Context, Estimate, weights_disk
from culet.stages.folder import StageFolder
from culet.stages.language import (
    UNIMPORTANT,
    TokenTraining,
    check_window,
    finish,
    read_windows,
    train,
    write_encoder,
)
from culet.stages.new_head import HeadConfig, embedding_config
from culet.stages.speed import language_estimate
from culet.train.language_steps import windows_step
from culet.train.processes import current

MASK = "<mask>"


@dataclass(frozen=True, kw_only=True)
class EncoderStageConfig(TokenTraining):
    """From a decoder to an encoder without an encoder-decoder.

    Attributes:
        steps: Optimiser steps, at least 1; objective "none" makes none.
        sources: Texts; shares are shares of windows.
        objective: "none" removes the mask and trains nothing; "mlm" or "mntp".
        window: Tokens of a training example.
        rate: Share of the tokens that are masked (LLM2Vec: 0.2 for most models).
        encoder_window: Window of local layers; see `culet.model.adapt`.
        head: The head of the encoder.
        init: Decoder to start from; that of the stage before, if left out.
    """

    steps: int = 1
    sources: tuple[TextSourceConfig, ...] = ()
    objective: Literal["none", "mlm", "mntp"] = "mntp"
    window: int = 128
    rate: float = 0.2
    encoder_window: EncoderWindow = "half"
    head: HeadConfig = field(default_factory=HeadConfig)
    init: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head.whiten:
            raise RecipeError("head.whiten is for stage pretrain; leave it out here")
        if self.objective != "none":
            check_sources(self.sources)
        if self.window < 2 or not 0 < self.rate < 1:
            raise RecipeError(
                "window must be at least 2 and rate between 0 and 1; got "
                f"{self.window} and {self.rate}"
            )


def run(config: EncoderStageConfig, folder: StageFolder, job: Job, *, init: Path) -> None:
    """Make an embedding checkpoint of the decoder `init`; an interrupted run is resumed.

    Raises:
        TrainingError: If the loss or its gradient stops being finite.
        InputError: If a row is bad, or no embedding model can have such an encoder.
        Interrupted: After SIGINT, with the state saved.
    """
    name, say, device = job.name, job.say, job.device
    start = read_decoder(init)
    encoder = adapted_config(start.config, encoder_window=config.encoder_window).encoder
    arrays: Any = start.arrays()
    result: dict[str, Any] | None = {"steps": 0} if current().first else None
    if config.objective != "none":
        arrays, result = _train(config, start, encoder, folder, device=device, say=say, name=name)
    if result is None:  # the first process writes
        return
    write_encoder(
        folder,
        encoder,
        arrays,
        config.head,
        place=folder.checkpoint,
        tokenizer_json=start.tokenizer_json,
        dtype=config.save_dtype,
        models=[init],
        data=[s.path for s in config.sources] if config.objective != "none" else [],
    )
    finish(folder, result)


def estimate(config: EncoderStageConfig, context: Context) -> Estimate:
    """Return what the stage would take."""
    before, shape = context.shape(context.inputs["init"]), None
    if isinstance(before, DecoderConfig):
        adapted = adapted_config(before, encoder_window=config.encoder_window)
        shape = embedding_config(adapted.encoder, config.head)
    if config.objective == "none":
        return Estimate(disk=weights_disk(shape, config.save_dtype), models={"model": shape})
    return language_estimate(
        config,
        context,
        trained=before,  # without its mask, and with its head
        models={"model": shape},
        per_step=config.batch_size * config.window,
        length=config.window,
        texts=[source.path for source in config.sources],
    )


def _train(
    config: EncoderStageConfig,
    start: DecoderCheckpoint,
    encoder: EncoderConfig,
    folder: StageFolder,
    *,
    device: str,
    say: Callable[[str], None],
    name: str,
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return the trained weights and what is worth recording."""
    mask_id = Tokenizer.from_str(start.tokenizer_json).token_to_id(MASK)
    if mask_id is None:
        raise InputError(f"the tokenizer has no {MASK} token to replace others with")
    shape = embedding_config(encoder, config.head)
    dropped = replace(shape, encoder=replace(shape.encoder, dropout=config.dropout))
    given = start.arrays()
    model = from_arrays(
        dropped, with_head(shape, given, seed=config.head.seed), device=device
    ).train()
    current().shard_layers(model.encoder, list(model.encoder.blocks))
    named = {f"encoder.{key}": p for key, p in model.encoder.named_parameters()}
    table = model.encoder.embed
    if not start.config.tied_head:
        table = named["head"] = nn.Parameter(torch.tensor(given["head"], device=device))
    tokenizer = text_tokenizer(start.tokenizer_json)
    plan = read_windows(config, config.sources, config.window, tokenizer, folder)
    objective = masked_token(
        tokenizer, mask_id, rate=config.rate, shifted=config.objective == "mntp", ignored=IGNORED
    )
    settings, softcap = config.step_config(), start.config.logit_softcap

    def step(batch: TokenWindows) -> dict[str, float]:
        return windows_step(model.encoder, table, batch, settings, softcap=softcap)

    batcher = WindowBatcher(plan, objective)
    result = train(config, model, named, step, batcher, folder, name=name, say=say)
    return to_arrays(model), result


def reads(config: EncoderStageConfig, inputs: Inputs) -> list[str]:
    """Return the content of the texts and of the decoder."""
    texts = of_records(inputs, *(source.path for source in config.sources))
    return [texts, read_decoder(inputs["init"]).fingerprint]


def check(config: EncoderStageConfig, inputs: Inputs) -> None:
    """Refuse an encoder that no embedding model can have, and windows that do not fit into it."""
    start = read_decoder(inputs["init"])
    encoder = adapted_config(start.config, encoder_window=config.encoder_window).encoder
    shape = embedding_config(encoder, config.head)
    if config.objective != "none":
        check_window(config.window, shape.encoder)


STAGE = Contract(
    config=EncoderStageConfig,
    gives={"model": "checkpoint"},
    run=run,
    reads=reads,
    estimate=estimate,
    inputs=(Input("init", ("decoder",)),),
    unimportant=UNIMPORTANT,
    everywhere=True,
    check=check,
)
