"""Finetuning of an encoder-decoder on pairs of an input and a target text.

With test files the stage ends by writing an answer to each of their inputs and scoring it by exact
match, as closed-book question answering is scored (SKILL, arXiv 2205.08184, section 4).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from culet.checkpoints.folder import text_tokenizer
from culet.checkpoints.t5gemma import read_encoder_decoder
from culet.checkpoints.write import write_checkpoint
from culet.data.batches.windows import TokenPairs
from culet.data.seq2seq import InputTarget, PairBatcher, read_pairs
from culet.errors import RecipeError
from culet.evaluate.closed_book import exact_match, is_match
from culet.files.atomic import new_file
from culet.generation.decode import GenerationConfig, generate
from culet.model.encoder_decoder import EncoderDecoder
from culet.model.weights import from_arrays, to_arrays
from culet.stages.contract import Contract, Input, Inputs, Job, of_records
from culet.stages.estimate import Context, Estimate
from culet.stages.folder import StageFolder
from culet.stages.language import (
    UNIMPORTANT,
    TokenTraining,
    finish,
    train,
    with_dropout,
)
from culet.stages.provenance import provenance
from culet.stages.samples import Texts, tokens
from culet.stages.speed import language_estimate
from culet.terminal.progress import Progress
from culet.text.tokenizer import TextTokenizer
from culet.train.language_steps import pairs_step
from culet.train.processes import current


@dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig(TokenTraining):
    """Finetuning on records {"input", "target"}.

    Attributes:
        train: Files or folders of records.
        test: Files of records to answer at the end; {"answers": [...]} lists other right answers.
        max_source_tokens: Longer inputs are cut (and counted).
        max_target_tokens: Longer targets are cut (and counted); also the longest answer.
        beams: Beams of the answers; 1 is greedy, as the papers evaluate.
        init: Encoder-decoder to start from; that of the stage before, if left out.
    """

    train: tuple[Path, ...]
    test: tuple[Path, ...] = ()
    max_source_tokens: int = 256
    max_target_tokens: int = 64
    beams: int = 1
    init: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.train:
            raise RecipeError("train must name at least one file of input and target records")
        if self.max_source_tokens < 3 or self.max_target_tokens < 2 or self.beams < 1:
            raise RecipeError(
                "max_source_tokens must be at least 3, max_target_tokens 2 and beams 1; got "
                f"{self.max_source_tokens}, {self.max_target_tokens}, {self.beams}"
            )


def run(config: Seq2SeqConfig, folder: StageFolder, job: Job, *, init: Path) -> None:
    """Finetune the encoder-decoder `init`; an interrupted run is resumed.

    Raises:
        TrainingError: If the loss or its gradient stops being finite.
        InputError: If a record is bad.
        Interrupted: After SIGINT, with the state saved.
    """
    name, say, device = job.name, job.say, job.device
    start = read_encoder_decoder(init)
    pairs, tests = read_pairs(config.train), read_pairs(config.test) if config.test else []
    shape = with_dropout(start.config, config.dropout)
    model = from_arrays(shape, start.arrays(), device=device).train()
    current().shard_layers(model, model.layers)
    longest = min(config.max_source_tokens, shape.encoder.max_length)
    tokenizer = text_tokenizer(start.tokenizer_json, max_length=longest)
    settings = config.step_config()

    def step(batch: TokenPairs) -> dict[str, float]:
        return pairs_step(model, batch, settings, bos=tokenizer.bos_id)

    batcher = PairBatcher(
        pairs,
        tokenizer,
        batch_size=config.batch_size,
        max_target_tokens=config.max_target_tokens,
        seed=config.seed,
        name=config.train[0].name,
        rank=current().rank,
        world_size=current().size,
    )
    result = train(
        config, model, dict(model.named_parameters()), step, batcher, folder, name=name, say=say
    )
    if result is None:  # the first process writes, and answers
        return
    write_checkpoint(
        folder.checkpoint,
        start.config,
        to_arrays(model),
        tokenizer_json=start.tokenizer_json,
        dtype=config.save_dtype,
        extra_files=provenance(folder, start.config, [init], config.train),
    )
    result["exact_match"] = None
    if current().sharded:
        model = from_arrays(start.config, to_arrays(model), device=device)
    if tests:
        result["exact_match"] = _score(
            config, model, tokenizer, start.tokenizer_json, tests, folder.path
        )
        say(f"{name}: {100 * result['exact_match']:.2f} % of {len(tests)} answers match exactly")
    finish(folder, result)


def estimate(config: Seq2SeqConfig, context: Context) -> Estimate:
    """Return what training would take, without answering."""
    shape, rows = context.shape(context.inputs["init"]), context.rows(config.train)
    longest = config.max_source_tokens, config.max_target_tokens

    def per_row(texts: Texts) -> float:
        return sum(map(tokens, texts.sides, longest))

    return language_estimate(
        config,
        context,
        trained=shape,
        models={"seq2seq": shape},
        per_step=config.batch_size * (sum(longest) if rows is None else rows.mean(per_row)),
        at_most=rows is None,
        length=sum(longest),
    )


def answer(
    model: EncoderDecoder,
    inputs: Sequence[str],
    tokenizer: TextTokenizer,
    words: Tokenizer,
    config: GenerationConfig,
    *,
    compute_dtype: torch.dtype = torch.float32,
    what: str = "answering",
) -> list[str]:
    """Return what a model writes for each input, special tokens left out.

    Args:
        model: The model.
        inputs: Texts.
        tokenizer: Its limit cuts inputs.
        words: The same tokenizer, to turn ids into text.
        config: How text is generated.
        compute_dtype: Dtype of activations.
        what: Text of the progress line.
    """
    ids = tokenizer.encode(inputs).ids
    with Progress(what, total=len(inputs), unit="texts", show=None) as bar:
        written = generate(model, ids, config, compute_dtype=compute_dtype, done=bar.advance)
    return [words.decode(text.ids.tolist()).strip() for text in written]


def _score(
    config: Seq2SeqConfig,
    model: EncoderDecoder,
    tokenizer: TextTokenizer,
    tokenizer_json: str,
    tests: Sequence[InputTarget],
    folder: Path,
) -> float:
    """Answer the test records, write the answers beside the checkpoint, return the score."""
    model.eval()
    written = answer(
        model,
        [pair.input for pair in tests],
        tokenizer,
        Tokenizer.from_str(tokenizer_json),
        GenerationConfig(max_new_tokens=config.max_target_tokens, beams=config.beams),
        compute_dtype=config.step_config().compute_dtype,
    )
    with new_file(folder / "answers.jsonl") as aside, aside.open("w", encoding="utf-8") as file:
        for pair, text in zip(tests, written, strict=True):
            row = {"input": pair.input, "answer": text, "right": is_match(text, pair.answers)}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return exact_match(written, [pair.answers for pair in tests])


def reads(config: Seq2SeqConfig, inputs: Inputs) -> list[str]:
    """Return the content of the records and of the encoder-decoder."""
    records = of_records(inputs, *config.train, *config.test)
    return [records, read_encoder_decoder(inputs["init"]).fingerprint]


STAGE = Contract(
    config=Seq2SeqConfig,
    gives={"seq2seq": "checkpoint"},
    run=run,
    reads=reads,
    estimate=estimate,
    inputs=(Input("init", ("seq2seq",)),),
    unimportant=UNIMPORTANT,
    records=("train",),
    everywhere=True,
)
