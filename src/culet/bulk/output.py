"""A file of vectors that appears when it is whole, and that a later run can complete.

Vectors are written batch by batch as .npy, JSONL or Parquet. The file grows as NAME.part and gets
its name once it is whole; NAME.part.json beside it records which texts and which model the rows
come from. If the work stops early, both stay. The next run with that name then refuses to begin
unless it is asked to resume after those rows or to overwrite them.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from culet.errors import InputError, need
from culet.files.atomic import take
from culet.files.texts import TextRow
from culet.files.vectors import (
    JsonFile,
    NpyFile,
    ParquetFile,
    VectorFile,
    count_rows,
)

if TYPE_CHECKING:
    from types import TracebackType

WRITABLE = (".npy", ".jsonl", ".parquet")


class EmbeddingWriter:
    """Writes vectors to NAME.part, and renames it once all of them are there.

    Used as a context manager after `begin`. Nothing is opened before the first batch, so a run
    that fails before that leaves everything as it was.

    Args:
        path: The file: .npy, .jsonl or .parquet.
        resume: Go on after the rows of an interrupted run; where there are none, begin.
        overwrite: Start over, whatever an interrupted run has left.

    Attributes:
        path: The file.
        resume: As given.
        part: The file while it grows.
        num_rows: Whole rows in it.
        kept: After an error, `part` if there is something in it.

    Raises:
        InputError: Another suffix, a missing folder, a folder of that name; rows of an interrupted
            run and neither `resume` nor `overwrite`; another run that is writing it; `resume` of
            a .parquet.
        MissingExtra: .parquet without pyarrow.
    """

    def __init__(self, path: str | Path, *, resume: bool = False, overwrite: bool = False) -> None:
        self.path, self.resume = Path(path), resume
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
                f"cannot resume {self.path}: rows cannot be added to a Parquet file; "
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
        """Record what is written; return this writer.

        Args:
            width: Numbers in a vector.
            settings: What else the vectors depend on, under names for a person. With `resume`, all
                of it must be as it was.

        Raises:
            InputError: With `resume`: something differs, or the record is missing or damaged.
        """
        self._record = {**(settings or {}), "width": width}
        if self._resume:
            self._check_record()
        return self

    def rest(self, rows: Iterable[TextRow]) -> Iterator[TextRow]:
        """Return the rows after those that the file holds.

        Raises:
            InputError: If those are not the first texts of the file.
        """
        rows = iter(rows)
        if not self.num_rows:
            return rows
        self._add_to_hash(islice(rows, self.num_rows))
        if self._hash.hexdigest() != self._record["texts"]:
            count = f"{self.num_rows:,}"
            raise self._mismatch(
                f"its {count} rows do not belong to the first {count} texts of this input;"
            )
        return rows

    def write(self, rows: list[TextRow], embedding: np.ndarray) -> None:
        """Append the vectors [B, M] of these rows.

        Raises:
            InputError: If it cannot be written; the first `num_rows` stay whole.
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
                self._raw.close()  # which also releases the lock

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
            if isinstance(self._file, ParquetFile):  # unreadable without its end
                self.num_rows = count_rows(self.part) or 0
        if self.num_rows:
            self.kept = self.part
        elif self._file is not None:
            self.part.unlink(missing_ok=True)
            self._record_path.unlink(missing_ok=True)

    def _opened(self) -> VectorFile:
        """Return the file, opened and locked on first use."""
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
        """Raise InputError if rows of an interrupted run, or another run, are in the way."""
        if not self.part.exists():
            return
        with _named(self.part), io.FileIO(self.part, "r+") as file:
            _lock(file, self.part)
        if not wanted:
            rows = count_rows(self.part)
            what = "unreadable rows" if rows is None else f"{rows:,} rows"
            resume = "" if self._make is ParquetFile else "go on after them with --resume, "
            raise InputError(
                f"{self.part} holds {what} of an interrupted run; {resume}begin anew with "
                "--overwrite, or move it away"
            )

    def _check_record(self) -> None:
        """Compare the record of the interrupted run with what is wanted now."""
        try:
            record = json.loads(self._record_path.read_text(encoding="utf-8"))
            recorded = int(record["rows"])
        except (OSError, ValueError, TypeError, KeyError):
            name = self._record_path.name
            raise self._mismatch(
                f"{name}, the record of what it holds, is missing or damaged;"
            ) from None
        for name, value in self._record.items():
            if record.get(name) != value:
                raise self._mismatch(
                    f"its {name} is {record.get(name)!r}, and that of this run is {value!r}; "
                    "use the same, or"
                )
        held = count_rows(self.part) if recorded else 0
        if held is None or held < recorded:
            raise self._mismatch(f"it is damaged, with {held or 0:,} whole rows of {recorded:,};")
        self._record["texts"] = record.get("texts")
        self.num_rows = recorded  # one more batch may be there, not yet recorded

    def _mismatch(self, why: str) -> InputError:
        return InputError(f"{self.part} cannot be resumed: {why} begin anew with --overwrite")

    def _add_to_hash(self, rows: Iterable[TextRow]) -> None:
        for row in rows:
            self._hash.update(
                repr((row.id, row.title, row.text)).encode("utf-8", "backslashreplace")
            )

    def _write_record(self) -> None:
        """Record the rows so far; a kill at any moment leaves this record or the one before."""
        self._record |= {"rows": self.num_rows, "texts": self._hash.hexdigest()}
        aside = self._record_path.with_name(f".{self._record_path.name}.{os.getpid()}")
        try:
            aside.write_text(json.dumps(self._record, indent=1), encoding="utf-8")
            aside.replace(self._record_path)
        finally:
            aside.unlink(missing_ok=True)


def _lock(file: io.FileIO, path: Path) -> None:
    """Lock the file for this run, as long as it is open."""
    if not take(file.fileno(), path):
        raise _in_use(path)


def _in_use(path: Path) -> InputError:
    return InputError(
        f"{path} is being written by another run; wait until it ends, or give another name"
    )


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise _in_use(path) from None
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
