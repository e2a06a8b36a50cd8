"""The engine for CPUs: token ids to unit vectors through OpenVINO, without PyTorch.

Texts are laid into rectangles of a bounded number of tokens (`culet.runtime.openvino.rectangles`).
"""

from __future__ import annotations

import ctypes
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from culet.architecture.multimodal import SoftTokens
from culet.checkpoints.checkpoint import EmbeddingCheckpoint
from culet.errors import CheckpointError, InputError
from culet.files.cache import cache_folder
from culet.runtime.openvino.attention import views
from culet.runtime.openvino.compiled import WORTH_LAYERS, compiled
from culet.runtime.openvino.graph import encoder_graph, gelu_by_sigmoid, gelu_in_one
from culet.runtime.openvino.layerwise import Layerwise
from culet.runtime.openvino.memory import available_memory, check_memory
from culet.runtime.openvino.plugin import (
    KEPT_CODE,
    compile_settings,
    few_primitives,
    leave_to_parent_at_fork,
    own_signal_stack,
)
from culet.runtime.openvino.processor import (
    check_precision,
    cpu_flags,
    int8_needs_one_stream,
    num_cores,
)
from culet.runtime.openvino.quantized import int8_widths, quantized_weights
from culet.runtime.openvino.rectangles import rectangles, round_length
from culet.runtime.openvino.streams import MAX_STREAMS, Request, Run, Streams, checked
from culet.runtime.openvino.weights import (
    CodedTable,
    CodedWeights,
    FloatTable,
    FloatWeights,
    Table,
    Weights,
    release,
)
from culet.vectors.similarity import unit

Embedded = tuple[np.ndarray, np.ndarray]  # indices of some texts and their unit vectors
TOKEN_BUDGET = 1024  # padded tokens of a rectangle; more fall out of the caches
_START_TOKENS = 16  # what starting a rectangle costs each thread, in tokens (LOG.md: 6 to 20)
_TIDY_TOKENS = 512  # tokens after which pages of mapped weights are given back
_WARM_TOKENS = 128  # the smallest shape for which the plugin packs as for the largest
_BULK_TOKENS = 8192  # from here on compiling once more for several streams is worth its time
# The least cosine between a text's vectors from one stream and from several: apart by rounding.
_AGREEMENT = {"float32": 0.99999, "bfloat16": 0.999, "int8": 0.999}


