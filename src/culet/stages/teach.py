"""Stage teach: the vectors of a teacher for every text of some sources, made once.

EmbeddingGemma (arXiv 2509.20354, section 2.2) matches the teacher's embeddings of queries,
positives and hard negatives. Here each distinct text is embedded once for any number of epochs,
mixtures and students; a source then names this stage's vectors as its `teacher`.

vectors/   shards of float16 vectors by text; see `culet.data.teacher_vectors`
state/     the texts, and answers of an endpoint that are in no shard yet; gone at the end
"""

from __future__ import annotations

import json
import shutil
import warnings
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from culet.data.batches.collate import record_prompts
from culet.data.endpoints.embeddings import EmbeddingEndpoint
from culet.data.ledger import LEDGER, UNSTATED, LedgerEntry, card_licence, write_ledger
from culet.data.records import Record, stream_records
from culet.data.roles import RoleText, role_texts
from culet.data.teacher_vectors import MANIFEST, write_shard
from culet.errors import InputError, RecipeError
from culet.files import fingerprint
from culet.files.atomic import write_json
from culet.files.settings import LATER
from culet.files.stores import TextStore, write_store
from culet.stages.contract import Contract, Inputs, Job, check_sources, of_records
from culet.stages.estimate import Context, Disk, Estimate
from culet.stages.folder import StageFolder
from culet.stages.speed import embedding_estimate
from culet.stages.teachers import (
    EndpointTeacher,
    Teacher,
    endpoint_fingerprint,
    folder_fingerprint,
    folder_teacher,
)
from culet.terminal.progress import Progress
from culet.text.keys import numbered
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
    """A teacher, and the records whose texts it embeds.

    Attributes:
        sources: The records.
        teacher: Folder of a model that culet or sentence-transformers reads.
        endpoint: An OpenAI-compatible endpoint, instead of a folder.
        licence: Licence of the teacher, for the ledgers of its students; read from its README.md
            if left out.
        truncate_to: Length of the prefix to keep of each vector of a Matryoshka teacher.
        shard_texts: Texts in a shard, which is what a killed run loses; with an endpoint it loses
            only the requests under way.
        skip_bad_records: Skip bad lines instead of stopping.
    """

    sources: tuple[TaughtSource, ...]
    teacher: Path | None = None
    endpoint: EmbeddingEndpoint | None = None
    licence: str | None = field(default=None, metadata=LATER)
    truncate_to: int | None = None
    shard_texts: int = 8192
    skip_bad_records: bool = False

    def __post_init__(self) -> None:
        check_sources(self.sources)
        if (self.teacher is None) == (self.endpoint is None):
            raise RecipeError("name a teacher folder or an endpoint, one of them")
        if self.shard_texts < 1 or (self.truncate_to is not None and self.truncate_to < 1):
            raise RecipeError(
                "shard_texts and truncate_to must be at least 1, got "
                f"{self.shard_texts} and {self.truncate_to}"
            )


def run(config: TeachConfig, folder: StageFolder, job: Job) -> None:
    """Embed the texts of the sources and leave the vectors in vectors/.

    The cost of an endpoint is reported at the end, and is the `cost` of done.json.

    Raises:
        InputError: At a bad record, if the endpoint fails or the budget is spent (what it answered
            is kept), or a vector has no direction.
        CheckpointError: If the teacher cannot be read.
    """
    name, say, out = job.name, job.say, folder.path
    teacher = _teacher(config, job)
    vectors = out / "vectors"
    store, asked = _texts(config, teacher, folder.state, name=name, say=say)
    if teacher.client is not None:
        teacher.client.keep_in(folder.state / "answers.sqlite")
    vectors.mkdir(exist_ok=True)
    width = _write_shards(config, teacher, store, vectors, name=name, say=say)
    write_ledger(vectors / LEDGER, [_ledger_entry(config, teacher, len(store))])
    _write_manifest(vectors, teacher, width=width, texts=len(store), run=folder.fingerprint)
    result: dict[str, Any] = {"texts": len(store), "texts_with_repeats": asked, "width": width}
    if teacher.client is not None:
        result["cost"] = teacher.client.spent()
        say(f"{name}: {teacher.client.cost.summary('texts')}")
    folder.finish(result)
    shutil.rmtree(folder.state)
    say(f"{name}: {len(store):,} texts ({asked:,} with repeats), vectors of {width} numbers")


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


def _teacher(config: TeachConfig, job: Job) -> Teacher:
    if config.endpoint is not None:
        return EndpointTeacher(config.endpoint)
    assert config.teacher is not None  # __post_init__
    return folder_teacher(config.teacher, device=job.device, threads=job.threads)


def _write_manifest(folder: Path, teacher: Teacher, *, width: int, texts: int, run: str) -> None:
    manifest = {
        "teacher": teacher.name,
        "width": width,
        "by_role": teacher.by_role,
        "texts": texts,
        "fingerprint": run,
        # an endpoint may answer otherwise under the same name
        "content": fingerprint.of_files(sorted(folder.glob("*.parquet"))),
    }
    write_json(folder / MANIFEST, manifest)


