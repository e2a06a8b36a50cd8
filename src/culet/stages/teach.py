"""Stage teach: the vectors of a teacher for every text of some sources, made once.

EmbeddingGemma (arXiv 2509.20354, section 2.2) matches the teacher's embeddings of queries,
positives and hard negatives. Here each distinct text is embedded once, whatever the number of
epochs, mixtures and students; a source then names this stage's vectors as its `teacher`.

vectors/   shards of float16 vectors by text; see `culet.data.teacher_vectors`
state/     the texts, and what an endpoint answered that no shard holds; gone once it is finished
"""

from __future__ import annotations

import json
import shutil
import warnings
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from culet.data.batches.collate import record_prompts
from culet.data.endpoints.embeddings import EmbeddingEndpoint
from culet.data.ledger import LEDGER, UNSTATED, LedgerEntry, card_licence, write_ledger
from culet.data.records import Record, data_files, stream_records
from culet.data.teacher_vectors import MANIFEST, Spoken, spoken, write_shard
from culet.errors import InputError, RecipeError
from culet.files import fingerprint
from culet.files.atomic import new_file
from culet.files.settings import LATER, identity, to_tables
from culet.files.stores import TextStore, numbered, write_store
from culet.stages.estimate import Context, Disk, Estimate
from culet.stages.folder import StageFolder
from culet.stages.speed import embedding_estimate
from culet.stages.teachers import EmbedderTeacher, EndpointTeacher, Teacher, folder_teacher
from culet.terminal.progress import Progress
from culet.text.prompts import TASKS, Prompts

_AROUND_A_TEXT = 40  # bytes in a store: its task, brackets, where it begins
_AROUND_A_VECTOR = 36  # the key of its text: 32 hex digits and their length


@dataclass(frozen=True)
class TaughtSource:
    """Records whose texts are embedded.

    Attributes:
        path: A file or a folder; see `culet.data.records`.
        task: Task of records that name none; the same as in the stage that learns.
    """

    path: Path
    task: str = "search"

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise RecipeError(f"task must be one of {', '.join(TASKS)}, got {self.task!r}")


@dataclass(frozen=True)
class TeachConfig:
    """Who teaches what.

    Attributes:
        sources: Records to embed the texts of.
        teacher: Folder of a model that culet or sentence-transformers reads.
        endpoint: An OpenAI-compatible endpoint, instead of a folder.
        licence: Licence of the teacher, for the ledger of what learns from it; what its README.md
            says if left out.
        truncate_to: Keep only so many numbers of each vector: the prefix of a Matryoshka teacher.
        shard_texts: Texts in a shard, and what a killed run loses; of an endpoint it loses only the
            requests under way.
        skip_bad_records: Leave bad lines out instead of stopping.
    """

    sources: tuple[TaughtSource, ...]
    teacher: Path | None = None
    endpoint: EmbeddingEndpoint | None = None
    licence: str | None = field(default=None, metadata=LATER)
    truncate_to: int | None = None
    shard_texts: int = 8192
    skip_bad_records: bool = False

    def __post_init__(self) -> None:
        if not self.sources:
            raise RecipeError("at least one source is needed: add a [[<stage>.sources]] table")
        if (self.teacher is None) == (self.endpoint is None):
            raise RecipeError("name a teacher folder or an endpoint, one of them")
        if self.shard_texts < 1 or (self.truncate_to is not None and self.truncate_to < 1):
            raise RecipeError(
                "shard_texts and truncate_to must be at least 1, got "
                f"{self.shard_texts} and {self.truncate_to}"
            )


