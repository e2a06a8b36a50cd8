"""What the stages that start from nothing share: sizes, a tokenizer, a first token table."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer

from culet.architecture.encoder_config import EncoderConfig, every_sixth
from culet.files.atomic import new_file
from culet.terminal.progress import Progress
from culet.text.prompts import Prompts
from culet.text.token_table import token_directions, token_information, token_table
from culet.text.tokenizer_training import NUM_UNUSED, train_tokenizer


@dataclass(frozen=True)
class StackShape:
    """The sizes of a stack that begins with random weights; see `EncoderConfig`.

    Attributes:
        window: Tokens a local layer sees: on each side of a token, or before it in a decoder.
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
    global_layers: tuple[int, ...] | None = None


def stack_config(shape: StackShape, vocab_size: int, *, causal: bool) -> EncoderConfig:
    """Return the architecture of a shape."""
    layers = shape.global_layers
    if layers is None:
        layers = tuple(sorted({*every_sixth(shape.num_layers), shape.num_layers - 1}))
    return EncoderConfig(
        vocab_size=vocab_size,
        num_layers=shape.num_layers,
        model_dim=shape.model_dim,
        ffn_dim=shape.ffn_dim,
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        window=shape.window,
        global_layers=layers,
        max_length=shape.max_length,
        causal=causal,
    )


def new_tokenizer(
    texts: Iterable[str], vocab_size: int, *, num_unused: int = NUM_UNUSED
) -> Tokenizer:
    """Return a tokenizer trained on texts, in which each prompt is one token of its own.

    A small model's texts are short: a prompt of ten tokens would outweigh them in the mean over
    tokens, and double the work.
    """
    prompts = sorted({prompt.rstrip() for prompt in Prompts.default().to_names().values()})
    tokenizer = train_tokenizer(texts, vocab_size - len(prompts), num_unused=num_unused)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in prompts])
    return tokenizer


def kept_tokenizer(
    kept: Path,
    texts: Callable[[], Iterable[str]],
    vocab_size: int,
    *,
    name: str,
    say: Callable[[str], None],
    total: int | None = None,
    num_unused: int = NUM_UNUSED,
) -> Tokenizer:
    """Return a new tokenizer, or the one that an interrupted run has saved in a file.

    Args:
        kept: The file, written by the same stage with the same settings and texts.
        texts: Gives the texts, if they are needed.
        vocab_size: Size of the vocabulary.
        name: What messages call the stage.
        say: Takes lines for the person watching.
        total: How many texts there are, if that is known.
        num_unused: Tokens kept for later stages.
    """
    if kept.exists():
        say(f"{name}: the tokenizer was trained before and is used again")
        return Tokenizer.from_str(kept.read_text(encoding="utf-8"))
    say(f"{name}: training a tokenizer of {vocab_size} tokens")
    read = counted(texts(), f"{name}: reading for the tokenizer", total=total)
    tokenizer = new_tokenizer(read, vocab_size, num_unused=num_unused)
    with new_file(kept) as aside:
        aside.write_text(tokenizer.to_str(), encoding="utf-8")
    return tokenizer


def counted(texts: Iterable[str], what: str, *, total: int | None) -> Generator[str, None, None]:
    """Yield texts and show their number; closing the generator stops it early."""
    with Progress(what, total=total, unit="texts") as progress:
        number = 0
        for number, text in enumerate(texts, 1):
            if number % 64 == 0:
                progress.advance(64)
            try:
                yield text
            except GeneratorExit:
                progress.note(f"{what}: this is enough text")
                break
        progress.advance(number % 64)


def lexical_embedding(
    tokenizer: Tokenizer,
    texts: Callable[[], Iterable[str]],
    dim: int,
    *,
    seed: int,
    name: str = "start",
    total: int | None = None,
) -> np.ndarray:
    """Return the token table [V, D] of `culet.text.token_table`: rarity among texts, and spelling.

    Args:
        tokenizer: The tokens.
        texts: Gives the texts.
        dim: D.
        seed: Decides the directions.
        name: What messages call the stage.
        total: How many texts there are, if that is known.
    """
    information = token_information(
        tokenizer, counted(texts(), f"{name}: counting tokens", total=total)
    )
    return token_table(information, token_directions(tokenizer, dim, seed=seed))
