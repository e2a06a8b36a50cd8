"""Pretraining of an encoder-decoder: UL2, PrefixLM, facts (SKILL), a teacher.

An adapted encoder-decoder learns to write what was taken out of texts (T5Gemma, arXiv 2504.06225,
section 3.3; T5Gemma 2, 2512.14856, section 3.1), and the whole ends of facts (SKILL, 2205.08184).
Beside the encoder-decoder the stage writes its purpose: the encoder alone, with a new head, as an
embedding checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from culet.architecture.generating_config import EncoderDecoderConfig
from culet.checkpoints.checkpoint import EncoderDecoderCheckpoint
from culet.checkpoints.folder import text_tokenizer
from culet.checkpoints.gemma import read_decoder
from culet.checkpoints.t5gemma import read_encoder_decoder
from culet.checkpoints.write import write_checkpoint
from culet.data.batches.denoise import (
    Denoiser,
    Markers,
    max_spans,
    prefix_lm,
    t5gemma2,
    ul2,
    used_modes,
)
from culet.data.batches.windows import (
    DenoisingBatcher,
    TextSourceConfig,
    TokenPairs,
    WindowPlan,
)
from culet.errors import InputError, RecipeError
from culet.model.adapt import encoder_of
from culet.model.decoder import Decoder
from culet.model.encoder_decoder import EncoderDecoder
from culet.model.weights import from_arrays, to_arrays
from culet.stages.contract import Contract, Input, Inputs, Job, check_sources, of_records
from culet.stages.estimate import Context, Estimate
from culet.stages.folder import StageFolder
from culet.stages.language import (
    UNIMPORTANT,
    TokenTraining,
    finish,
    read_windows,
    train,
    with_dropout,
    write_encoder,
)
from culet.stages.new_head import HeadConfig, embedding_config
from culet.stages.provenance import provenance
from culet.stages.speed import language_estimate
from culet.text.tokenizer import TextTokenizer, unused_ids
from culet.train.language_steps import pairs_step
from culet.train.processes import current
from culet.train.session import Freeze

OBJECTIVES = {"t5gemma2": t5gemma2, "ul2": ul2, "prefix_lm": prefix_lm}


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TokenTraining):
    """Pretraining of an encoder-decoder.

    Attributes:
        sources: Texts and facts; shares are shares of examples.
        window: Tokens of text in an example.
        objective: "t5gemma2" (five denoisers), "ul2" (the original seven) or "prefix_lm".
        denoisers: A list in place of that of the objective.
        freeze_steps: Steps at the beginning in which only cross-attention is trained; for
            unbalanced pairs, whose cross-attention is random (the paper takes 1,000).
        distill: Share of the teacher's distribution in the target of a real token, if there is a
            teacher. The papers do not give it; one half is our choice.
        head: The head of the encoder that is written alone.
        init: Encoder-decoder to start from; that of the stage before, if left out.
        teacher: Decoder to distil from, with the same vocabulary.
    """

    sources: tuple[TextSourceConfig, ...]
    window: int = 512
    objective: Literal["t5gemma2", "ul2", "prefix_lm"] = "t5gemma2"
    denoisers: tuple[Denoiser, ...] = ()
    freeze_steps: int = 0
    distill: float = 0.5
    head: HeadConfig = field(default_factory=HeadConfig)
    init: Path | None = None
    teacher: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sources(self.sources)
        if self.window < 2 or self.freeze_steps < 0 or not 0 <= self.distill <= 1:
            raise RecipeError(
                "window must be at least 2, freeze_steps not negative and distill from 0 to 1; "
                f"got {self.window}, {self.freeze_steps}, {self.distill}"
            )

    @property
    def chosen(self) -> tuple[Denoiser, ...]:
        """Return the denoisers of the run."""
        return self.denoisers or OBJECTIVES[self.objective]()


def run(
    config: PretrainConfig, folder: StageFolder, job: Job, *, init: Path, teacher: Path | None
) -> None:
    """Pretrain the encoder-decoder `init`; an interrupted run is resumed.

    Raises:
        TrainingError: If the loss or its gradient stops being finite.
        InputError: If a row is bad, or the tokenizer has too few unused tokens.
        Interrupted: After SIGINT, with the state saved.
    """
    name, say, device = job.name, job.say, job.device
    start = read_encoder_decoder(init)
    tokenizer = text_tokenizer(start.tokenizer_json)
    markers = markers_for(config, tokenizer)
    model = from_arrays(with_dropout(start.config, config.dropout), start.arrays(), device=device)
    model.train()
    current().shard_layers(model, model.layers)
    teacher_model = None if teacher is None else _teacher(teacher, device)
    plan = read_windows(config, config.sources, config.window, tokenizer, folder)
    taught = teacher is not None
    batcher = DenoisingBatcher(plan, config.chosen, markers, tokenizer, windows=taught)
    result = train(
        config,
        model,
        dict(model.named_parameters()),
        _step(config, model, tokenizer, teacher_model),
        batcher,
        folder,
        name=name,
        say=say,
        freeze=_freeze(config, model),
    )
    if result is None:  # the first process writes
        return
    result["epochs"] = {
        source.name: round(plan.slots.epochs(i, config.steps), 3)
        for i, source in enumerate(plan.sources)
    }
    origin = [init, *([teacher] if teacher else [])]
    windows = (plan, tokenizer)
    _write(model, start, config, markers, folder, origin, windows, say=say, name=name)
    finish(folder, result)


def estimate(config: PretrainConfig, context: Context) -> Estimate:
    """Return what the stage would take; with a teacher, not how long."""
    before, encoder = context.shape(context.inputs["init"]), None
    if isinstance(before, EncoderDecoderConfig):
        encoder = embedding_config(before.encoder, config.head)
    return language_estimate(
        config,
        context,
        trained=before if context.inputs["teacher"] is None else None,
        models={"seq2seq": before, "model": encoder},
        per_step=config.batch_size * config.window,
        length=config.window,
        texts=[source.path for source in config.sources],
    )


def markers_for(config: PretrainConfig, tokenizer: TextTokenizer) -> Markers:
    """Return the ids of the sentinels and modes a run needs, from the tokenizer's unused ones.

    Sentinels come first, so that the first one is the same for all denoisers.

    Raises:
        InputError: If there are too few.
    """
    facts = any(source.kind == "triples" for source in config.sources)
    spans = max(max_spans(config.chosen, config.window), int(facts))
    modes = used_modes(config.chosen)
    ids = unused_ids(tokenizer, spans + len(modes))
    return Markers(tuple(ids[:spans]), dict(zip(modes, ids[spans:], strict=True)))


def _teacher(folder: Path, device: str) -> Decoder:
    checkpoint = read_decoder(folder)
    model = from_arrays(checkpoint.config, checkpoint.arrays(), device=device)
    model.requires_grad_(False)
    return model


def _step(
    config: PretrainConfig,
    model: EncoderDecoder,
    tokenizer: TextTokenizer,
    teacher: Decoder | None,
) -> Callable[[TokenPairs], dict[str, float]]:
    settings = config.step_config(distill=config.distill)

    def step(batch: TokenPairs) -> dict[str, float]:
        return pairs_step(model, batch, settings, bos=tokenizer.bos_id, teacher=teacher)

    return step


def _freeze(config: PretrainConfig, model: EncoderDecoder) -> Freeze | None:
    """Return what is frozen at first: everything but cross-attention and its norms."""
    if not config.freeze_steps:
        return None
    names = {key for key, _ in model.named_parameters()}
    crossing = {key for key in names if any(part.startswith("cross") for part in key.split("."))}
    if not crossing:
        raise RecipeError(
            "freeze_steps trains cross-attention alone, and this encoder-decoder has merged "
            "attention, none of which is new; leave freeze_steps out"
        )
    return Freeze(frozenset(names - crossing), config.freeze_steps)


def _write(
    model: EncoderDecoder,
    start: EncoderDecoderCheckpoint,
    config: PretrainConfig,
    markers: Markers,
    folder: StageFolder,
    origin: Sequence[Path],
    windows: tuple[WindowPlan, TextTokenizer],
    *,
    say: Callable[[str], None],
    name: str,
) -> None:
    """Write the encoder-decoder, and beside it the encoder alone."""
    arrays = to_arrays(model)
    data = [source.path for source in config.sources]
    tokens: dict[str, Sequence[int] | dict[str, int]] = {
        "sentinels": markers.sentinels,
        "modes": markers.modes,
    }
    write_checkpoint(
        folder.checkpoint,
        start.config,
        arrays,
        tokenizer_json=start.tokenizer_json,
        dtype=config.save_dtype,
        extra_files={
            "culet_markers.json": json.dumps(tokens),
            **provenance(folder, start.config, origin, data),
        },
    )
    encoder, weights = encoder_of(start.config, arrays)
    try:
        embedding_config(encoder, config.head)
    except InputError as error:
        say(f"{name}: no embedding checkpoint is written beside the encoder-decoder: {error}")
        return
    write_encoder(
        folder,
        encoder,
        weights,
        config.head,
        place=folder.path / "encoder",
        tokenizer_json=start.tokenizer_json,
        dtype=config.save_dtype,
        models=origin,
        data=data,
        windows=windows,
    )


def reads(config: PretrainConfig, inputs: Inputs) -> list[str]:
    """Return the content of the texts, of the encoder-decoder and of the teacher."""
    teacher = inputs["teacher"]
    texts = of_records(inputs, *(source.path for source in config.sources))
    start = read_encoder_decoder(inputs["init"]).fingerprint
    return [texts, start, *([] if teacher is None else [read_decoder(teacher).fingerprint])]


def check(config: PretrainConfig, inputs: Inputs) -> None:
    """Raise unless windows fit into the model and a teacher has the same tokens."""
    start = read_encoder_decoder(inputs["init"])
    longest = min(start.config.encoder.max_length, start.config.decoder.stack.max_length)
    if config.window + 3 > longest:  # a mode token, BOS and EOS
        raise RecipeError(
            f"window = {config.window} needs room for {config.window + 3} tokens, and the model "
            f"was made for {longest}; make the window smaller"
        )
    markers_for(config, text_tokenizer(start.tokenizer_json))
    if inputs["teacher"] is None:
        return
    teacher = read_decoder(inputs["teacher"])
    if config.candidates:
        raise RecipeError("a teacher predicts the whole vocabulary; leave candidates out")
    size, own = teacher.config.stack.vocab_size, start.config.decoder.stack.vocab_size
    if size != own or teacher.tokenizer_json != start.tokenizer_json:
        raise InputError(
            f"the teacher has {size} tokens and the model {own}, or their tokenizers differ: it "
            "cannot predict the model's tokens; take the decoder the model was adapted from"
        )


STAGE = Contract(
    config=PretrainConfig,
    gives={"seq2seq": "checkpoint", "model": "encoder"},
    run=run,
    reads=reads,
    estimate=estimate,
    inputs=(Input("init", ("seq2seq",)), Input("teacher", ("decoder",), needed=False)),
    unimportant=UNIMPORTANT,
    everywhere=True,
    check=check,
)
