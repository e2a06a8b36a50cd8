"""Texts → a file of vectors, in bounded memory: the work of `culet embed`.

Vectors are written batch by batch as .npy, JSONL or Parquet. The file grows as NAME.part and gets
its name only when it is whole. If the work stops early, NAME.part stays, is valid by itself, and
holds the rows that were done.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from culet.ahead import Ahead
from culet.errors import InputError, MissingExtra
from culet.progress import Progress
from culet.textio import TextRow, batched

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
    total: int | None = None,
    progress: bool | None = None,
) -> int:
    """Embed rows in their order, hand each batch to `write`, and return how many there were.

    Args:
        embedder: The model.
        rows: From `read_texts`.
        write: `EmbeddingWriter.write`, or anything that takes rows and vectors [B, E].
        side: "document" puts titles to use; "query" takes `task`.
        task: The task of queries.
        truncate_to: A trained width.
        on_long: What happens to a text longer than the model reads.
        total: How many rows there are, if that is known.
        progress: True shows it, False never, None when it lasts.

    Raises:
        InputError: A text cannot be embedded; the message says in which rows.
    """

    def prepared() -> Iterator[tuple[list[TextRow], Prepared]]:
        first = 0
        for batch in batched(rows, BATCH_TEXTS):
            texts = [row.text for row in batch]
            if side == "query":
                yield batch, embedder.prepare_query(texts, task=task, on_long=on_long, first=first)
            else:
                titles = [row.title for row in batch]
                yield (
                    batch,
                    embedder.prepare_document(texts, titles=titles, on_long=on_long, first=first),
                )
            first += len(batch)

    done = 0
    with (
        Progress("embedding", total=total, unit="texts", show=progress) as bar,
        Ahead(prepared(), depth=2) as ahead,
    ):
        for batch, tokens in ahead:
            if tokens.note:
                _report(bar, tokens.note, progress)
            write(batch, embedder.embed(tokens, truncate_to=truncate_to, bar=bar))
            done += len(batch)
    return done


def _report(bar: Progress, text: str, progress: bool | None) -> None:
    if progress is False:
        warnings.warn(text, UserWarning, stacklevel=3)
    else:
        bar.note(f"warning: {text}")


class EmbeddingFile(Protocol):
    """A file of vectors that grows batch by batch."""

    num_rows: int

    def write(self, rows: list[TextRow], embedding: np.ndarray) -> None:
        """Append the vectors [B, E] of these rows."""

    def close(self) -> None:
        """Make the file valid as it stands."""


class EmbeddingWriter:
    """Writes a file of vectors aside, and gives it its name when all of it is there.

    Used as a context manager. After an error, `kept` is the partial file and `num_rows` says how
    many rows it holds.

    Raises:
        InputError: The name does not end in .npy, .jsonl or .parquet, or its folder is missing.
        MissingExtra: .parquet without pyarrow.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.kept: Path | None = None
        kind = self.path.suffix.lower()
        makers: dict[str, Callable[[Path], EmbeddingFile]] = {
            ".npy": _NpyFile, ".jsonl": _JsonFile, ".parquet": _ParquetFile,
        }  # fmt: skip
        if kind not in makers:
            raise InputError(
                f"cannot write {self.path}: expected a name that ends in {', '.join(WRITABLE)}"
            )
        if not self.path.parent.is_dir():
            raise InputError(f"cannot write {self.path}: the folder {self.path.parent} is missing")
        if kind == ".parquet":
            _require_pyarrow()
        self._make = makers[kind]
        self._part = self.path.with_name(self.path.name + ".part")

    @property
    def num_rows(self) -> int:
        """How many rows were written."""
        return self._file.num_rows

    def write(self, rows: list[TextRow], embedding: np.ndarray) -> None:
        """Append the vectors [B, E] of these rows."""
        with _named(self._part):
            self._file.write(rows, embedding)

    def __enter__(self) -> EmbeddingWriter:
        with _named(self._part):
            self._file = self._make(self._part)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with _named(self._part):
            self._file.close()
        if kind is None:
            with _named(self.path):
                self._part.replace(self.path)
        elif self._file.num_rows:
            self.kept = self._part
        else:
            self._part.unlink(missing_ok=True)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


