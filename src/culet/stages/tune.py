"""The contrastive stages: prefinetune (pairs) and finetune (pairs with hard negatives).

They differ in their settings only: EmbeddingGemma (arXiv 2509.20354, section 2.3) prefinetunes
on large batches of noisy pairs without hard negatives, then finetunes on smaller batches of
better ones with them.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from culet.architecture.embedding_config import EmbeddingConfig
from culet.checkpoints.checkpoint import EmbeddingCheckpoint
from culet.checkpoints.embedding import read_embedding_model
from culet.checkpoints.folder import text_tokenizer
from culet.checkpoints.lineage import descent
from culet.checkpoints.write import write_checkpoint
from culet.data.batches.collate import PairBatch
from culet.data.batches.sources import Batcher, Source, read_source
from culet.data.reading import check_teaches
from culet.data.records import stream_records
from culet.data.teacher_vectors import MANIFEST
from culet.errors import InputError, RecipeError
from culet.files.rows import data_files
from culet.model.embedding_model import EmbeddingModel, check_dtype
from culet.model.lora import add_lora, merge_lora
from culet.model.weights import from_arrays, to_arrays
from culet.stages.contract import Contract, Input, Inputs, Job, of_content
from culet.stages.folder import StageFolder
from culet.stages.provenance import provenance
from culet.stages.tune_settings import TuneConfig, estimate, hard_negatives, settle, trained_widths
from culet.text.prompts import Prompts
from culet.train.averaging import saved, step_name, superseded
from culet.train.contrastive_step import (
    Projection,
    Temperature,
    contrastive_step,
)
from culet.train.gradient_cache import one_tower
from culet.train.processes import current, unshard
from culet.train.resume import drop_state
from culet.train.session import Session


def run(
    config: TuneConfig, folder: StageFolder, job: Job, *, init: Path, mixture: Path | None
) -> None:
    """Tune the checkpoint `init`; an interrupted run is resumed.

    Raises:
        TrainingError: If the loss or its gradient stops being finite.
        InputError: If a record is bad; see `culet.data.records`.
        Interrupted: After SIGINT, with the state saved.
    """
    name, say = job.name, job.say
    start = read_embedding_model(init)
    widths = trained_widths(config, start.config)
    prompts = Prompts.from_names(start.prompts)
    sources = _read_sources(config, prompts, say=say, name=name)
    batcher = _batcher(config, sources, prompts, start)
    projection = _projection(config, sources, start)
    trained, session = _train(config, start, folder, batcher, projection, job)
    if trained is not None:  # the first process writes
        _write_result(trained, config, replace(start.config, widths=widths), start, folder)
        skipped = sum(len(source.records.skipped) for source in sources)
        result = session.summary() | {"skipped_records": skipped}
        folder.finish(result)
        drop_state(folder.state)
        if result["texts_cut"]:
            say(f"{name}: {result['texts_cut']} texts were cut at {config.max_tokens} tokens")


def _train(
    config: TuneConfig,
    start: EmbeddingCheckpoint,
    folder: StageFolder,
    batcher: Batcher,
    projection: Projection | None,
    job: Job,
) -> tuple[EmbeddingModel | None, Session]:
    """Return the trained model, in the first process only, and the session that trained it."""
    device, watch = job.device, job.watch
    model = _model(start, config, device)
    current().shard(model, model.encoder.blocks)
    temperature = Temperature(config.loss.temperature) if config.loss.learn_temperature else None
    named = list(model.named_parameters())
    if temperature is not None:
        temperature.to(device)
        named.append(("temperature", temperature.log))
    if projection is not None:
        projection.to(device)
        named.append(("projection", projection.weight))
    session = Session(config, named, folder, name=job.name, say=job.say)
    if watch is not None and config.eval_every:
        session.every(config.eval_every, lambda done: _evaluate(model, done, watch, config, start))
    if config.snapshot_every:
        session.keep_every(
            config.snapshot_every, lambda done: _snapshot(model, done, config, start, folder)
        )

    towers = one_tower(model, compute_dtype=getattr(torch, config.compute_dtype))

    def step(batch: PairBatch) -> dict[str, float]:
        parts = contrastive_step(
            towers,
            batch,
            config.loss,
            temperature=temperature,
            projection=projection,
            chunking=config.chunking,
        )
        return parts if temperature is None else parts | {"temperature": temperature().item()}

    model.train()
    session.run(step, batcher)
    session.take_average()
    return _in_one_piece(model, config, start), session


def reads(config: TuneConfig, inputs: Inputs) -> list[str]:
    """Return the content of the data and of the checkpoint that the stage starts from."""
    files = data_files(*(source.path for source in config.sources))
    # the manifest of stage teach says what is in its folder
    manifests = [source.teacher / MANIFEST for source in config.sources if source.teacher]
    if absent := [str(file) for file in manifests if not file.exists()]:
        raise InputError(f"{absent[0]} does not exist; expected a folder that stage teach has left")
    return [
        of_content(inputs, [*files, *manifests]),
        read_embedding_model(inputs["init"]).fingerprint,
    ]


def check(config: TuneConfig, inputs: Inputs) -> None:
    """Refuse widths that the model does not have, and sources that do not begin with a pair."""
    trained_widths(config, read_embedding_model(inputs["init"]).config)
    for source in config.sources:
        next(stream_records([source.path], skip_bad=config.skip_bad_records), None)


def _read(config: TuneConfig) -> list[Path]:
    """Return what is trained on: the data, and the vectors of teachers."""
    taught = [source.teacher for source in config.sources if source.teacher]
    return [*(source.path for source in config.sources), *dict.fromkeys(taught)]


def _read_sources(
    config: TuneConfig, prompts: Prompts, *, say: Callable[[str], None], name: str
) -> list[Source]:
    sources = []
    for source in config.sources:
        sources.append(read_source(source, prompts, skip_bad=config.skip_bad_records))
        reading, label = sources[-1].records.reading, sources[-1].label
        say(f"{name}: {label}: {reading.summary()}")
        for warning in check_teaches(
            reading,
            label,
            num_negatives=hard_negatives(config, source),
            taught=source.teacher is not None and config.loss.distill > 0,
            grouped=bool(source.batch_by),
        ):
            warnings.warn(f"{name}: {warning}", stacklevel=2)
        if skipped := sources[-1].records.skipped:
            say(
                f"{name}: skipped {len(skipped)} bad records of {source.path}, "
                f"the first: {skipped[0]}"
            )
    return sources


def _batcher(
    config: TuneConfig, sources: Sequence[Source], prompts: Prompts, start: EmbeddingCheckpoint
) -> Batcher:
    longest = min(config.max_tokens, start.config.encoder.max_length)
    return Batcher(
        sources,
        batch_size=config.batch_size,
        num_negatives=config.num_negatives,
        tokenizer=text_tokenizer(start.tokenizer_json, max_length=longest),
        prompts=prompts,
        steps=config.steps,
        seed=config.seed,
        rank=current().rank,
        world_size=current().size,
        mixing=config.mixing,
    )


def _projection(
    config: TuneConfig, sources: Sequence[Source], start: EmbeddingCheckpoint
) -> Projection | None:
    """Return the learnt map to the teacher's width, if one is asked for.

    Raises:
        RecipeError: If no source has a teacher of its own, or their widths differ.
    """
    if config.loss.distill_projection == "prefix":
        return None
    widths = {source.teacher.width for source in sources if source.teacher is not None}
    if len(widths) != 1:
        raise RecipeError(
            "loss.distill_projection = 'learned' needs sources with a `teacher`, all of one "
            f"width; got the widths {sorted(widths)}"
        )
    return Projection(start.config.embedding_dim, widths.pop())


def _model(start: EmbeddingCheckpoint, config: TuneConfig, device: str) -> EmbeddingModel:
    check_dtype(getattr(torch, config.compute_dtype))
    encoder = replace(start.config.encoder, dropout=config.dropout)
    model = from_arrays(replace(start.config, encoder=encoder), start.arrays(), device=device)
    if config.lora is not None:
        add_lora(model, config.lora, seed=config.seed)
    return model


def _evaluate(
    model: EmbeddingModel,
    step: int,
    watch: Callable[[EmbeddingModel, int], None],
    config: TuneConfig,
    start: EmbeddingCheckpoint,
) -> None:
    """Evaluate without a trace: dropout off, and the random numbers of training left alone."""
    world = current()
    with torch.random.fork_rng():
        watched = _in_one_piece(model, config, start)
        if watched is not None:
            watched.eval()
            watch(watched, step)
    world.wait()
    model.train()


@torch.no_grad()
def _in_one_piece(
    model: EmbeddingModel, config: TuneConfig, start: EmbeddingCheckpoint
) -> EmbeddingModel | None:
    """Return the model, or one with all its weights where these are split over processes.

    All processes must call it; all but the first get None.
    """
    world = current()
    if not world.sharded:
        return model if world.first else None
    whole = _model(start, config, world.device) if world.first else None
    parameters = {} if whole is None else dict(whole.named_parameters())
    for name, parameter in model.named_parameters():
        value = unshard(parameter)
        if world.first:
            parameters[name].copy_(value)
    return whole


def _snapshot(
    model: EmbeddingModel,
    step: int,
    config: TuneConfig,
    start: EmbeddingCheckpoint,
    folder: StageFolder,
) -> None:
    """Write the weights as they are as a checkpoint, and drop all but the last few of them."""
    whole = _in_one_piece(model, config, start)
    if whole is not None:
        snapshots = folder.path / "snapshots"
        shape = replace(start.config, widths=trained_widths(config, start.config))
        _write_result(whole, config, shape, start, folder, into=snapshots / step_name(step))
        for old in superseded(saved(snapshots, ""), step=step, keep=config.snapshots):
            shutil.rmtree(old)
    current().wait()


def _write_result(
    model: EmbeddingModel,
    config: TuneConfig,
    shape: EmbeddingConfig,
    start: EmbeddingCheckpoint,
    folder: StageFolder,
    *,
    into: Path | None = None,
) -> None:
    """Write the tuned checkpoint: merged, with the widths it trained."""
    if config.lora is not None:
        merge_lora(model)
    write_checkpoint(
        into or folder.checkpoint,
        shape,
        to_arrays(model),
        tokenizer_json=start.tokenizer_json,
        prompts=start.prompts,
        dtype=config.save_dtype,
        extra_files={
            **descent(start),
            **provenance(folder, shape, [start.path], _read(config)),
        },
    )


STAGE = Contract(
    config=TuneConfig,
    gives={"model": "checkpoint"},
    run=run,
    reads=reads,
    estimate=estimate,
    inputs=(Input("init", ("model",)), Input("mixture", ("mixture",), needed=False)),
    unimportant=("save_every", "eval_every", "mixture_number"),
    everywhere=True,
    settle=settle,
    check=check,
)
