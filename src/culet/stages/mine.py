"""Stage mine: hard negatives for training pairs, from an embedder's own mistakes.

Every query is compared with every document of its source (or of a separate corpus), exactly; the
nearest that are not known to be relevant, and score low enough relative to the positive, become
its negatives. Gemini Embedding (arXiv 2503.07891) does so with an embedder trained without
hard negatives, has them graded twice, fuses the grades by reciprocal rank and takes the lowest.

data/<source>/part-*.jsonl   the records with negatives, in order; what finetune reads
ledger.json                  licences, here and in each source's folder
report.json                  counts and score histograms of each source
state/                       texts, vectors and counts, removed once it is finished
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

from culet.checkpoints.embedding import read_embedding_model
from culet.data.batches.shuffle import check_seed
from culet.data.ledger import write_ledgers
from culet.data.mining.judges import RescoreConfig, judges_of
from culet.data.mining.rules import Rules
from culet.data.mining.tally import MiningTally
from culet.errors import InputError, RecipeError
from culet.files.atomic import write_json
from culet.files.rows import data_files
from culet.loading import load
from culet.stages.contract import Contract, Input, Inputs, Job, check_sources, of_content
from culet.stages.estimate import Context, Disk, Estimate
from culet.stages.folder import StageFolder
from culet.stages.miner import Miner
from culet.stages.samples import Rows, mined
from culet.stages.speed import embedding_estimate
from culet.text.prompts import TASKS

_AROUND_A_TEXT = 40  # bytes in a store: its task, brackets, offset
_INDEXED = 64  # bytes of a record in the index


@dataclass(frozen=True)
class MineSource:
    """One source to mine negatives for.

    Attributes:
        path: A file or a folder of records; see `culet.data.records`.
        task: Task of records that name none.
        name: Its folder below data/; if empty, the name of the file, or of its folder if the
            file is called pairs.
        corpus: Documents to find negatives among; the source's own if empty.
        within: Fields that a negative shares with its record, such as "lang".
    """

    path: Path
    task: str = "search"
    name: str = ""
    corpus: tuple[Path, ...] = ()
    within: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise RecipeError(f"task must be one of {', '.join(TASKS)}, got {self.task!r}")

    @property
    def label(self) -> str:
        """The source's name in messages and folders."""
        stem = self.path.name.partition(".")[0]
        return self.name or (self.path.resolve().parent.name if stem == "pairs" else stem)


@dataclass(frozen=True)
class MineConfig:
    """What is mined and how.

    Attributes:
        sources: Records to mine for.
        rules: Which near documents become negatives.
        rescore: Judges whose rankings are fused with reciprocal ranks; without them the
            embedder's order counts.
        keep_given: Keep the negatives that records already have, before the mined ones.
        drop_without: Leave out records for which nothing was found.
        truncate_to: Width of the vectors compared; the full one if left out.
        precision: Of the embedder; see `culet.load`.
        block_rows: Records in one part of the output, and what a killed run loses.
        block_documents: Documents scored at once; memory is block_rows × this × 9 bytes.
        skip_bad_records: Leave bad lines out instead of stopping.
        seed: Seed of random picks.
    """

    sources: tuple[MineSource, ...]
    rules: Rules = field(default_factory=Rules)
    rescore: RescoreConfig = field(default_factory=RescoreConfig)
    keep_given: bool = False
    drop_without: bool = False
    truncate_to: int | None = None
    precision: str | None = None
    block_rows: int = 2048
    block_documents: int = 16_384
    skip_bad_records: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_sources(self.sources)
        check_seed(self.seed)
        if self.block_rows < 1 or self.block_documents < 1:
            raise RecipeError(
                "block_rows and block_documents must be at least 1, got "
                f"{self.block_rows} and {self.block_documents}"
            )
        labels = [source.label for source in self.sources]
        if len(set(labels)) < len(labels) or not all(labels):
            raise RecipeError(f"sources need different names, got {labels}; give each a name")
        rescored = self.rescore.cross_encoder or self.rescore.grades
        if not rescored and (self.rescore.max_grade is not None or self.rescore.with_embedder):
            raise RecipeError("rescore needs a cross_encoder or grades")