class _NpyFile:
    """An array whose header is written again when its number of rows is known."""

    def __init__(self, path: Path) -> None:
        self.num_rows = 0
        self._dim: int | None = None
        self._file = path.open("wb")

    def write(self, rows: list[TextRow], embedding: np.ndarray) -> None:
        if self._dim is None:
            self._dim = embedding.shape[1]
            self._write_header()
        self._file.write(np.ascontiguousarray(embedding, dtype="<f4").tobytes())
        self.num_rows += len(embedding)

    def close(self) -> None:
        # A write that broke off midway may have left part of a row; it is cut off here.
        if self._dim is not None:
            self._file.truncate(self._header_bytes + 4 * self._dim * self.num_rows)
            self._file.seek(0)
        self._write_header()
        self._file.close()

    def _write_header(self) -> None:
        # Room for twenty digits: the header keeps its length whatever the number of rows.
        shape = f"({self.num_rows}, {self._dim or 0})"
        head = "{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + ", }"
        head += " " * (20 - len(str(self.num_rows)))
        length = -(-(10 + len(head) + 1) // 64) * 64
        self._header_bytes = length
        head = head.ljust(length - 11) + "\n"
        self._file.write(b"\x93NUMPY\x01\x00" + (length - 10).to_bytes(2, "little") + head.encode())


class _JsonFile:
    """One object a line, numbers with the nine digits that give the same float32 back."""

    def __init__(self, path: Path) -> None:
        self.num_rows = 0
        self._file = path.open("w", encoding="utf-8", newline="\n")

    def write(self, rows: list[TextRow], embedding: np.ndarray) -> None:
        for line in json_lines(rows, embedding):
            self._file.write(line)
            self.num_rows += 1

    def close(self) -> None:
        self._file.close()


def json_lines(rows: list[TextRow], embedding: np.ndarray) -> Iterator[str]:
    """Yield one line of JSON for each text and its vector."""
    for row, vector in zip(rows, embedding, strict=True):
        fields = {"id": row.id, "title": row.title, "text": row.text}
        known = {name: value for name, value in fields.items() if value is not None}
        numbers = ",".join(f"{value:.9g}" for value in vector.tolist())
        yield f'{json.dumps(known, ensure_ascii=False)[:-1]}, "embedding": [{numbers}]}}\n'


class _ParquetFile:
    """Columns id, title, text and embedding (a list of fixed size)."""

    def __init__(self, path: Path) -> None:
        self.num_rows = 0
        self._path = path
        self._writer: Any = None

    def write(self, rows: list[TextRow], embedding: np.ndarray) -> None:
        import pyarrow as arrow
        import pyarrow.parquet as parquet

        flat = arrow.array(np.ascontiguousarray(embedding, dtype=np.float32).reshape(-1))
        table = arrow.table(
            {
                "id": arrow.array([row.id for row in rows], arrow.string()),
                "title": arrow.array([row.title for row in rows], arrow.string()),
                "text": arrow.array([row.text for row in rows], arrow.string()),
                "embedding": arrow.FixedSizeListArray.from_arrays(flat, embedding.shape[1]),
            }
        )
        if self._writer is None:
            self._writer = parquet.ParquetWriter(self._path, table.schema)
        self._writer.write_table(table)
        self.num_rows += len(rows)

    def close(self) -> None:
        if self._writer is None:  # no rows at all: still a file with the right columns
            self.write([], np.zeros((0, 1), np.float32))
        self._writer.close()


def _require_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise MissingExtra("pyarrow", extra="parquet", purpose="writing Parquet") from error
