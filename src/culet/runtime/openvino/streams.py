"""Requests of compiled models, and several rectangles at a time on few threads each.

In bulk, two streams of one thread compute 14 to 21 % more than one stream of two (LOG.md): no
thread waits for another within a layer. A single text is faster on all threads together, so the
model for bulk is a second one, compiled when there is enough to embed; it packs the weights anew.
"""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import openvino as ov

from culet.runtime.openvino.attention import View

Item = TypeVar("Item")
Result = TypeVar("Result")
# Embedded tokens, views of local and global layers, weights of pooling → embeddings [B, E].
Run = Callable[[np.ndarray, View, View, np.ndarray], np.ndarray]
MAX_STREAMS = 4  # more were not measured


class Request:
    """A model compiled as one graph, computing one rectangle at a time.

    Args:
        model: What `encoder_graph` became.
    """

    def __init__(self, model: ov.CompiledModel) -> None:
        self._request = model.create_infer_request()

    def __call__(
        self, embedded: np.ndarray, local_view: View, global_view: View, pool: np.ndarray
    ) -> np.ndarray:
        """Return embeddings [B, E], not of unit length."""
        inputs = {
            "embedded": embedded,
            "global_mask": global_view.mask,
            "local_mask": local_view.mask,
            "local_reach": local_view.reach,
            "local_width": local_view.width,
            "pool": pool,
        }
        # One by one: `infer(inputs)` spends 3 % of a short query's time on sorting them out.
        for name, value in inputs.items():
            tensor = ov.Tensor(np.ascontiguousarray(value), shared_memory=True)
            self._request.set_tensor(name, tensor)
        out: np.ndarray = self._request.infer(share_outputs=True)[0]
        return out.copy()


class Streams:
    """Requests that take turns: whoever has a rectangle borrows one that is free.

    Args:
        runs: The requests.
        start_cost: What starting a rectangle costs one of them, in tokens.

    Attributes:
        number: How many requests.
        start_cost: As given.
        checked: `checked` has found what one request finds.
    """

    def __init__(self, runs: Sequence[Run], *, start_cost: float) -> None:
        self.start_cost = start_cost
        self.number = len(runs)
        self.checked = False
        self._free: queue.SimpleQueue[Run] = queue.SimpleQueue()
        for run in runs:
            self._free.put(run)

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[Run]:
        """Give a request that nobody else uses; wait for one."""
        run = self._free.get()
        try:
            yield run
        finally:
            self._free.put(run)

    def each(
        self, work: Callable[[Item], Result], items: Sequence[Item]
    ) -> Generator[Result, None, None]:
        """Yield `work(item)` in order; with several requests, that many are worked on at a time.

        Closed early, or on an error or Ctrl-C, those not begun are left out.
        """
        if self.number == 1:
            yield from map(work, items)
            return
        with ThreadPoolExecutor(self.number, thread_name_prefix="culet-stream") as pool:
            yield from pool.map(work, items)


def checked(
    several: Streams,
    single: Streams,
    work: Callable[[Item, Streams], tuple[Item, np.ndarray]],
    items: Sequence[Item],
    least: float,
    give_up: Callable[[float], None],
) -> Iterator[tuple[Item, np.ndarray]]:
    """Yield what several requests find if one finds the same for the first item.

    If not, yield what one finds.

    Args:
        several: What is not trusted yet.
        single: What is.
        work: Returns unit vectors of an item, through given requests.
        items: At least one.
        least: The least cosine of vectors that are the same but for rounding.
        give_up: Called with the cosine when they are not.
    """
    with contextlib.closing(several.each(lambda item: work(item, several), items)) as found:
        first, right = next(found), work(items[0], single)
        cosine = float((first[1] * right[1]).sum(axis=1).min())
        if cosine >= least:  # not so for NaN
            several.checked = True
            yield first
            yield from found
            return
    give_up(cosine)
    yield right
    for item in items[1:]:
        yield work(item, single)
