"""Texts → a file of vectors, in bounded memory: the work of `culet embed`.

Vectors are written batch by batch as .npy, JSONL or Parquet. The file grows as NAME.part and gets
its name only when it is whole; NAME.part.json beside it says of which texts and which model the
rows are. If the work stops early, both stay. The next run with that name then refuses to begin,
unless it is told to go on after the rows that are there, or to overwrite them.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from culet.architecture.embedding_config import check_width
from culet.errors import InputError, need
from culet.files.atomic import take
from culet.files.rows import TextRow
from culet.files.vectors import (
    JsonFile,
    NpyFile,
    ParquetFile,
    VectorFile,
    count_rows,
)
from culet.terminal.progress import Progress
from culet.text.inputs import windows

if TYPE_CHECKING:
    from types import TracebackType

    from culet.embedder import Embedder, Prepared

WRITABLE = (".npy", ".jsonl", ".parquet")
BATCH_TEXTS = 512  # enough to sort by length, few enough for the bar to move on a slow machine


def embed_rows(
    embedder: Embedder,
    rows: Iterable[TextRow],
    write: Callable[[list[TextRow], np.ndarray], None],
    *,
    side: Literal["query", "document"] = "document",
    task: str = "search",
    truncate_to: int | None = None,
    on_long: Literal["truncate", "error"] = "truncate",
    first: int = 0,
    total: int | None = None,
    progress: bool | None = None,
) -> int:
    """Embed rows in their order, hand each batch to `write`, and return how many there were.

    Rows are taken on the caller's thread; another one tokenizes a batch ahead.

    Args:
        embedder: The model.
        rows: From `read_texts`.
        write: `EmbeddingWriter.write`, or anything that takes rows and vectors [B, E].
        side: "document" puts titles to use; "query" takes `task`.
        task: The task of queries.
        truncate_to: A trained width.
        on_long: What happens to a text longer than the model reads.
        first: The number of the first row, where earlier ones are done already.
        total: How many rows there are with these, if that is known.
        progress: True shows it, False never, None when it lasts.

    Raises:
        InputError: Before the first row: an unknown task, an untrained width. Later: a text that
            cannot be embedded; the message says in which rows.
    """
    check_settings(embedder, side=side, task=task, truncate_to=truncate_to)

    def prepare(batch: list[TextRow], number: int) -> tuple[list[TextRow], Prepared]:
        texts = [row.text for row in batch]
        if side == "query":
            return batch, embedder.prepare_query(texts, task=task, on_long=on_long, first=number)
        titles = [row.title for row in batch]
        return batch, embedder.prepare_document(texts, titles=titles, on_long=on_long, first=number)

    done = 0
    with (
        Progress("embedding", total=total, unit="texts", done=first, show=progress) as bar,
        closing(windows(rows, prepare, BATCH_TEXTS, first=first)) as ahead,
    ):
        for batch, tokens in ahead:
            if tokens.note:
                _report(bar, tokens.note, progress)
            write(batch, embedder.embed(tokens, truncate_to=truncate_to, bar=bar))
            done += len(batch)
    return done


def check_settings(embedder: Embedder, *, side: str, task: str, truncate_to: int | None) -> None:
    """Raise InputError for a task or a width that the model has not."""
    if side == "query":
        embedder.prompts.query(task)
    if truncate_to is not None:
        check_width(truncate_to, embedder.widths)


def _report(bar: Progress, text: str, progress: bool | None) -> None:
    if progress is False:
        warnings.warn(text, UserWarning, stacklevel=3)
    else:
        bar.note(f"warning: {text}")


class EmbeddingWriter:
    """Writes a file of vectors aside, and gives it its name when all of it is there.

    Used as a context manager after `begin`. Nothing is opened before the first batch, so a run
    that fails until then leaves what it found.

    Args:
        path: The file: .npy, .jsonl or .parquet.
        resume: Go on after the rows of an interrupted run; where there are none, begin.
        overwrite: Begin anew, whatever an interrupted run has left.

    Attributes:
        path: As given.
        part: The file while it grows.
        num_rows: Whole rows in it.
        kept: After an error, `part` if there is something in it.

    Raises:
        InputError: Another ending, a missing folder, a folder of that name; rows of an interrupted
            run and neither `resume` nor `overwrite`; another run that is at it; `resume` of
            a .parquet.
        MissingExtra: .parquet without pyarrow.
    """

    def __init__(self, path: str | Path, *, resume: bool = False, overwrite: bool = False) -> None:
        self.path = Path(path)
        self.kept: Path | None = None
        self.num_rows = 0
        kind = self.path.suffix.lower()
        makers: dict[str, Callable[..., VectorFile]] = {
            ".npy": NpyFile, ".jsonl": JsonFile, ".parquet": ParquetFile,
        }  # fmt: skip
        if kind not in makers:
            raise InputError(
                f"cannot write {self.path}: expected a name that ends in {', '.join(WRITABLE)}"
            )
        if not self.path.parent.is_dir():
            raise InputError(f"cannot write {self.path}: the folder {self.path.parent} is missing")
        if self.path.is_dir():
            raise InputError(f"cannot write {self.path}: a folder of that name is there")
        if kind == ".parquet":
            need("pyarrow", extra="parquet", purpose="writing Parquet")
        if resume and kind == ".parquet":
            raise InputError(
                f"cannot go on with {self.path}: rows cannot be added to a Parquet file; "
                "--resume takes .npy and .jsonl"
            )
        if resume and overwrite:
            raise InputError("--resume goes on and --overwrite begins anew; give one of them")
        self._make = makers[kind]
        self.part = self.path.with_name(self.path.name + ".part")
        self._record_path = self.path.with_name(self.path.name + ".part.json")
        self._overwrite = overwrite
        self._resume = resume and self.part.exists()
        self._raw: io.FileIO | None = None
        self._file: VectorFile | None = None
        self._hash = hashlib.sha256()
        self._record: dict[str, Any] = {}
        self._check_part(resume or overwrite)

    def begin(
        self, width: int, settings: Mapping[str, str | int | None] | None = None
    ) -> EmbeddingWriter:
        """Say what is written; return this writer.

        Args:
            width: Numbers of a vector.
            settings: What else the vectors depend on, by its name for a person. With `resume`, all
                of it must be what it was.

        Raises:
            InputError: With `resume`: something is another than it was, or cannot be told.
        """
        self._record = {**(settings or {}), "width": width}
        if self._resume:
            self._take_up()
        return self

    def rest(self, rows: Iterable[TextRow]) -> Iterator[TextRow]:
        """Return the rows after those that the file holds.

        Raises:
            InputError: If those are not the texts the file was begun with.
        """
        rows = iter(rows)
        if not self.num_rows:
            return rows
        self._add_to_hash(islice(rows, self.num_rows))
        if self._hash.hexdigest() != self._record["texts"]:
            raise InputError(
                f"{self.part} cannot be gone on with: its {self.num_rows:,} rows are not of the "
                f"first {self.num_rows:,} texts of this input; begin anew with --overwrite"
            )
        return rows

    def write(self, rows: list[TextRow], embedding: np.ndarray) -> None:
        """Append the vectors [B, M] of these rows.

        Raises:
            InputError: If it cannot be written; `num_rows` are whole in the file.
        """
        with _named(self.part):
            file = self._opened()
            file.write(rows, embedding)
            self.num_rows = file.num_rows
            self._add_to_hash(rows)
            self._write_record()

    @property
    def can_resume(self) -> bool:
        """Whether a later run can go on after the rows that are kept."""
        return self.kept is not None and self._make is not ParquetFile

    def __enter__(self) -> EmbeddingWriter:
        assert self._record, "begin() comes first"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
            else:
                self._keep()
        finally:
            if self._raw is not None:
                self._raw.close()  # and with it goes the lock

    def _finish(self) -> None:
        with _named(self.part):
            file = self._opened()
            file.close()
            assert self._raw is not None
            os.fsync(self._raw.fileno())
            if os.name == "nt":  # an open file cannot be renamed there
                self._raw.close()
        with _named(self.path):
            self.part.replace(self.path)
        self._record_path.unlink(missing_ok=True)

    def _keep(self) -> None:
        """Leave what was done, if anything was."""
        if self._file is not None:
            self.num_rows = self._file.num_rows
            with suppress(OSError, ValueError):  # ArrowInvalid is a ValueError
                self._file.close()
            if isinstance(self._file, ParquetFile):  # without its end it is nothing
                self.num_rows = count_rows(self.part) or 0
        if self.num_rows:
            self.kept = self.part
        elif self._file is not None:
            self.part.unlink(missing_ok=True)
            self._record_path.unlink(missing_ok=True)

    def _opened(self) -> VectorFile:
        """Return the file, opened and locked when first asked for."""
        if self._file is None:
            there = self.part.exists()
            if there and not (self._resume or self._overwrite):
                self._check_part(False)
            self._raw = io.FileIO(self.part, "r+" if there else "x+")
            _lock(self._raw, self.part)
            self._write_record()
            self._file = self._make(self._raw, self._record["width"], keep=self.num_rows)
        return self._file

    def _check_part(self, wanted: bool) -> None:
        """Raise InputError if rows of an interrupted run are in the way, or another run is."""
        if not self.part.exists():
            return
        with _named(self.part), io.FileIO(self.part, "r+") as file:
            _lock(file, self.part)
        if not wanted:
            rows = count_rows(self.part)
            what = "what cannot be read" if rows is None else f"{rows:,} rows"
            resume = "" if self._make is ParquetFile else "go on after them with --resume, "
            raise InputError(
                f"{self.part} holds {what} of an interrupted run; {resume}begin anew with "
                "--overwrite, or move it away"
            )

    def _take_up(self) -> None:
        """Compare what the interrupted run has noted with what is wanted now."""
        begin_anew = "begin anew with --overwrite"
        try:
            record = json.loads(self._record_path.read_text(encoding="utf-8"))
            noted_rows = int(record["rows"])
        except (OSError, ValueError, TypeError, KeyError):
            raise InputError(
                f"{self.part} cannot be gone on with: {self._record_path.name}, which says what "
                f"it holds, is missing or damaged; {begin_anew}"
            ) from None
        for name, value in self._record.items():
            if record.get(name) != value:
                raise InputError(
                    f"{self.part} cannot be gone on with: its {name} is {record.get(name)!r}, and "
                    f"that of this run is {value!r}; give the same, or {begin_anew}"
                )
        held = count_rows(self.part) if noted_rows else 0
        if held is None or held < noted_rows:
            raise InputError(
                f"{self.part} cannot be gone on with: it is damaged, with "
                f"{held or 0:,} whole rows of {noted_rows:,}; {begin_anew}"
            )
        self._record["texts"] = record.get("texts")
        self.num_rows = noted_rows  # a batch more may be there, of which nothing was noted

    def _add_to_hash(self, rows: Iterable[TextRow]) -> None:
        for row in rows:
            self._hash.update(
                repr((row.id, row.title, row.text)).encode("utf-8", "backslashreplace")
            )

    def _write_record(self) -> None:
        """Note how far it is; a kill at any moment leaves this record or the one before."""
        self._record |= {"rows": self.num_rows, "texts": self._hash.hexdigest()}
        aside = self._record_path.with_name(f".{self._record_path.name}.{os.getpid()}")
        try:
            aside.write_text(json.dumps(self._record, indent=1), encoding="utf-8")
            aside.replace(self._record_path)
        finally:
            aside.unlink(missing_ok=True)


def _lock(file: io.FileIO, path: Path) -> None:
    """Take the file for this run alone, as long as it is open."""
    if not take(file.fileno(), path):
        raise _taken(path)


def _taken(path: Path) -> InputError:
    return InputError(
        f"{path} is being written by another run; wait until it ends, or give another name"
    )


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise _taken(path) from None
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