class OpenVinoEngine:
    """A checkpoint compiled for this CPU; a forked child compiles it once more for itself.

    Args:
        checkpoint: The model.
        precision: "float32", "bfloat16", "int8", "int4", or None for the best of this CPU.
        threads: CPU threads; None leaves OpenVINO's choice, one a core.
        cache: Folder of quantised weights and compiled models; the user's cache folder if None.

    Attributes:
        name: Backend, device and precision, for messages.
        backend: "openvino".
        precision: What was chosen.

    Raises:
        InputError: If the precision is unknown or this CPU cannot compute in it, or the machine
            has too little memory.
        CheckpointError: If OpenVINO cannot compile the model.
    """

    def __init__(
        self,
        checkpoint: EmbeddingCheckpoint,
        precision: str | None = None,
        *,
        threads: int | None = None,
        cache: Path | None = None,
    ) -> None:
        self._asked, self._threads_asked = precision, threads
        self._checkpoint = checkpoint
        self._config = checkpoint.config
        self._threads = threads or num_cores()
        self._cache = cache
        self.backend = "openvino"
        self._starting = threading.Lock()
        self._start()
        leave_to_parent_at_fork(self)

    def _start(self) -> None:
        """Compile, in the process that computes."""
        with own_signal_stack():  # loads the plugin, which brings its own
            self._core = ov.Core()
            capabilities = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.precision = check_precision(self._asked, capabilities)
        self.name = f"openvino cpu {self.precision}"
        check_memory(self._config, self.precision, available_memory())
        # quantised weights go with float32 elsewhere, or with bfloat16 where that is quicker
        self._rounds = self.precision != "float32" and "BF16" in capabilities
        self._settings = compile_settings(self.precision, self._threads_asked, rounds=self._rounds)
        self._table: Table
        self._mapped: list[np.ndarray] = []  # what memory can be given back of
        self._whole: Callable[..., ov.CompiledModel] | None = None  # compiles it again
        self._max_streams = self._allowed_streams()
        try:
            run = self._open()
        except RuntimeError as error:
            raise CheckpointError(
                f"OpenVINO cannot compile {self._checkpoint.path}: {error}"
            ) from error
        self._release()
        self._single = Streams([run], start_cost=_START_TOKENS * self._threads)
        self._bulk: Streams | None = None
        self._compiling = threading.Lock()
        self._lock = threading.Lock()  # of what is below
        self._shapes: set[tuple[int, ...]] = set()
        self._untidy = 0
        self._packed: weakref.WeakSet[Streams] = weakref.WeakSet()
        self._process = os.getpid()  # last, so that a start that failed is tried again

    def leave_to_parent(self) -> None:
        """In a forked child: never free what the parent has compiled.

        That would wait for threads which stayed with the parent, at the latest when the child ends.
        """
        compiled = (self._core, self._single, self._bulk, self._whole)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(compiled))
        self._starting = threading.Lock()

    def _open(self) -> Run:
        """Find or make weights and compiled models; return what computes one rectangle."""
        checkpoint = self._checkpoint
        with few_primitives(KEPT_CODE[self.precision]):
            if self.precision in ("int8", "int4"):
                arrays = quantized_weights(checkpoint, self.precision, folder=self._cache)
                self._table, self._mapped = CodedTable(arrays), list(arrays.values())
                if self.precision == "int4":
                    return Layerwise(
                        checkpoint.config,
                        arrays,
                        lambda graph: self._core.compile_model(graph, "CPU", self._settings),
                    )
                self._whole = partial(self._compile_whole, lambda: CodedWeights(arrays))
            else:
                self._table = FloatTable(checkpoint.tensors["embed"])
                self._mapped = self._table.arrays()
                self._whole = partial(self._compile_whole, lambda: FloatWeights(checkpoint.tensors))
            return Request(self._whole())

    def _compile_whole(self, weights: Callable[[], Weights], **settings: Any) -> ov.CompiledModel:
        """Return the model as one graph; the file of a compiled one is in the user's cache."""
        config = self._config

        def build() -> ov.Model:
            gelu = gelu_in_one if self._rounds else gelu_by_sigmoid
            return encoder_graph(config, weights(), gelu=gelu)

        if config.encoder.num_layers < WORTH_LAYERS:
            return self._core.compile_model(build(), "CPU", self._settings | settings)
        model, mapped = compiled(
            self._core,
            build,
            self._settings | settings,
            folder=self._cache or cache_folder() / "compiled",
            name=f"{self._checkpoint.fingerprint}-compiled-{self.precision}",
        )
        if mapped is not None:
            self._mapped.append(mapped)
        return model

    def _allowed_streams(self) -> int:
        """Return how many streams this model may be computed in on this CPU."""
        if self.precision == "int4":  # one layer is compiled
            return 1
        if self.precision == "int8" and int8_needs_one_stream(
            int8_widths(self._config), cpu_flags()
        ):
            return 1
        return min(self._threads, MAX_STREAMS)

    def _streams(self, tokens: int) -> Streams:
        """Return what computes this many tokens fastest."""
        if tokens < _BULK_TOKENS or self._max_streams == 1:
            return self._single
        with self._compiling:
            if self._bulk is None and self._max_streams > 1:
                try:
                    self._bulk = self._open_bulk(self._max_streams)
                except (InputError, RuntimeError) as error:
                    warnings.warn(f"texts go through one stream: {error}", stacklevel=2)
                    self._max_streams = 1  # it gives the same vectors, somewhat later
            return self._bulk or self._single

    def _open_bulk(self, number: int) -> Streams:
        """Compile the model once more, for this many streams.

        Raises:
            InputError: If there is too little memory.
            RuntimeError: If OpenVINO cannot compile it.
        """
        assert self._whole is not None, "int4 has one stream"
        self._pack(self._single)  # or what that takes later would count as free now
        check_memory(self._config, self.precision, available_memory())
        model = self._whole(NUM_STREAMS=str(number), PERFORMANCE_HINT="THROUGHPUT")
        self._release()
        start_cost = _START_TOKENS * self._threads / number
        return Streams([Request(model) for _ in range(number)], start_cost=start_cost)

    def embed(
        self, texts: Sequence[np.ndarray], *, soft: Mapping[int, SoftTokens] | None = None
    ) -> Iterator[Embedded]:
        """Yield (indices of some texts, their unit vectors float32 [b, E]) until all are done.

        Args:
            texts: Token ids of each text; none without tokens.
            soft: Soft tokens of some texts, by index.

        Raises:
            InputError: If soft tokens do not fit.
        """
        if self._process != os.getpid():  # after a fork
            with self._starting:
                if self._process != os.getpid():
                    self._start()
        soft = soft or {}
        for i, tokens in soft.items():
            tokens.check(len(texts[i]), self._config.encoder.model_dim)
        lengths = [len(text) for text in texts]
        streams = self._streams(sum(lengths))
        laid = rectangles(lengths, TOKEN_BUDGET, start_cost=streams.start_cost)
        if self.precision == "int8" and any(
            lengths[index[0]] * len(index) > _WARM_TOKENS for index in laid
        ):
            self._pack(streams)

        def work(index: np.ndarray, streams: Streams = streams) -> Embedded:
            own = {row: soft[i] for row, i in enumerate(index.tolist()) if i in soft}
            return index, self._rectangle([texts[i] for i in index], streams, own)

        if streams is self._single or streams.checked:
            yield from streams.each(work, laid)
        else:
            least = _AGREEMENT[self.precision]
            yield from checked(streams, self._single, work, laid, least, self._give_up_streams)

    def _give_up_streams(self, cosine: float) -> None:
        warnings.warn(
            f"{self._max_streams} streams of {self.name} gave wrong vectors on this machine "
            f"(cosine {cosine:.4f} to those of one stream); their vectors are thrown away, and all "
            "texts go through one stream from now on",
            stacklevel=2,
        )
        self._max_streams, self._bulk = 1, None

    def _pack(self, streams: Streams) -> None:
        """Let the plugin repack all weights, as it would at the first large shape.

        At the smallest of these, the pages they are read from can be given back before another
        needs its memory.
        """
        if streams not in self._packed:
            self._packed.add(streams)
            some = np.zeros(min(_WARM_TOKENS, self._longest), dtype=np.int64)
            self._rectangle([some], streams, {})

    def _rectangle(
        self, texts: list[np.ndarray], streams: Streams, soft: Mapping[int, SoftTokens]
    ) -> np.ndarray:
        """Return the unit vectors of texts computed side by side, with their soft tokens."""
        lengths = np.array([len(text) for text in texts])
        length = round_length(int(lengths.max()), self._longest)
        inside = np.arange(length)[None, :] < lengths[:, None]
        embedded = np.zeros((*inside.shape, self._config.encoder.model_dim), dtype=np.float32)
        embedded[inside] = self._table.rows(np.concatenate(texts)) * self._scale
        for row, tokens in soft.items():
            embedded[row, tokens.places] = tokens.vectors * self._scale
        local_view, global_view = views(inside, self._config.encoder)
        with streams.borrowed() as run:
            out = run(embedded, local_view, global_view, self._pool(inside))
        with self._lock:
            # A new shape may have read all weights again; and every text reads rows of the table.
            self._untidy += inside.size if inside.shape in self._shapes else _TIDY_TOKENS
            self._shapes.add(inside.shape)
            if self._untidy >= _TIDY_TOKENS:
                self._untidy = 0
                self._release()
        return unit(out)

    def _release(self) -> None:
        for array in self._mapped:
            release(array)

    @property
    def _longest(self) -> int:
        return self._config.encoder.max_length

    @property
    def _scale(self) -> np.float32:
        return np.float32(self._config.encoder.model_dim**0.5)

    def _pool(self, inside: np.ndarray) -> np.ndarray:
        """Return the weight of each token in its text's vector [B, 1, L]."""
        if self._config.pooling == "attention":
            return np.where(inside, np.float32(0), np.float32(-1e9))[:, None, :]
        counted = inside
        if self._config.pooling in ("first", "last"):
            place = np.cumsum(inside, axis=1)  # from 1
            if self._config.pooling == "last":
                place = place[:, -1:] - place + 1
            counted = inside & (place <= self._config.pooling_tokens)
        weights = np.float32(counted) / counted.sum(axis=1, keepdims=True)
        return np.asarray(weights, dtype=np.float32)[:, None, :]
