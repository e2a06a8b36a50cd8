"""The first stage of a run from nothing: a tokenizer trained on the data, random weights.

A run that begins with an existing checkpoint has no such stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from culet import fingerprint
from culet.checkpoint import write_checkpoint
from culet.data.ledger import training_papers
from culet.data.records import data_files, read_records
from culet.errors import RecipeError
from culet.model.config import EmbeddingConfig
from culet.model.embedding import EmbeddingModel, initialize
from culet.model.weights import to_arrays
from culet.prompts import Prompts
from culet.recipe import identity, to_tables
from culet.stages.beginning import StackShape, lexical_embedding, new_tokenizer, stack_config
from culet.stages.folder import StageFolder


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
        lexical: Begin from each token's rarity and spelling; see `culet.lexical`.
    """

    corpus: tuple[Path, ...]
    vocab_size: int = 16_384
    shape: ShapeConfig = field(default_factory=ShapeConfig)
    seed: int = 0
    max_texts: int = 200_000
    lexical: bool = True

    def __post_init__(self) -> None:
        if not self.corpus:
            raise RecipeError("corpus must name at least one file to train the tokenizer on")


def run(
    config: StartConfig,
    *,
    out: Path,
    name: str = "start",
    device: str = "cpu",
    say: Callable[[str], None] = print,
) -> Path:
    """Leave a checkpoint with a new tokenizer and random weights in `out`; return its folder.

    Args:
        config: The stage's settings.
        out: The stage's folder.
        name: What messages call the stage.
        device: Not needed here.
        say: Takes lines for the person watching.
    """
    model_config(config.shape, vocab_size=config.vocab_size)  # refuses a shape that cannot be
    files = [file for path in config.corpus for file in data_files(path)]
    folder = StageFolder(
        out,
        fingerprint=fingerprint.of_settings(
            [identity(config, run=out.parent), fingerprint.of_files(files)]
        ),
        settings={name: to_tables(config)},
    )
    if folder.announced(name, say):
        return folder.checkpoint
    say(f"{name}: training a tokenizer of {config.vocab_size} tokens")
    prompts = Prompts.default()
    tokenizer = new_tokenizer(_texts(config), config.vocab_size)
    table = None
    if config.lexical:
        dim = config.shape.model_dim
        known = lexical_embedding(tokenizer, lambda: _texts(config), dim, seed=config.seed)
        table = torch.from_numpy(known)
    shape = model_config(config.shape, vocab_size=tokenizer.get_vocab_size(with_added_tokens=True))
    model = initialize(EmbeddingModel(shape), seed=config.seed, table=table)
    write_checkpoint(
        folder.checkpoint,
        shape,
        to_arrays(model),
        tokenizer_json=tokenizer.to_str(),
        prompts=prompts.to_names(),
        extra_files=training_papers(shape, (), config.corpus),
    )
    folder.finish({"parameters": shape.num_parameters()})
    say(f"{name}: {shape.num_parameters():,} parameters, random weights")
    return folder.checkpoint


def model_config(shape: ShapeConfig, *, vocab_size: int) -> EmbeddingConfig:
    """Return the architecture of a shape."""
    return EmbeddingConfig(
        encoder=stack_config(shape, vocab_size, causal=False),
        projection_dim=shape.projection_dim,
        embedding_dim=shape.embedding_dim,
        widths=shape.widths,
    )


def _texts(config: StartConfig) -> Iterator[str]:
    """Yield the texts of the corpus, thinned evenly to `max_texts`."""
    records = read_records(config.corpus, skip_bad=True)
    every = max(1, -(-2 * len(records) // config.max_texts))
    for i in range(0, len(records), every):
        yield records[i].query
        yield records[i].positive