def _ledger_entry(config: TeachConfig, teacher: Teacher, texts: int) -> LedgerEntry:
    """Return the entry of the teacher in the ledger of a student."""
    stated = None if config.teacher is None else card_licence(config.teacher)
    place = Path(teacher.name)
    generic = place.name in ("checkpoint", "model")  # the folder above says which one
    model = place.parent.name if generic else place.name
    return LedgerEntry(
        f"vectors of {model if config.endpoint is None else config.endpoint.model}",
        licence=config.licence or stated or UNSTATED,
        origin="distillation",
        rows_read=texts,
        rows_kept=texts,
        fingerprint=teacher.fingerprint,
    )


def _texts(
    config: TeachConfig, teacher: Teacher, state: Path, *, name: str, say: Callable[[str], None]
) -> tuple[TextStore, int]:
    """Return the distinct texts in order of first occurrence, and their number with repeats.

    Like `culet.data.mining.pair_index`, in two passes: hashes, then texts.
    """
    keys = array("Q")
    skipped: list[str] = []
    for text in _role_texts(config, teacher.prompts, skipped):
        keys.append(int(text.key(by_role=teacher.by_role)[:16], 16))
    if skipped:
        say(f"{name}: skipped {len(skipped)} bad records, the first: {skipped[0]}")
    if not keys:
        raise InputError(f"no usable record in {[str(source.path) for source in config.sources]}")
    if not (state / "texts").exists():
        _, first = numbered(np.frombuffer(keys, dtype=np.uint64))
        rows = ([text.task, text.title, text.text] for text in _role_texts(config, teacher.prompts))
        write_store(state / "texts", compress(rows, first))
    return TextStore(state / "texts"), len(keys)


def _role_texts(
    config: TeachConfig, prompts: Prompts | None, skipped: list[str] | None = None
) -> Iterator[RoleText]:
    """Yield the texts of all records; one whose task the prompts do not know is a bad record."""
    for source in config.sources:

        def check(record: Record, task: str = source.task) -> None:
            if prompts is not None:  # without a place for it, a title goes in front of the text
                record_prompts(
                    replace(record, title=None, negative_titles=()), prompts=prompts, task=task
                )

        for record, _ in stream_records(
            [source.path], skip_bad=config.skip_bad_records, check=check, skipped=skipped
        ):
            query, positive, negatives = role_texts(record, source.task)
            yield query
            yield positive
            yield from negatives


def _write_shards(
    config: TeachConfig,
    teacher: Teacher,
    store: TextStore,
    folder: Path,
    *,
    name: str,
    say: Callable[[str], None],
) -> int:
    """Write the shards that are not there yet; return the width of their vectors."""
    size, client = config.shard_texts, teacher.client
    shards = [folder / f"{i:05d}.parquet" for i in range(-(-len(store) // size))]
    done = sum(size for path in shards if path.exists())
    warned = False
    with Progress(name, total=len(store), unit="texts", done=min(done, len(store))) as bar:

        def advance(number: int) -> None:
            paid = {"paid": client.cost.paid} if client and client.config.input_price else {}
            bar.advance(number, **paid)

        for number, path in enumerate(shards):
            if path.exists():
                continue
            part = [RoleText(*row) for row in store[number * size : (number + 1) * size]]
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                vectors = _prefixes(teacher.embed(part, advance), config.truncate_to, teacher)
            if caught and not warned:
                say(f"{name}: {caught[0].message}")
                warned = True
            write_shard(path, [text.key(by_role=teacher.by_role) for text in part], vectors)
            if client is not None:
                client.forget()
    return _common_width(shards)


def _prefixes(vectors: np.ndarray, length: int | None, teacher: Teacher) -> np.ndarray:
    if length is not None and vectors.shape[1] < length:
        raise InputError(
            f"truncate_to is {length}, but {teacher.name} gives vectors of {vectors.shape[1]} "
            "numbers"
        )
    return vectors[:, :length]


def _common_width(shards: Sequence[Path]) -> int:
    import pyarrow.parquet as pq

    widths = {int(pq.read_schema(path).field("vector").type.list_size) for path in shards}
    if len(widths) != 1:
        raise InputError(
            f"{shards[0].parent} holds vectors of widths {sorted(widths)}; was the model changed?"
        )
    return widths.pop()


def reads(config: TeachConfig, inputs: Inputs) -> list[str]:
    """Return the content of the records, and what is asked of which teacher."""
    records = of_records(inputs, *(source.path for source in config.sources))
    if config.endpoint is not None:
        return [records, endpoint_fingerprint(config.endpoint)]
    assert config.teacher is not None  # __post_init__
    return [records, folder_fingerprint(config.teacher)]


STAGE = Contract(
    config=TeachConfig,
    gives={"vectors": "vectors"},
    run=run,
    reads=reads,
    estimate=estimate,
    unimportant=("endpoint",),
)