def run(
    config: TeachConfig,
    *,
    out: Path,
    name: str = "teach",
    device: str = "cpu",
    threads: int | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Embed the texts of the sources and return the folder of the vectors, `out`/vectors.

    What an endpoint has cost is said at the end, and is the `cost` of done.json.

    Raises:
        InputError: At a bad record, if the endpoint fails or the budget is spent (what it answered
            is kept), or a vector has no direction.
        CheckpointError: If the teacher cannot be read.
    """
    teacher = _teacher(config, device, threads)
    files = [file for source in config.sources for file in data_files(source.path)]
    settings = identity(config, run=out.parent)
    if config.endpoint is not None:  # of these only what is asked matters
        settings.pop("endpoint")
    folder = StageFolder(
        out,
        fingerprint=fingerprint.of_settings(
            [settings, fingerprint.of_files(files), teacher.fingerprint]
        ),
        settings={name: to_tables(config)},
    )
    vectors = out / "vectors"
    if folder.announced(name, say):
        return vectors
    store, asked = _texts(config, teacher, folder.state, name=name, say=say)
    client = teacher.client if isinstance(teacher, EndpointTeacher) else None
    if client is not None:
        client.keep_in(folder.state / "answers.sqlite")
    vectors.mkdir(exist_ok=True)
    width = _shards(config, teacher, store, vectors, name=name, say=say)
    manifest = {
        "teacher": teacher.name,
        "width": width,
        "by_role": teacher.by_role,
        "texts": len(store),
        "fingerprint": folder.fingerprint,
        # an endpoint may answer otherwise under the same name
        "content": fingerprint.of_files(sorted(vectors.glob("*.parquet"))),
    }
    write_ledger(vectors / LEDGER, [_entry(config, teacher, len(store))])
    with new_file(vectors / MANIFEST) as aside:
        aside.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    result = {"texts": len(store), "texts_with_repeats": asked, "width": width}
    folder.finish(result | ({} if client is None else {"cost": client.spent()}))
    if client is not None:
        say(f"{name}: {client.cost.summary('texts')}")
    shutil.rmtree(folder.state)
    say(f"{name}: {len(store):,} texts ({asked:,} with repeats), vectors of {width} numbers")
    return vectors


def estimate(config: TeachConfig, context: Context) -> Estimate:
    """Return what embedding would take, where culet reads the teacher itself."""
    shape = context.shape(config.teacher)
    rows = context.rows(source.path for source in config.sources)
    width = config.truncate_to or getattr(shape, "embedding_dim", None)
    if width is None and config.teacher is not None:
        width = foreign_width(config.teacher)
    disk = None
    if rows is not None and width is not None:
        texts = rows.total(lambda row: len(row.own))
        kept = texts * (2 * width + _AROUND_A_VECTOR)
        store = rows.total(lambda row: row.escaped) + texts * _AROUND_A_TEXT
        disk = Disk(store + kept, kept)
    return replace(embedding_estimate(rows, shape, None, context.machine), disk=disk)


def foreign_width(folder: Path) -> int | None:
    """Return the width of a sentence-transformers folder that culet itself does not read."""
    width = None
    for name in [".", *(path.name for path in sorted(folder.glob("[0-9]_*")))]:
        try:
            found = json.loads((folder / name / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(found, dict):
            width = found.get("out_features", found.get("hidden_size", width))
    return width if isinstance(width, int) else None


def _teacher(config: TeachConfig, device: str, threads: int | None) -> Teacher:
    if config.endpoint is not None:
        return EndpointTeacher(config.endpoint)
    assert config.teacher is not None  # __post_init__
    return folder_teacher(config.teacher, device=device, threads=threads)


def _entry(config: TeachConfig, teacher: Teacher, texts: int) -> LedgerEntry:
    """Return what the ledger of a student says of the teacher."""
    stated = None if config.teacher is None else card_licence(config.teacher)
    place = Path(teacher.name)
    generic = place.name in ("checkpoint", "model")  # of folders that many models are in
    return LedgerEntry(
        f"vectors of {place.parent.name if generic else place.name}",
        licence=config.licence or stated or UNSTATED,
        origin="distillation",
        rows_read=texts,
        rows_kept=texts,
        fingerprint=teacher.fingerprint,
    )


def _texts(
    config: TeachConfig, teacher: Teacher, state: Path, *, name: str, say: Callable[[str], None]
) -> tuple[TextStore, int]:
    """Return the distinct texts in order of first occurrence, and how many there are with repeats.

    Like `culet.data.mining.pair_index`, in two passes: hashes, then texts.
    """
    prompts = _prompts(teacher)
    keys = array("Q")
    skipped: list[str] = []
    for text in _spoken(config, prompts, skipped):
        keys.append(int(text.key(by_role=teacher.by_role)[:16], 16))
    if skipped:
        say(f"{name}: skipped {len(skipped)} bad records, the first: {skipped[0]}")
    if not keys:
        raise InputError(f"no usable record in {[str(source.path) for source in config.sources]}")
    if not (state / "texts").exists():
        _, first = numbered(np.frombuffer(keys, dtype=np.uint64))
        rows = ([text.task, text.title, text.text] for text in _spoken(config, prompts))
        write_store(state / "texts", compress(rows, first))
    return TextStore(state / "texts"), len(keys)


def _prompts(teacher: Teacher) -> Prompts | None:
    """Return the prompts that decide which tasks a teacher knows; None if it takes any.

    A teacher that is not culet's has at most one prompt for all queries: what the student makes of
    a task is for the student's stage to say.
    """
    return teacher.prompts if isinstance(teacher, EmbedderTeacher) else None


def _spoken(
    config: TeachConfig, prompts: Prompts | None, skipped: list[str] | None = None
) -> Iterator[Spoken]:
    for source in config.sources:

        def check(record: Record, task: str = source.task) -> None:
            if prompts is not None:  # a title without a place goes in front of its text
                record_prompts(replace(record, title=None), prompts=prompts, task=task)

        for record, _ in stream_records(
            [source.path], skip_bad=config.skip_bad_records, check=check, skipped=skipped
        ):
            query, positive, negatives = spoken(record, source.task)
            yield query
            yield positive
            yield from negatives


def _shards(
    config: TeachConfig,
    teacher: Teacher,
    store: TextStore,
    folder: Path,
    *,
    name: str,
    say: Callable[[str], None],
) -> int:
    """Write the shards that are not there yet; return the width of their vectors."""
    size, notes = config.shard_texts, 0
    present = [folder / f"{i:05d}.parquet" for i in range(-(-len(store) // size))]
    done = sum(size for path in present if path.exists())
    client = teacher.client if isinstance(teacher, EndpointTeacher) else None
    with Progress(name, total=len(store), unit="texts", done=min(done, len(store))) as bar:

        def advance(number: int) -> None:
            paid = {"paid": client.cost.paid} if client and client.config.input_price else {}
            bar.advance(number, **paid)

        for number, path in enumerate(present):
            if path.exists():
                continue
            part = [Spoken(*row) for row in store[number * size : (number + 1) * size]]
            with warnings.catch_warnings(record=True) as heard:
                warnings.simplefilter("always")
                vectors = teacher.embed(part, advance)
            if heard and not notes:
                say(f"{name}: {heard[0].message}")
            notes += len(heard)
            if config.truncate_to is not None:
                if vectors.shape[1] < config.truncate_to:
                    raise InputError(
                        f"truncate_to is {config.truncate_to}, but {teacher.name} gives vectors "
                        f"of {vectors.shape[1]} numbers"
                    )
                vectors = vectors[:, : config.truncate_to]
            write_shard(path, [text.key(by_role=teacher.by_role) for text in part], vectors)
            if client is not None:
                client.forget()
    import pyarrow.parquet as pq

    widths = {_width(pq.read_schema(path)) for path in present}
    if len(widths) != 1:
        raise InputError(
            f"{folder} holds vectors of widths {sorted(widths)}; was the model changed?"
        )
    return widths.pop()


def _width(schema: Any) -> int:
    return int(schema.field("vector").type.list_size)
