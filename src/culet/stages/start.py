"""The first stage of a run from nothing: a tokenizer trained on the data, random weights.

A run that begins with an existing checkpoint has no such stage.

state/   the tokenizer, gone once the stage is finished: training it takes most of the time
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from culet.architecture.embedding_config import EmbeddingConfig
from culet.checkpoints.write import write_checkpoint
from culet.data.batches.shuffle import check_seed
from culet.data.records import Records, read_records
from culet.errors import RecipeError
from culet.model.embedding_model import EmbeddingModel, initialize
from culet.model.weights import to_arrays
from culet.stages.contract import Contract, Inputs, Job, of_records
from culet.stages.estimate import Context, Estimate, weights_disk
from culet.stages.folder import StageFolder
from culet.stages.from_nothing import StackShape, kept_tokenizer, lexical_embedding, stack_config
from culet.stages.provenance import card_and_ledger
from culet.terminal.progress import Progress
from culet.text.prompts import Prompts


@dataclass(frozen=True)
class ShapeConfig(StackShape):
    """The sizes of a model that begins with random weights; see `EmbeddingConfig`."""

    projection_dim: int = 512
    embedding_dim: int = 256
    widths: tuple[int, ...] = (256, 128, 64, 32)


@dataclass(frozen=True)
class StartConfig:
    """A model from nothing.

    Attributes:
        corpus: Files of training records whose texts the tokenizer is trained on.
        vocab_size: Size of the vocabulary.
        shape: Sizes of the model.
        seed: Decides the random weights.
        max_texts: Texts the tokenizer sees, evenly spread over the corpus.
        lexical: Begin from each token's rarity and spelling; see `culet.text.token_table`.
    """

    corpus: tuple[Path, ...]
    vocab_size: int = 16_384
    shape: ShapeConfig = field(default_factory=ShapeConfig)
    seed: int = 0
    max_texts: int = 200_000
    lexical: bool = True

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if not self.corpus:
            raise RecipeError("corpus must name at least one file to train the tokenizer on")


def run(config: StartConfig, folder: StageFolder, job: Job) -> None:
    """Make a checkpoint with a new tokenizer and random weights.

    After a kill, a tokenizer that was finished is used again.
    """
    name, say = job.name, job.say
    records = _records(config, name)
    every = max(1, -(-2 * len(records) // config.max_texts))
    total = 2 * len(range(0, len(records), every))
    tokenizer = kept_tokenizer(
        folder.state / "tokenizer.json",
        lambda: _texts(records, every),
        config.vocab_size,
        name=name,
        say=say,
        total=total,
    )
    table = None
    if config.lexical:
        known = lexical_embedding(
            tokenizer,
            lambda: _texts(records, every),
            config.shape.model_dim,
            seed=config.seed,
            name=name,
            total=total,
        )
        table = torch.from_numpy(known)
    shape = model_config(config.shape, vocab_size=tokenizer.get_vocab_size(with_added_tokens=True))
    model = initialize(EmbeddingModel(shape), seed=config.seed, table=table)
    write_checkpoint(
        folder.checkpoint,
        shape,
        to_arrays(model),
        tokenizer_json=tokenizer.to_str(),
        prompts=Prompts.default().to_names(),
        extra_files=card_and_ledger(shape, (), config.corpus),
    )
    folder.finish({"parameters": shape.num_parameters()})
    shutil.rmtree(folder.state, ignore_errors=True)
    say(f"{name}: {shape.num_parameters():,} parameters, random weights")


def estimate(config: StartConfig, context: Context) -> Estimate:
    """Return what the stage would write."""
    shape = model_config(config.shape, vocab_size=config.vocab_size)
    return Estimate(disk=weights_disk(shape, "float32"), models={"model": shape})


def model_config(shape: ShapeConfig, *, vocab_size: int) -> EmbeddingConfig:
    """Return the architecture of a shape."""
    return EmbeddingConfig(
        encoder=stack_config(shape, vocab_size, causal=False),
        projection_dim=shape.projection_dim,
        embedding_dim=shape.embedding_dim,
        widths=shape.widths,
    )


def _records(config: StartConfig, name: str) -> Records:
    """Return the records of the corpus, of which bad ones are left out."""
    with Progress(f"{name}: reading the corpus", unit="records", show=None) as progress:
        return read_records(config.corpus, skip_bad=True, check=lambda _: progress.advance())


def _texts(records: Records, every: int) -> Iterator[str]:
    """Yield the texts of every n-th record."""
    for i in range(0, len(records), every):
        record = records[i]
        yield record.query
        yield record.positive


def reads(config: StartConfig, inputs: Inputs) -> list[str]:
    """Return the content of the corpus."""
    return [of_records(inputs, *config.corpus)]


def check(config: StartConfig, inputs: Inputs) -> None:
    """Refuse a shape that cannot be."""
    model_config(config.shape, vocab_size=config.vocab_size)


STAGE = Contract(
    config=StartConfig,
    gives={"model": "checkpoint"},
    run=run,
    reads=reads,
    estimate=estimate,
    records=("corpus",),
    check=check,
)
