"""Work done ahead on a thread: tokenizing while the engine runs, batches during training steps.

The tokenizer releases the interpreter lock, so one thread is enough. How long the reader waited
is counted, so that it can be reported.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_PATIENCE = 5.0  # seconds for the thread to end; one still waiting for input is then left behind
_LEAVE = 1.0  # seconds for work already begun to end; on Ctrl-C we wait no longer


class Ahead(Generic[Item]):
    """An iterator that a thread keeps a few items ahead of its reader.

    Errors of the source are raised at the item they belong to. Use it as a context manager, so
    that the thread ends with the block.

    Args:
        items: The source; only the thread reads it.
        depth: The most items that wait.

    Attributes:
        waited_seconds: How long the reader has waited for items so far.
    """

    def __init__(self, items: Iterable[Item], *, depth: int = 4) -> None:
        self._queue: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(depth)
        self._ended = threading.Event()
        self.waited_seconds = 0.0
        self._thread = threading.Thread(target=self._work, args=(items,), name="ahead", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Item]:
        while True:
            before = time.perf_counter()
            item, error = self._queue.get()
            self.waited_seconds += time.perf_counter() - before
            if error is not None:
                self._put((None, StopIteration()))  # a further call finds the end
                if isinstance(error, StopIteration):
                    return
                raise error
            yield item  # type: ignore[misc]

    def __enter__(self) -> Ahead[Item]:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        until = time.monotonic() + _PATIENCE
        while self._thread.is_alive() and time.monotonic() < until:
            try:  # unblock a put that waits for room
                self._queue.get_nowait()
            except queue.Empty:
                self._thread.join(timeout=0.01)

    def _work(self, items: Iterable[Item]) -> None:
        end: BaseException = StopIteration()
        try:
            for item in items:
                self._put((item, None))
                if self._ended.is_set():
                    return
        except BaseException as error:  # handed to the reader, who raises it
            end = error
        self._put((None, end))

    def _put(self, item: tuple[Item | None, BaseException | None]) -> None:
        while not self._ended.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return
            except queue.Full:
                continue


def ahead_map(
    work: Callable[[Item], Result], items: Iterable[Item], *, depth: int = 1
) -> Generator[Result, None, None]:
    """Yield `work(item)` in order: items are taken here, and a thread works ahead on them.

    For items that belong to the caller's thread (a database cursor, standard input): Ctrl-C ends
    a wait for one. Errors are raised at the item they belong to. Close the iterator when it is
    left early (`contextlib.closing`), so that the thread ends.

    Args:
        work: Done on the thread, one item after the other.
        items: Taken on the caller's thread, up to `depth` ahead of the results it has received.
        depth: Items that are worked on ahead.
    """
    todo: queue.SimpleQueue[Item | _End] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[Result | None, BaseException | None]] = queue.SimpleQueue()
    ended = threading.Event()

    def run() -> None:
        while not isinstance(item := todo.get(), _End) and not ended.is_set():
            try:
                done.put((work(item), None))
            except BaseException as error:  # handed to the reader, who raises it
                done.put((None, error))
                return

    def result() -> Result:
        value, error = done.get()
        if error is not None:
            raise error
        return value  # type: ignore[return-value]

    thread = threading.Thread(target=run, name="ahead", daemon=True)
    thread.start()
    waiting = 0
    try:
        source = iter(items)
        broken: Exception | None = None
        while True:
            try:
                todo.put(next(source))
            except StopIteration:
                break
            except Exception as error:  # raised after the items before it
                broken = error
                break
            waiting += 1
            if waiting > depth:
                yield result()
                waiting -= 1
        for _ in range(waiting):
            yield result()
        if broken is not None:
            raise broken
    finally:
        ended.set()
        todo.put(_End())
        thread.join(_LEAVE)


class _End:
    """What follows the last item."""
