"""Data preparation: raw training rows to clean shards, a report and a licence ledger.

Passes over the rows, in this order; each but the first and the last only if it is asked for:

1. examine      lengths, languages, overlap with evaluation tasks; keys and signatures to disk
2. exact, near  duplicates of an earlier row, in the order of the sources
3. consistency  pairs whose document is not near their query, under an embedder
4. grades       pairs that a language model grades low
5. write        what is left, as it was read, in shards, a folder a source

Memory does not grow with the rows, but for one byte each. Rows are never held between passes: they
are read again, and what is known of them is looked up by their number.
"""

from __future__ import annotations

import resource
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from culet.checkpoints.embedding import read_embedding_model
from culet.data.endpoints.chat import ChatClient
from culet.data.endpoints.synthesis import GradesConfig
from culet.data.ledger import LEDGER, UNSTATED, LedgerEntry, joined, ledger_of, write_ledger
from culet.data.prepare.consistency import ConsistencyConfig
from culet.data.prepare.contamination import ContaminationConfig, OverlapIndex
from culet.data.prepare.dedup import KEY
from culet.data.prepare.examine import Examiner
from culet.data.prepare.filters import LanguageConfig, LanguageIdentifier, LengthConfig
from culet.data.prepare.minhash import NearConfig
from culet.data.prepare.passes import Passes
from culet.data.prepare.report_json import counts_by_source, report
from culet.data.prepare.survey import Survey
from culet.errors import Interrupted, RecipeError
from culet.evaluate.encoding import task_texts
from culet.evaluate.tasks import TaskInfo, list_tasks, read_task
from culet.files import fingerprint
from culet.files.atomic import write_json
from culet.files.rows import data_files
from culet.loading import find_checkpoint, load
from culet.stages.contract import Contract, Inputs, Job, check_sources
from culet.stages.estimate import Context, Disk, Estimate
from culet.stages.folder import StageFolder
from culet.stages.samples import Rows

_EXACT, _BAND = 20, 12  # bytes of a row, or of its bands, in files of `culet.data.prepare.dedup`
_PACKAGED_WIDTH = 512  # of the embedder that judges pairs, where none is named
_GENERIC = ("pairs", "text", "triples", "data", "train")  # names of files that say nothing


@dataclass(frozen=True)
class DataSourceConfig:
    """Raw rows of one source.

    Attributes:
        path: A file or folder that `culet.files.rows.data_files` accepts.
        name: What it is called in the report, the ledger and the output; from the path if left out.
        licence: Its licence, for the ledger; from a `source.json` beside it if left out.
        origin: Where it comes from, likewise.
        attribution: Whom to name, likewise.
    """

    path: Path
    name: str | None = None
    licence: str | None = None
    origin: str | None = None
    attribution: str | None = None

    def __post_init__(self) -> None:
        if not self.called or {"/", "\t", "\0"} & set(self.called) or self.called[0] == ".":
            raise RecipeError(f"a source needs a name that can be a folder's, got {self.called!r}")

    @property
    def called(self) -> str:
        """The name of the source."""
        if self.name is not None:
            return self.name
        plain = self.path.name.split(".jsonl")[0].removesuffix(".parquet")
        return f"{self.path.parent.name}-{plain}" if plain in _GENERIC else plain


