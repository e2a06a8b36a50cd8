"""Files of vectors that grow batch by batch: .npy, JSONL, Parquet.

Writes are unbuffered. After each batch a .npy and a JSONL file are complete, so kill -9 costs one
batch; a Parquet file can be read once `close` has written its footer.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from culet.files.texts import TextRow

_BLOCK_BYTES = 1 << 20


class VectorFile(Protocol):
    """A file of vectors that grows batch by batch.

    Attributes:
        num_rows: Rows in it; a batch that could not be written does not count.
    """

    num_rows: int

    def write(self, rows: list[TextRow], embedding: np.ndarray) -> None:
        """Append the vectors [B, M] of these rows."""

    def close(self) -> None:
        """Truncate what a failed write has left, and make the file valid."""


class NpyFile:
    """An array whose header is rewritten as rows are added.

    Args:
        file: Open for reading and writing, without a buffer.
        width: M.
        keep: Rows that stay of those the file holds.
    """

    def __init__(self, file: io.FileIO, width: int, *, keep: int = 0) -> None:
        self.num_rows = keep
        self._file, self._width = file, width
        self.close()

    def write(self, rows: list[TextRow], embedding: np.ndarray) -> None:
        """Append the vectors [B, M] of these rows."""
        _write(self._file, np.ascontiguousarray(embedding, dtype="<f4").tobytes())
        self.num_rows += len(embedding)
        self._write_header()  # after the rows: until then the file has those of earlier batches

    def close(self) -> None:
        """Cut off what a broken write has left."""
        # The header first: it takes no more space on a full disk.
        size = self._write_header() + 4 * self._width * self.num_rows
        self._file.truncate(size)
        self._file.seek(size)

    def _write_header(self) -> int:
        # Room for twenty digits: the header keeps its length whatever the number of rows.
        shape = f"({self.num_rows}, {self._width})"
        head = "{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + ", }"
        head += " " * (20 - len(str(self.num_rows)))
        length = -(-(10 + len(head) + 1) // 64) * 64
        head = head.ljust(length - 11) + "\n"
        self._file.seek(0)
        magic = b"\x93NUMPY\x01\x00" + (length - 10).to_bytes(2, "little")
        _write(self._file, magic + head.encode())
        self._file.seek(0, io.SEEK_END)
        return length


class JsonFile:
    """One object per line, numbers with nine digits, which restore the same float32.

    Args:
        file: Open for reading and writing, without a buffer.
        width: M; not needed, since the lines show it.
        keep: Lines that stay of those the file holds.
    """

    def __init__(self, file: io.FileIO, width: int, *, keep: int = 0) -> None:
        self.num_rows = keep
        self._file = file
        self._size = _end_of_line(file, keep)
        self.close()

    def write(self, rows: list[TextRow], embedding: np.ndarray) -> None:
        """Append the vectors [B, M] of these rows."""
        lines = "".join(json_lines(rows, embedding)).encode()
        _write(self._file, lines)
        self._size += len(lines)
        self.num_rows += len(rows)

    def close(self) -> None:
        """Cut off what a broken write has left."""
        self._file.truncate(self._size)
        self._file.seek(self._size)


def json_lines(rows: list[TextRow], embedding: np.ndarray) -> Iterator[str]:
    """Yield one line of JSON for each text and its vector."""
    for row, vector in zip(rows, embedding, strict=True):
        fields = {"id": row.id, "title": row.title, "text": row.text}
        known = {name: value for name, value in fields.items() if value is not None}
        numbers = ",".join(f"{value:.9g}" for value in vector.tolist())
        yield f'{json.dumps(known, ensure_ascii=False)[:-1]}, "embedding": [{numbers}]}}\n'


class ParquetFile:
    """Columns id, title, text and embedding (a list of fixed size); a row group per batch.

    Args:
        file: Open for writing, empty.
        width: M.
        keep: 0: rows cannot be added to a finished file.
    """

    def __init__(self, file: io.FileIO, width: int, *, keep: int = 0) -> None:
        import pyarrow.parquet as parquet

        assert keep == 0
        self.num_rows = 0
        self._width = width
        file.truncate(0)
        whole = _Whole(file)
        self._writer = parquet.ParquetWriter(whole, self._table([], np.zeros((0, width))).schema)

    def write(self, rows: list[TextRow], embedding: np.ndarray) -> None:
        """Append the vectors [B, M] of these rows."""
        self._writer.write_table(self._table(rows, embedding))
        self.num_rows += len(rows)

    def close(self) -> None:
        """Write the footer, without which the file cannot be read."""
        self._writer.close()

    def _table(self, rows: list[TextRow], embedding: np.ndarray) -> Any:
        import pyarrow as arrow

        flat = arrow.array(np.ascontiguousarray(embedding, dtype=np.float32).reshape(-1))
        return arrow.table(
            {
                "id": arrow.array([row.id for row in rows], arrow.string()),
                "title": arrow.array([row.title for row in rows], arrow.string()),
                "text": arrow.array([row.text for row in rows], arrow.string()),
                "embedding": arrow.FixedSizeListArray.from_arrays(flat, self._width),
            }
        )


class _Whole(io.RawIOBase):
    """A file that writes all it is given, for pyarrow, which does not check for short writes.

    Args:
        file: May write only a part at a time on a disk that fills up.
    """

    def __init__(self, file: io.FileIO) -> None:
        self._file = file

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any, /) -> int:
        """Write all of the data."""
        _write(self._file, bytes(data))
        return len(data)

    def tell(self) -> int:
        """Return the position in the file."""
        return self._file.tell()


def count_rows(path: Path) -> int | None:
    """Return the number of complete rows in a file of vectors; None if it cannot be read."""
    kind = path.name.removesuffix(".part").lower().rpartition(".")[2]
    try:
        if kind == "npy":
            return len(np.load(path, mmap_mode="r", allow_pickle=False))
        if kind == "jsonl":
            with path.open("rb") as file:
                return sum(b.count(b"\n") for b in iter(lambda: file.read(_BLOCK_BYTES), b""))
        import pyarrow.parquet as parquet

        return int(parquet.read_metadata(path).num_rows)
    except (OSError, ValueError, EOFError):  # ArrowInvalid is a ValueError
        return None


def _write(file: io.FileIO, data: bytes) -> None:
    """Write all of it; the system may write only a part at a time, as on a disk that fills up."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _end_of_line(file: io.FileIO, number: int) -> int:
    """Return the offset after `number` lines."""
    file.seek(0)
    place = 0
    while number and (block := file.read(_BLOCK_BYTES)):
        lines = block.count(b"\n")
        if lines < number:
            number -= lines
            place += len(block)
            continue
        end = -1
        for _ in range(number):
            end = block.index(b"\n", end + 1)
        return place + end + 1
    return place
