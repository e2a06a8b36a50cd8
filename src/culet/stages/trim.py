"""A smaller model of the same quality where it is used: only the tokens that some texts need.

Of Gemma 3 270M, 168 of 268 million parameters are token rows. Kept are the rows of the tokens in
the texts, of what these are made of, of special tokens and of the 256 bytes, so that any other
text can still be written, in more tokens. Works on decoders, encoder-decoders and embedding models.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from tokenizers import Tokenizer

from culet.architecture.embedding_config import EmbeddingConfig
from culet.architecture.generating_config import DecoderConfig
from culet.checkpoints.checkpoint import AnyCheckpoint, AnyConfig
from culet.checkpoints.recognize import read_any
from culet.checkpoints.write import write_checkpoint
from culet.errors import InputError, RecipeError
from culet.files import fingerprint
from culet.files.atomic import new_file
from culet.files.rows import data_files, raw_rows
from culet.files.tensors import StoredDtype
from culet.stages.contract import Contract, Input, Inputs, Job
from culet.stages.estimate import Context, Estimate, weights_disk
from culet.stages.folder import StageFolder
from culet.stages.provenance import provenance
from culet.terminal.progress import Progress
from culet.text.vocabulary import Counted, Coverage, Trimmed, count_tokens, coverage, trim

_TABLES = ("embed", "head", "encoder.embed", "decoder.embed", "decoder.head")
_COUNTED = ".counted.npz"  # what an interrupted run had counted
_KEEP_EVERY = 50_000  # texts, some ten seconds of them
_NOT_TEXT = ("lang", "source", "id", "origin", "licence", "license")


@dataclass(frozen=True)
class TrimConfig:
    """Which tokens are kept.

    Attributes:
        texts: Files or folders of JSONL rows; every string in them counts, but for languages,
            sources and ids.
        min_count: A token used fewer times is spelt with smaller ones.
        keep_unused: How many <unusedN> tokens are kept, for sentinels and modes of later stages.
        held_out: One row in this many is not counted, but used to report what the smaller
            vocabulary does to texts.
        every: One row in this many is read; 1 reads all.
        max_characters: A longer text is counted to here.
        dtype: How weights are stored.
        init: What is trimmed: a folder or a GGUF file; the model of the stage before, if left out.
    """

    texts: tuple[Path, ...]
    min_count: int = 1
    keep_unused: int = 256
    held_out: int = 50
    every: int = 1
    max_characters: int = 100_000
    dtype: StoredDtype = "float32"
    init: Path | None = None

    def __post_init__(self) -> None:
        if not self.texts:
            raise RecipeError("at least one file or folder of texts is needed: texts = [...]")
        least = {"min_count": 1, "keep_unused": 0, "held_out": 2, "every": 1, "max_characters": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise RecipeError(f"{name} must be at least {bound}, got {getattr(self, name)}")


def run(config: TrimConfig, folder: StageFolder, job: Job, *, init: Path) -> None:
    """Leave the smaller checkpoint.

    Raises:
        CheckpointError: If the checkpoint cannot be read or has another kind of tokenizer.
        InputError: If there is no text, or a row is bad.
    """
    name, say = job.name, job.say
    source = read_any(init)
    before = Tokenizer.from_str(source.tokenizer_json)
    before.no_truncation()
    before.no_padding()
    with Progress(f"{name}: counting tokens", unit="texts", show=None) as bar:
        counts = _counts(
            before, chain(source.prompts.values(), _texts(config, held_out=False, bar=bar)), folder
        )
    if not counts.any():
        raise InputError(f"{name}: expected texts to count, got none; see texts in the recipe")
    smaller = trim(
        source.tokenizer_json,
        counts,
        min_count=config.min_count,
        keep_unused=config.keep_unused,
    )
    loss = coverage(
        before, Tokenizer.from_str(smaller.tokenizer_json), _texts(config, held_out=True)
    )
    shape = _smaller(source.config, len(smaller.kept))
    _write(source, shape, smaller, folder, config.dtype, init)
    facts = _facts(source.config, shape, smaller, loss)
    folder.finish(facts)
    (folder.path / _COUNTED).unlink(missing_ok=True)
    for line in report(facts):
        say(f"{name}: {line}")


def estimate(config: TrimConfig, context: Context) -> Estimate:
    """Return what the stage would write at most: how many tokens will stay is not known yet."""
    shape = context.shape(context.inputs["init"])
    models = dict.fromkeys(("model", "decoder", "seq2seq"), shape)
    return Estimate(disk=weights_disk(shape, config.dtype), models=models)


def _counts(tokenizer: Tokenizer, texts: Iterable[str], folder: StageFolder) -> np.ndarray:
    """Return the uses of each token; what an interrupted run had counted is not counted again."""
    place = folder.path / _COUNTED

    def keep(so_far: Counted) -> None:
        with new_file(place) as aside, aside.open("wb") as file:
            np.savez(file, counts=so_far.counts, texts=so_far.texts)

    before = None
    # none, or a damaged one: counted from the start
    with (
        suppress(OSError, ValueError, KeyError, BadZipFile),
        place.open("rb") as file,
        np.load(file) as kept,
    ):
        before = Counted(kept["counts"], int(kept["texts"]))
    return count_tokens(tokenizer, texts, before=before, keep=keep, keep_every=_KEEP_EVERY)


def report(facts: Mapping[str, Any]) -> list[str]:
    """Return what a trimmed model has lost and gained, as sentences."""
    saved = facts["parameters_before"] - facts["parameters"]
    lost = facts["held_out"]
    return [
        f"{facts['tokens']:,} of {facts['tokens_before']:,} tokens are kept: {facts['needed']:,} "
        f"that the texts need, {facts['on_the_way']:,} that these are made of, "
        f"{facts['unused']:,} unused ones",
        f"{facts['parameters']:,} of {facts['parameters_before']:,} parameters, "
        f"{saved * 4 / 1e6:,.0f} MB less in float32 and {saved * 2 / 1e6:,.0f} MB in bfloat16",
        f"of {lost['texts']:,} held-out texts {lost['changed_texts']:,} are cut in another way: "
        f"{lost['changed_share']:.2%} of their tokens, {lost['changed_bytes_share']:.2%} of their "
        f"bytes, {lost['growth']:+.2%} in length",
    ]


def _facts(before: AnyConfig, after: AnyConfig, smaller: Trimmed, loss: Coverage) -> dict[str, Any]:
    return {
        "tokens": len(smaller.kept),
        "tokens_before": _vocab_size(before),
        "needed": smaller.needed,
        "on_the_way": smaller.on_the_way,
        "unused": smaller.unused,
        "parameters": after.num_parameters(),
        "parameters_before": before.num_parameters(),
        "held_out": {
            **asdict(loss),
            "changed_share": loss.changed_share,
            "changed_bytes_share": loss.changed_bytes_share,
            "growth": loss.growth,
        },
    }


def _texts(config: TrimConfig, *, held_out: bool, bar: Progress | None = None) -> Iterator[str]:
    """Yield the strings of the rows that are counted, or of those that are held out."""
    for raw in raw_rows(config.texts):
        # a row's content decides, so that equal rows are on one side whatever stands around
        draw = zlib.crc32(raw.json)
        if draw % config.every or (draw // config.every % config.held_out == 0) != held_out:
            continue
        if bar is not None:
            bar.advance()
        fields = raw.parsed().value
        for text in _strings([v for key, v in fields.items() if key not in _NOT_TEXT]):
            yield text[: config.max_characters]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if value:
            yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):
        yield from _strings(list(value.values()))


def _write(
    source: AnyCheckpoint,
    shape: AnyConfig,
    smaller: Trimmed,
    folder: StageFolder,
    dtype: StoredDtype,
    init: Path,
) -> None:
    """Write the smaller checkpoint; what the larger one was trained on stays in its ledger."""
    arrays, kept = source.arrays(), smaller.kept
    write_checkpoint(
        folder.checkpoint,
        shape,
        {name: arrays[name][kept] if name in _TABLES else arrays[name] for name in arrays},
        tokenizer_json=smaller.tokenizer_json,
        prompts=source.prompts,
        dtype=dtype,
        extra_files=provenance(folder, shape, [init], ()),
    )


def _smaller(config: AnyConfig, vocab_size: int) -> Any:
    """Return a config with another number of tokens."""
    if isinstance(config, DecoderConfig):
        return replace(config, stack=replace(config.stack, vocab_size=vocab_size))
    encoder = replace(config.encoder, vocab_size=vocab_size)
    if isinstance(config, EmbeddingConfig):
        return replace(config, encoder=encoder)
    return replace(config, encoder=encoder, decoder=_smaller(config.decoder, vocab_size))


def _vocab_size(config: AnyConfig) -> int:
    return (config.stack if isinstance(config, DecoderConfig) else config.encoder).vocab_size


def reads(config: TrimConfig, inputs: Inputs) -> list[Any]:
    """Return the content of the texts, file by file, and of what is trimmed."""
    files = data_files(*config.texts)
    return [[fingerprint.of_files([file]) for file in files], read_any(inputs["init"]).fingerprint]


def check(config: TrimConfig, inputs: Inputs) -> None:
    """Refuse to trim nothing."""
    if inputs["init"] is None:
        raise RecipeError("nothing to trim; set init, or put a stage before this one")


STAGE = Contract(
    config=TrimConfig,
    gives={},
    run=run,
    reads=reads,
    estimate=estimate,
    inputs=(Input("init", ("model", "decoder", "seq2seq")),),
    unimportant=("init",),
    check=check,
)