@dataclass(frozen=True)
class PrepareConfig:
    """A preparation. A filter whose table is left out does nothing.

    Attributes:
        sources: Raw rows; of duplicates the row of the earlier source stays.
        length: Bounds of length.
        language: Wanted languages.
        contamination: Search for evaluation texts.
        exact: Remove rows whose texts an earlier row has, but for case, blanks and Unicode forms.
        near: Remove rows that are nearly an earlier one.
        consistency: Remove pairs whose document is not near their query.
        grades: Remove pairs that a language model grades low.
        bad_lines: "refuse" stops at the first, naming file and line; "isolate" writes them to
            `rejects/` and goes on.
        unlicensed: "note" writes "not stated" into the ledger; "refuse" stops at the beginning if
            a source states no licence.
        shard_rows: Rows in an output file, at least; a file ends with the chunk that fills it.
        compress: gzip the output.
        examples: Examples in the report, of each filter and source; of duplicates, of each filter.
        workers: Processes of the first pass. Each holds the evaluation texts' index.
    """

    sources: tuple[DataSourceConfig, ...]
    length: LengthConfig | None = None
    language: LanguageConfig | None = None
    contamination: ContaminationConfig | None = None
    exact: bool = True
    near: NearConfig | None = None
    consistency: ConsistencyConfig | None = None
    grades: GradesConfig | None = None
    bad_lines: Literal["refuse", "isolate"] = "refuse"
    unlicensed: Literal["note", "refuse"] = "note"
    shard_rows: int = 200_000
    compress: bool = True
    examples: int = 3
    workers: int = 1

    def __post_init__(self) -> None:
        names = [source.called for source in self.sources]
        check_sources(names)
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise RecipeError(f"sources need names of their own; twice: {', '.join(twice)}")
        if self.shard_rows < 1 or self.workers < 1 or self.examples < 0:
            raise RecipeError(
                "shard_rows and workers must be at least 1 and examples 0, got "
                f"{self.shard_rows}, {self.workers} and {self.examples}"
            )
        for key, judge in (("consistency", self.consistency), ("grades", self.grades)):
            if judge is not None and (unknown := sorted(set(judge.sources) - set(names))):
                raise RecipeError(
                    f"{key}.sources names {', '.join(unknown)}; the sources are {', '.join(names)}"
                )


def run(config: PrepareConfig, folder: StageFolder, job: Job) -> None:
    """Prepare the sources and leave a folder of shards for each.

    An interrupted run resumes at its last save: each chunk of the first pass, each shard of the
    last, every ten seconds in between.

    Raises:
        InputError: A file that cannot be read, or a bad line, by file and line.
        MissingExtra: If languages are to be identified and py3langid is not installed.
    """
    name, say = job.name, job.say
    entries = [_entry(source) for source in config.sources]
    tasks = _tasks(config.contamination)
    judge = None if config.consistency is None else _checkpoint(config.consistency.model)
    data = folder.path / "data"
    if unstated := [entry.source for entry in entries if entry.licence == UNSTATED]:
        say(f"{name}: no licence is stated for {', '.join(unstated)}")
    passes = Passes(
        *_files(config), state=folder.state, name=name, say=say, examples=config.examples
    )
    try:
        passes.examine(
            lambda: _examiner(config, tasks, passes.survey, name=name, say=say),
            workers=config.workers,
        )
        passes.remove_duplicates(exact=config.exact, near=config.near)
        if config.consistency is not None:
            passes.check_consistency(
                config.consistency, lambda: load(judge, device=job.device, threads=job.threads)
            )
        if config.grades is not None:
            answers = config.grades.cache or folder.answers
            passes.check_grades(config.grades, ChatClient(config.grades.endpoint, answers))
        passes.write(
            data,
            folder.path / "rejects",
            shard_rows=config.shard_rows,
            compress=config.compress,
        )
    except KeyboardInterrupt:
        raise Interrupted(f"{name}: stopped; run the same again to go on") from None
    _finish(passes, folder, entries, name=name, say=say)


def estimate(config: PrepareConfig, context: Context) -> Estimate:
    """Return what the stage would leave, as if no row were taken out."""
    rows = context.rows(source.path for source in config.sources)
    left = {source.called: context.rows([source.path]) for source in config.sources}
    return Estimate(disk=None if rows is None else _disk(config, rows), rows=left)


def _disk(config: PrepareConfig, rows: Rows) -> Disk:
    kept = rows.packed if config.compress else rows.bytes
    near = config.near
    state = 2 + KEY.itemsize * config.exact + (0 if near is None else 2 * near.hashes)
    dealt = max(_EXACT * config.exact, 0 if near is None else _BAND * near.bands)
    pool = 0.0
    if config.consistency is not None:
        pool = config.consistency.pool * (4 * (config.consistency.width or _PACKAGED_WIDTH) + 16)
    return Disk(state * rows.count + pool + max(dealt * rows.count, kept), kept)


def _files(config: PrepareConfig) -> tuple[list[Path], list[str]]:
    """Return all files in order, and the source of each."""
    owned = [(f, source.called) for source in config.sources for f in data_files(source.path)]
    return [file for file, _ in owned], [source for _, source in owned]