def run(config: MineConfig, folder: StageFolder, job: Job, *, init: Path) -> None:
    """Mine with the embedder in `init` and write the records to data/.

    A run that was killed resumes after the last window of vectors and the last part of records.

    Raises:
        InputError: At a bad record, with file and line, unless they are to be skipped; if no
            record gets a negative.
        CheckpointError: If the embedder or the cross-encoder cannot be read.
    """
    name, out = job.name, folder.path
    embedder = load(init, device=job.device, precision=config.precision, threads=job.threads)
    judges = judges_of(config.rescore, job.device)
    reports, whole = {}, MiningTally()
    for source in config.sources:
        miner = Miner(config, source, embedder, judges, folder, job)
        reports[source.label] = miner.run(whole)
    if whole.without == whole.counts["records"]:
        shutil.rmtree(out / "data")  # without negatives it would look like what was asked for
        raise InputError(
            f"{name}: none of {whole.without:,} records got a negative: {whole.why_without()}; "
            f"loosen the rules in [{name}.rules] (depth is {config.rules.depth}), or name a corpus"
        )
    write_ledgers(out, {s.label: (s.path, *s.corpus) for s in config.sources})
    write_json(out / "report.json", reports)
    folder.finish({"records": {label: report["records"] for label, report in reports.items()}})
    shutil.rmtree(folder.state, ignore_errors=True)


def estimate(config: MineConfig, context: Context) -> Estimate:
    """Return what embedding would take, and the rows with as many negatives as there can be."""
    shape = context.shape(context.inputs["init"])
    read = [path for source in config.sources for path in (source.path, *source.corpus)]
    found = {source.label: context.rows([source.path]) for source in config.sources}
    number, keep = config.rules.number, config.keep_given
    return replace(
        embedding_estimate(context.rows(read), shape, config.precision, context.machine),
        disk=_disk(config, config.truncate_to or getattr(shape, "embedding_dim", None), context),
        rows={key: rows and mined(rows, number, keep_given=keep) for key, rows in found.items()},
    )


def _disk(config: MineConfig, width: int | None, context: Context) -> Disk | None:
    """Return the bytes of the texts, their vectors and the rows with negatives."""
    state = kept = 0.0
    for source in config.sources:
        rows = context.rows([source.path])
        corpus = context.rows(source.corpus) if source.corpus else Rows(())
        if rows is None or corpus is None or width is None:
            return None
        texts = rows.total(lambda row: len(row.own)) + corpus.count
        written = rows.total(lambda row: row.escaped) + corpus.total(lambda row: row.escaped)
        state += written + texts * (_AROUND_A_TEXT + 2 * width) + rows.count * _INDEXED
        documents = corpus if corpus.parts else rows
        negatives = config.rules.number * documents.mean(lambda row: row.sides[-1])
        kept += rows.bytes + rows.count * negatives
    return Disk(state + kept, kept)


def reads(config: MineConfig, inputs: Inputs) -> list[str]:
    """Return the fingerprints of the records and judges, and of the embedder."""
    paths = [path for source in config.sources for path in (source.path, *source.corpus)]
    if config.rescore.grades is not None:
        paths.append(config.rescore.grades)
    files = data_files(*paths)
    if config.rescore.cross_encoder is not None:
        files += [file for file in config.rescore.cross_encoder.rglob("*") if file.is_file()]
    return [of_content(inputs, files), read_embedding_model(inputs["init"]).fingerprint]


STAGE = Contract(
    config=MineConfig,
    gives={"data": "data"},
    run=run,
    reads=reads,
    estimate=estimate,
    inputs=(Input("init", ("model",)),),
    unimportant=("block_documents",),
)
