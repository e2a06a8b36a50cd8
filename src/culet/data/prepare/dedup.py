"""Exact and near-duplicate rows found on disk, with memory that does not grow with their number.

Every row has left a key of 16 bytes and a MinHash signature in files, in order. Keys (and the band
keys of signatures) are dealt out by their leading bits to files small enough to sort in memory, so
that equal ones meet; the earliest row stays. What grows with the rows is disk: 16 + 2 × hashes
bytes each (272 by default), and 12 × bands more while near-duplicates are sought (240).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from culet.data.prepare.minhash import NearConfig, band_keys, similarities

KEY = np.dtype([("high", "<u8"), ("low", "<u8")])
_EXACT = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<u4")])
_BAND = np.dtype([("key", "<u8"), ("row", "<u4")])
MAX_ROWS = (1 << 32) - 1  # what a row number holds

_PART_RECORDS = 1 << 20  # records sorted in memory at a time
_READ_ROWS = 1 << 15  # rows read from a file at a time
_PAIRS = 1 << 15  # pairs of signatures compared at a time
MAX_ROUNDS = 64  # leaders a bucket may have


@dataclass
class Duplicates:
    """What was found.

    Attributes:
        removed: Rows that go.
        examples: (row that goes, earlier row that stays) of some.
        uncompared: Rows in buckets with more than `MAX_ROUNDS` leaders, left as they are there.
    """

    removed: int = 0
    examples: list[tuple[int, int]] = field(default_factory=list)
    uncompared: int = 0


def remove_exact(
    keys: Path,
    verdicts: np.ndarray,
    *,
    code: int,
    folder: Path,
    advance: Callable[[int], None] = lambda rows: None,
    examples: int = 100,
) -> Duplicates:
    """Give each row whose key an earlier row has the verdict `code`.

    Args:
        keys: File of `KEY`, one a row.
        verdicts: uint8 [R]; rows that are not 0 take no part. Changed in place.
        code: The verdict of a duplicate.
        folder: Where files may lie meanwhile.
        advance: Called with numbers of rows dealt out.
        examples: How many examples to keep.
    """

    def records() -> Iterator[np.ndarray]:
        for first, block in _blocks(keys, KEY, 1, len(verdicts)):
            advance(len(block))
            kept = np.flatnonzero(verdicts[first : first + len(block)] == 0)
            found = np.empty(len(kept), _EXACT)
            found["high"], found["low"] = block["high"][kept, 0], block["low"][kept, 0]
            found["row"] = kept + first
            yield found

    result = Duplicates()
    for part in _dealt(records(), "high", len(verdicts), folder):
        order = np.lexsort((part["row"], part["low"], part["high"]))
        part = part[order]
        same = np.zeros(len(part), bool)
        same[1:] = (part["high"][1:] == part["high"][:-1]) & (part["low"][1:] == part["low"][:-1])
        verdicts[part["row"][same]] = code
        result.removed += int(same.sum())
        leaders = np.maximum.accumulate(np.where(same, 0, np.arange(len(part))))
        _keep_examples(result, part["row"][same], part["row"][leaders[same]], examples)
    return result


def remove_near(
    signatures: Path,
    verdicts: np.ndarray,
    config: NearConfig,
    *,
    code: int,
    folder: Path,
    advance: Callable[[int], None] = lambda rows: None,
    examples: int = 100,
) -> Duplicates:
    """Give each row that is nearly an earlier row the verdict `code`.

    In a bucket of rows that agree in one band the earliest leads: those similar enough to it go,
    of the rest the earliest leads again. Every row that goes is thus similar to a row that stood
    when it went; that row may itself go in a later bucket, for one earlier still.

    Args:
        signatures: File of uint16, `config.hashes` a row; one of zeros takes no part.
        verdicts: As in `remove_exact`.
        config: What counts as nearly the same.
        code: The verdict of a near-duplicate.
        folder: Where files may lie meanwhile.
        advance: As in `remove_exact`.
        examples: As in `remove_exact`.
    """

    def records() -> Iterator[np.ndarray]:
        for first, block in _blocks(signatures, np.dtype("<u2"), config.hashes, len(verdicts)):
            advance(len(block))
            standing = verdicts[first : first + len(block)] == 0
            kept = np.flatnonzero(standing & block.any(axis=1))
            found = np.empty((len(kept), config.bands), _BAND)
            found["key"] = band_keys(block[kept], config)
            found["row"] = (kept + first)[:, None]
            yield found.reshape(-1)

    result = Duplicates()
    for part in _dealt(records(), "key", len(verdicts) * config.bands, folder):
        part = part[np.lexsort((part["row"], part["key"]))]
        buckets = np.cumsum(np.concatenate([[0], part["key"][1:] != part["key"][:-1]]))
        _lead(part["row"].astype(np.int64), buckets, signatures, verdicts, config, code, result)
        del result.examples[examples:]
    return result


def _lead(
    rows: np.ndarray,
    buckets: np.ndarray,
    signatures: Path,
    verdicts: np.ndarray,
    config: NearConfig,
    code: int,
    result: Duplicates,
) -> None:
    """Go through all buckets at once, a leader of each a round."""
    for _ in range(MAX_ROUNDS):
        alone = np.ones(len(rows), bool)
        alone[1:] &= buckets[1:] != buckets[:-1]
        alone[:-1] &= buckets[1:] != buckets[:-1]
        waiting = ~alone & (verdicts[rows] == 0)
        rows, buckets = rows[waiting], buckets[waiting]
        if not len(rows):
            return
        leads = np.concatenate([[True], buckets[1:] != buckets[:-1]])
        leaders = rows[np.maximum.accumulate(np.where(leads, np.arange(len(rows)), 0))]
        followers = np.flatnonzero(~leads)
        similar = _similar(rows[followers], leaders[followers], signatures, config)
        gone, stayed = rows[followers[similar]], leaders[followers[similar]]
        fresh = np.unique(gone, return_index=True)[1]  # a row may be in several buckets
        verdicts[gone] = code
        result.removed += len(fresh)
        _keep_examples(result, gone[fresh], stayed[fresh], len(result.examples) + 10)
        left = ~leads
        left[followers[similar]] = False
        rows, buckets = rows[left], buckets[left]
    result.uncompared += len(np.unique(rows))


def _similar(
    rows: np.ndarray, leaders: np.ndarray, signatures: Path, config: NearConfig
) -> np.ndarray:
    """Return which rows are as similar to their leaders as the threshold, or more."""
    found = np.zeros(len(rows), bool)
    if not len(rows):
        return found
    with signatures.open("rb") as file:
        for first in range(0, len(rows), _PAIRS):
            span = slice(first, first + _PAIRS)
            left, right = (_rows_of(file, of[span], config.hashes) for of in (rows, leaders))
            found[span] = similarities(left, right) >= config.threshold
    return found


def _rows_of(file: BinaryIO, rows: np.ndarray, columns: int) -> np.ndarray:
    """Return some rows of a file of uint16, [b, columns].

    Not by mapping it: the pages around every row that is touched would count as this process's
    memory, and all of them together are the file.
    """
    width = 2 * columns
    parts = [os.pread(file.fileno(), width, row * width) for row in rows.tolist()]
    return np.frombuffer(b"".join(parts), np.dtype("<u2")).reshape(len(rows), columns)


def _keep_examples(result: Duplicates, gone: np.ndarray, stayed: np.ndarray, examples: int) -> None:
    room = max(examples - len(result.examples), 0)
    pairs = zip(gone[:room].tolist(), stayed[:room].tolist(), strict=True)
    result.examples.extend(pairs)


def _blocks(
    path: Path, dtype: np.dtype, columns: int, rows: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (number of the first row, rows [b, columns]) of a file."""
    with path.open("rb") as file:
        for first in range(0, rows, _READ_ROWS):
            count = min(_READ_ROWS, rows - first)
            yield first, np.fromfile(file, dtype, count * columns).reshape(count, columns)


def _dealt(
    blocks: Iterator[np.ndarray], key: str, records: int, folder: Path
) -> Iterator[np.ndarray]:
    """Deal records out to files by the leading bits of their key; yield the files' content."""
    bits = max(records - 1, 1).bit_length() - (_PART_RECORDS - 1).bit_length()
    parts = 1 << max(bits, 0)
    shift = np.uint64(64 - max(bits, 0))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        dtype = np.dtype(np.void)
        for block in blocks:
            dtype = block.dtype
            owner = block[key] >> shift if parts > 1 else np.zeros(len(block), np.uint64)
            order = np.argsort(owner, kind="stable")
            ends = np.cumsum(np.bincount(owner.astype(np.int64), minlength=parts))
            block = block[order]
            for part in range(parts):
                span = block[(ends[part - 1] if part else 0) : ends[part]]
                if len(span):
                    with (folder / f"{part}.bin").open("ab") as file:
                        file.write(span.tobytes())
        for part in range(parts):
            path = folder / f"{part}.bin"
            if path.exists():
                yield np.fromfile(path, dtype)
                path.unlink()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