def _examiner(
    config: PrepareConfig,
    tasks: list[TaskInfo],
    survey: Survey,
    *,
    name: str,
    say: Callable[[str], None],
) -> Examiner:
    """Return what judges rows one by one, with the texts of the tasks in memory."""
    overlap = identify = None
    if config.language is not None and config.language.identify:
        identify = LanguageIdentifier()
    if config.contamination is not None:
        overlap = OverlapIndex(
            (
                (f"{info.name}\t{role}", text)
                for info in tasks
                for role, text in task_texts(read_task(info.folder))
            ),
            words=config.contamination.words,
            shortest=config.contamination.shortest,
        )
        survey.notes["evaluation"] = {"tasks": len(tasks), "texts": overlap.texts}
        say(f"{name}: looking for {overlap.texts:,} texts of {len(tasks)} evaluation tasks")
    return Examiner(
        length=config.length,
        language=config.language,
        identify=identify,
        contamination=config.contamination,
        overlap=overlap,
        exact=config.exact,
        near=config.near,
        isolate=config.bad_lines == "isolate",
    )


def _finish(
    passes: Passes,
    folder: StageFolder,
    entries: list[LedgerEntry],
    *,
    name: str,
    say: Callable[[str], None],
) -> None:
    """Write the report and the ledger, and say what became of the rows."""
    survey = passes.survey
    survey.load_verdicts()
    counts = counts_by_source(survey, passes.owners)
    write_ledger(
        folder.path / LEDGER,
        (
            replace(entry, rows_read=own["read"], rows_kept=own["kept"])
            for entry in entries
            for own in [counts[entry.source]]
        ),
    )
    found = report(survey, passes.owners, megabytes=_peak_megabytes())
    write_json(folder.path / "report.json", found)
    read, kept = found["rows"]["read"], found["rows"]["kept"]
    removed = ", ".join(f"{count:,} {reason}" for reason, count in found["removed"].items())
    say(f"{name}: {kept:,} of {read:,} rows stay" + (f"; {removed}" * bool(removed)))
    folder.finish({"read": read, "kept": kept, "removed": found["removed"]})
    shutil.rmtree(folder.state, ignore_errors=True)


def _entry(source: DataSourceConfig) -> LedgerEntry:
    """Return the ledger entry of a source; the recipe overrides the source's own files."""
    return replace(_stated(source), fingerprint=fingerprint.of_files(data_files(source.path)))


def _stated(source: DataSourceConfig) -> LedgerEntry:
    entry = joined(ledger_of([source.path]), source.called)
    given = {
        key: value
        for key in ("licence", "origin", "attribution")
        if (value := getattr(source, key)) is not None
    }
    return replace(entry, **given)


def _tasks(config: ContaminationConfig | None) -> list[TaskInfo]:
    if config is None:
        return []
    tasks = [task for folder in config.tasks for task in list_tasks(folder)]
    if unknown := sorted(set(config.only) - {task.name for task in tasks}):
        raise RecipeError(
            f"contamination.only names {', '.join(unknown)}; the tasks are "
            f"{', '.join(task.name for task in tasks)}"
        )
    return [task for task in tasks if not config.only or task.name in config.only]


def _checkpoint(model: Path | None) -> Path:
    return find_checkpoint(None if model is None else model.as_posix())


def _peak_megabytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10))


def reads(config: PrepareConfig, inputs: Inputs) -> list[Any]:
    """Return the content of the sources, of the evaluation tasks and of the embedder."""
    rows = [fingerprint.of_files(data_files(source.path)) for source in config.sources]
    tasks = [fingerprint.of_folder(task.folder) for task in _tasks(config.contamination)]
    if config.consistency is None:
        return [rows, tasks]
    return [rows, tasks, read_embedding_model(_checkpoint(config.consistency.model)).fingerprint]


def check(config: PrepareConfig, inputs: Inputs) -> None:
    """Refuse a source without a licence, if that is asked for."""
    for source in config.sources if config.unlicensed == "refuse" else ():
        if _stated(source).licence == UNSTATED:
            raise RecipeError(
                f"no licence is stated for {source.path}; write `licence` into its table, or a "
                "source.json beside it"
            )


STAGE = Contract(
    config=PrepareConfig,
    gives={"data": "data"},
    run=run,
    reads=reads,
    estimate=estimate,
    unimportant=("workers", "grades.cache"),
    optional=("grades.cache", "consistency.model"),
    check=check,
)
