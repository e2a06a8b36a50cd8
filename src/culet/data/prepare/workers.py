"""The first pass in several processes: chunks go out, facts come back in order."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor

from culet.data.prepare.chunks import RowChunk
from culet.data.prepare.examine import Examiner, Facts, RowTally

_examiner: Examiner | None = None  # of a worker process


def examined(
    chunks: Iterable[tuple[RowChunk, str]], examiner: Examiner, *, workers: int, keep: int
) -> Generator[tuple[RowChunk, Facts, RowTally], None, None]:
    """Yield each chunk with its facts and what was counted, in order.

    Args:
        chunks: Chunks and their sources.
        examiner: Judges them; each worker gets a copy, its index of evaluation texts included.
        workers: Processes; with one, this one does it.
        keep: Examples kept of each reason.
    """
    if workers == 1:
        for chunk, source in chunks:
            tally = RowTally(keep=keep)
            yield chunk, examiner(chunk, source, tally), tally
        return
    # not forked: a process with threads must not be
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _begin, (examiner,))
    under_way: deque[tuple[RowChunk, Future[tuple[Facts, RowTally]]]] = deque()
    try:
        for chunk, source in chunks:
            under_way.append((chunk, pool.submit(_examine, chunk, source, keep)))
            if len(under_way) > workers + 1:
                yield _next(under_way)
        while under_way:
            yield _next(under_way)
    finally:
        pool.shutdown(cancel_futures=True)


def _next(
    under_way: deque[tuple[RowChunk, Future[tuple[Facts, RowTally]]]],
) -> tuple[RowChunk, Facts, RowTally]:
    chunk, future = under_way.popleft()
    return (chunk, *future.result())


def _begin(examiner: Examiner) -> None:
    global _examiner
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that saves
    _examiner = examiner


def _examine(chunk: RowChunk, source: str, keep: int) -> tuple[Facts, RowTally]:
    assert _examiner is not None
    tally = RowTally(keep=keep)
    return _examiner(chunk, source, tally), tally
