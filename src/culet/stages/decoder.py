"""A decoder from nothing: a tokenizer trained on the texts, random weights, next-token training.

For use without a decoder to start from, and for the demo, which makes a tiny one in a minute.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from culet.architecture.generating_config import DecoderConfig, Shapes
from culet.checkpoints.folder import text_tokenizer
from culet.checkpoints.gemma import read_decoder
from culet.checkpoints.write import write_checkpoint
from culet.data.batches.windows import (
    TextSourceConfig,
    TokenWindows,
    WindowBatcher,
    next_token,
)
from culet.errors import RecipeError
from culet.files.settings import LATER
from culet.model.decoder import Decoder
from culet.model.weights import from_arrays, to_arrays
from culet.stages.contract import Contract, Input, Inputs, Job, check_sources, of_records
from culet.stages.estimate import Context, Estimate
from culet.stages.folder import StageFolder
from culet.stages.from_nothing import StackShape, kept_tokenizer, lexical_embedding, stack_config
from culet.stages.language import (
    UNIMPORTANT,
    TokenTraining,
    check_window,
    finish,
    read_windows,
    train,
)
from culet.stages.provenance import provenance
from culet.stages.speed import language_estimate
from culet.train.language_steps import head_table, windows_step
from culet.train.processes import current


@dataclass(frozen=True)
class DecoderShape(StackShape):
    """The sizes of a new decoder; see `EncoderConfig`.

    Attributes:
        tied_head: The head is the token table, as in Gemma; or it is a table of its own, and the
            token table can keep what is known of tokens (`lexical`).
    """

    window: int = 511
    tied_head: bool = field(default=True, metadata=LATER)


@dataclass(frozen=True, kw_only=True)
class DecoderStageConfig(TokenTraining):
    """A decoder from nothing, or further training of one.

    Attributes:
        sources: Texts; shares are shares of windows.
        window: Tokens of a training example.
        vocab_size: Size of a new tokenizer.
        num_unused: Tokens reserved for sentinels and modes of later stages.
        max_texts: Texts the tokenizer is trained on, taken from all sources in turn.
        shape: Sizes of a new decoder.
        lexical: The token table and the head of a new decoder are initialised from each token's
            rarity and spelling; see `culet.text.token_table`.
        init: A decoder to train further, with its own tokenizer and shape.
    """

    sources: tuple[TextSourceConfig, ...]
    window: int = 128
    vocab_size: int = 16_384
    num_unused: int = 128
    max_texts: int = 200_000
    shape: DecoderShape = field(default_factory=DecoderShape)
    lexical: bool = field(default=False, metadata=LATER)
    init: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sources(self.sources)
        if self.window < 2 or self.max_texts < 1 or self.num_unused < 0:
            raise RecipeError(
                "window must be at least 2, max_texts at least 1 and num_unused not negative; got "
                f"{self.window}, {self.max_texts}, {self.num_unused}"
            )


def run(config: DecoderStageConfig, folder: StageFolder, job: Job, *, init: Path | None) -> None:
    """Train a decoder, new or `init`; an interrupted run is resumed.

    Raises:
        TrainingError: If the loss or its gradient stops being finite.
        InputError: If a row is bad.
        Interrupted: After SIGINT, with the state saved.
    """
    if init is None:
        model, tokenizer_json = _new_decoder(config, folder, job)
    else:
        start = read_decoder(init)
        model = from_arrays(start.config, start.arrays(), device=job.device)
        tokenizer_json = start.tokenizer_json
    check_window(config.window, model.config.stack)
    model.train()
    current().shard_layers(model.stack, list(model.stack.blocks))
    tokenizer = text_tokenizer(tokenizer_json)
    plan = read_windows(config, config.sources, config.window, tokenizer, folder)
    settings = config.step_config()

    def step(batch: TokenWindows) -> dict[str, float]:
        softcap = model.head.softcap
        return windows_step(model.stack, head_table(model), batch, settings, softcap=softcap)

    result = train(
        config,
        model,
        dict(model.named_parameters()),
        step,
        WindowBatcher(plan, next_token(tokenizer)),
        folder,
        name=job.name,
        say=job.say,
    )
    if result is None:  # the first process writes
        return
    write_checkpoint(
        folder.checkpoint,
        model.config,
        to_arrays(model),
        tokenizer_json=tokenizer_json,
        dtype=config.save_dtype,
        extra_files=provenance(
            folder, model.config, [init] if init else [], [s.path for s in config.sources]
        ),
    )
    finish(folder, result)


def _new_decoder(config: DecoderStageConfig, folder: StageFolder, job: Job) -> tuple[Decoder, str]:
    """Return a decoder of random weights and its tokenizer, which is trained first."""
    with current().first_then_others():
        words = kept_tokenizer(
            folder.path / ".tokens" / "tokenizer.json",
            lambda: _texts(config),
            config.vocab_size,
            name=job.name,
            say=job.say,
            num_unused=config.num_unused,
        )
    shape = decoder_config(config.shape, words.get_vocab_size(with_added_tokens=True))
    arrays = random_weights(shape.weight_shapes(), seed=config.seed)
    if config.lexical:
        dim, seed = config.shape.model_dim, config.seed
        table = lexical_embedding(words, lambda: _texts(config), dim, seed=seed, name=job.name)
        arrays |= {key: table.copy() for key in ("embed", "head") if key in arrays}
    model = from_arrays(shape, arrays, device=job.device)
    job.say(f"{job.name}: {shape.num_parameters():,} parameters, random weights")
    return model, str(words.to_str())


def estimate(config: DecoderStageConfig, context: Context) -> Estimate:
    """Return what the stage would take."""
    shape = context.shape(context.inputs["init"])
    if context.inputs["init"] is None:
        shape = decoder_config(config.shape, config.vocab_size)
    return language_estimate(
        config,
        context,
        trained=shape,
        models={"decoder": shape},
        per_step=config.batch_size * config.window,
        length=config.window,
        texts=[source.path for source in config.sources],
    )


def decoder_config(shape: DecoderShape, vocab_size: int) -> DecoderConfig:
    """Return the architecture of a shape."""
    stack = stack_config(shape, vocab_size, causal=True)
    return DecoderConfig(stack, tied_head=shape.tied_head)


def random_weights(shapes: Shapes, *, seed: int) -> dict[str, np.ndarray]:
    """Return weights to train a language model from: matrices normal, std in_dim^-0.5; norms 0.

    A norm of 0 multiplies by 1, also after the sub-layers. An embedding model from nothing begins
    with quiet sub-layers (`culet.model.embedding_model`); a language model would learn much more
    slowly that way, since a norm rises by at most the learning rate in a step.
    """
    generator = np.random.default_rng(seed)
    arrays = {}
    for name, shape in shapes.items():
        if len(shape) == 1:
            arrays[name] = np.zeros(shape, dtype=np.float32)
        else:
            drawn = generator.standard_normal(shape, dtype=np.float32)
            arrays[name] = drawn * np.float32(shape[-1] ** -0.5)
    return arrays


def _texts(config: DecoderStageConfig) -> Iterator[str]:
    """Yield texts of all sources in turn, so that each is read even if reading stops early."""
    readers = [source.texts() for source in config.sources if source.kind != "triples"]
    given = 0
    while readers and given < config.max_texts:
        for reader in list(readers):
            row = next(reader, None)
            if row is None:
                readers.remove(reader)
            else:
                given += 1
                yield row.text


def reads(config: DecoderStageConfig, inputs: Inputs) -> list[str]:
    """Return the content of the texts, and of the decoder that is trained on."""
    init = inputs["init"]
    texts = of_records(inputs, *(source.path for source in config.sources))
    return [texts, *([] if init is None else [read_decoder(init).fingerprint])]


STAGE = Contract(
    config=DecoderStageConfig,
    gives={"decoder": "checkpoint"},
    run=run,
    reads=reads,
    estimate=estimate,
    inputs=(Input("init", ("decoder",), needed=False),),
    unimportant=UNIMPORTANT,
    everywhere=True,
)
