"""Batches prepared ahead on a thread, so that the training step never waits for text.

The tokenizer releases the interpreter lock, so one thread beside the step is enough; how long
the step waited is counted and reported.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Prefetch(Generic[Item]):
    """An iterator over `make(step)` for a range of steps, a few steps ahead of its reader.

    Errors raised by `make` surface at the step they belong to. Use as a context manager, so
    that the thread ends with the block.
    """

    def __init__(
        self, make: Callable[[int], Item], *, start: int, stop: int, ahead: int = 4
    ) -> None:
        self._queue: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(ahead)
        self._ended = threading.Event()
        self._remaining = stop - start
        self.waited_seconds = 0.0
        self._thread = threading.Thread(
            target=self._work, args=(make, start, stop), name="prefetch", daemon=True
        )
        self._thread.start()

    def __iter__(self) -> Iterator[Item]:
        while self._remaining:
            self._remaining -= 1
            before = time.perf_counter()
            item, error = self._queue.get()
            self.waited_seconds += time.perf_counter() - before
            if error is not None:
                self._remaining = 0
                raise error
            yield item  # type: ignore[misc]

    def __enter__(self) -> Prefetch[Item]:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        while self._thread.is_alive():  # unblock a put that waits for room
            try:
                self._queue.get_nowait()
            except queue.Empty:
                self._thread.join(timeout=0.01)

    def _work(self, make: Callable[[int], Item], start: int, stop: int) -> None:
        for step in range(start, stop):
            if self._ended.is_set():
                return
            try:
                item: tuple[Item | None, BaseException | None] = (make(step), None)
            except BaseException as error:  # handed to the reader, who raises it
                item = (None, error)
            while not self._ended.is_set():
                try:
                    self._queue.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if item[1] is not None:
                return
