"""The first stage of a run from nothing: a tokenizer trained on the data, random weights.

A run that begins with an existing checkpoint has no such stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer

from culet import fingerprint
from culet.checkpoint import write_checkpoint
from culet.data.records import data_files, read_records
from culet.errors import RecipeError
from culet.lexical import token_directions, token_information
from culet.model.config import EmbeddingConfig, EncoderConfig, every_sixth
from culet.model.embedding import EmbeddingModel, initialize
from culet.model.weights import to_arrays
from culet.prompts import Prompts
from culet.recipe import to_tables
from culet.stages.folder import StageFolder
from culet.tokenizer_training import train_tokenizer


@dataclass(frozen=True)
class ShapeConfig:
    """The sizes of a model that begins with random weights; see `EncoderConfig`.

    Attributes:
        global_layers: Layers that see the whole text; every sixth and the last, if left out.
    """

    num_layers: int = 4
    model_dim: int = 256
    ffn_dim: int = 512
    num_heads: int = 4
    num_kv_heads: int = 1
    head_dim: int = 64
    window: int = 256
    max_length: int = 2048
    projection_dim: int = 512
    embedding_dim: int = 256
    widths: tuple[int, ...] = (256, 128, 64, 32)
    global_layers: tuple[int, ...] | None = None


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
    config: StartConfig, *, out: Path, name: str = "start", say: Callable[[str], None] = print
) -> Path:
    """Leave a checkpoint with a new tokenizer and random weights in `out`; return its folder."""
    model_config(config.shape, vocab_size=config.vocab_size)  # refuses a shape that cannot be
    files = [file for path in config.corpus for file in data_files(path)]
    folder = StageFolder(
        out,
        fingerprint=fingerprint.of_settings([to_tables(config), fingerprint.of_files(files)]),
        settings={name: to_tables(config)},
    )
    if folder.moved_to:
        say(f"{name}: settings or data have changed; the earlier run is kept in {folder.moved_to}")
    if folder.result():
        say(f"{name}: finished before, nothing to do")
        return folder.checkpoint
    say(f"{name}: training a tokenizer of {config.vocab_size} tokens")
    prompts = Prompts.default()
    tokenizer = _tokenizer(config, prompts)
    known = {}
    if config.lexical:
        information = token_information(tokenizer, _texts(config))
        directions = token_directions(tokenizer, config.shape.model_dim, seed=config.seed)
        known = {
            "information": torch.from_numpy(information),
            "directions": torch.from_numpy(directions),
        }
    shape = model_config(config.shape, vocab_size=tokenizer.get_vocab_size(with_added_tokens=True))
    model = initialize(EmbeddingModel(shape), seed=config.seed, **known)
    write_checkpoint(
        folder.checkpoint,
        shape,
        to_arrays(model),
        tokenizer_json=tokenizer.to_str(),
        prompts=prompts.to_names(),
    )
    folder.finish({"parameters": shape.num_parameters()})
    say(f"{name}: {shape.num_parameters():,} parameters, random weights")
    return folder.checkpoint


def model_config(shape: ShapeConfig, *, vocab_size: int) -> EmbeddingConfig:
    """Return the architecture of a shape."""
    global_layers = shape.global_layers
    if global_layers is None:
        global_layers = tuple(sorted({*every_sixth(shape.num_layers), shape.num_layers - 1}))
    return EmbeddingConfig(
        encoder=EncoderConfig(
            vocab_size=vocab_size,
            num_layers=shape.num_layers,
            model_dim=shape.model_dim,
            ffn_dim=shape.ffn_dim,
            num_heads=shape.num_heads,
            num_kv_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            window=shape.window,
            global_layers=global_layers,
            max_length=shape.max_length,
        ),
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


def _tokenizer(config: StartConfig, prompts: Prompts) -> Tokenizer:
    """Train the tokenizer and give each prompt one token of its own.

    A small model's texts are short: a prompt of ten tokens would outweigh them in the mean over
    tokens, and double the work.
    """
    whole = sorted({prompt.rstrip() for prompt in prompts.to_names().values()})
    tokenizer = train_tokenizer(_texts(config), config.vocab_size - len(whole))
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in whole])
    return tokenizer
