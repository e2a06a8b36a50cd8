"""Texts to vectors: the object most people use.

>>> import culet
>>> embedder = culet.load()
>>> embedder.encode_query(["where is the culet?"]).shape == (1, embedder.dim)
True
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from culet.architecture.embedding_config import check_width
from culet.architecture.multimodal import SoftTokens
from culet.checkpoints.checkpoint import EmbeddingCheckpoint
from culet.checkpoints.folder import text_tokenizer
from culet.errors import InputError
from culet.terminal.progress import Progress
from culet.text.inputs import check_window, listed, several, title_and_text, windows
from culet.text.prompts import Prompts
from culet.vectors.similarity import check_unit, unit

OnLong = Literal["truncate", "error"]
_TITLES = "a title or a list of titles"
WINDOW = 4096  # texts that are tokenized and sorted by length together


class Engine(Protocol):
    """Token ids to vectors: `culet.runtime.openvino.engine` or `culet.runtime.pytorch`."""

    @property
    def name(self) -> str:
        """Backend, device and precision, for messages."""

    @property
    def backend(self) -> str:
        """What computes the vectors: "openvino" or "torch"."""

    @property
    def precision(self) -> str:
        """What they are computed in: "float32", "bfloat16", "int8" or "int4"."""

    def embed(
        self, texts: Sequence[np.ndarray], *, soft: Mapping[int, SoftTokens] | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (indices of some texts, their unit vectors float32 [b, E]) until all are done."""


@dataclass(frozen=True)
class Prepared:
    """Tokenized texts on their way to the engine.

    Attributes:
        ids: Token ids of each text, prompt included.
        note: A warning about texts that were cut, or None.
    """

    ids: list[np.ndarray]
    note: str | None


class Embedder:
    """A loaded model with its tokenizer and prompts.

    `pickle` and `copy` load it again, from the same folder, in the same precision. A forked child
    compiles the model for itself.

    Args:
        checkpoint: The model.
        engine: What computes the vectors.
        name: The name it was loaded by.
        again: Loads it in another process; None where it does not come from a folder.

    Attributes:
        prompts: The checkpoint's prompts.
        widths: Trained widths, largest first.
        dim: The full width.
        max_length: The longest text in tokens, prompt, BOS and EOS included.
        fingerprint: 16 hex digits that change with weights, config, tokenizer or prompts.
        backend, precision: Those of the engine.
    """

    def __init__(
        self,
        checkpoint: EmbeddingCheckpoint,
        engine: Engine,
        *,
        name: str,
        again: Callable[[], Embedder] | None = None,
    ) -> None:
        self.name = name
        self._again = again
        self.checkpoint = checkpoint
        self.prompts = Prompts.from_names(checkpoint.prompts)
        self.widths = checkpoint.config.widths
        self.dim = checkpoint.config.embedding_dim
        self.max_length = checkpoint.config.encoder.max_length
        self.fingerprint = checkpoint.fingerprint
        self._tokenizer = text_tokenizer(checkpoint.tokenizer_json, max_length=self.max_length)
        self._engine = engine
        self.backend = engine.backend
        self.precision = engine.precision

    def __repr__(self) -> str:
        return (
            f"Embedder({self.name!r}, dim={self.dim}, widths={self.widths}, "
            f"max_length={self.max_length}, engine={self._engine.name!r})"
        )

    def __reduce__(self) -> tuple[Callable[[], Embedder], tuple[()]]:
        if self._again is None:
            raise InputError(
                f"the embedder {self.name!r} was not loaded from a folder, so it cannot be pickled "
                "or copied; write the model to one, and use culet.load"
            )
        return self._again, ()

    def encode_query(
        self,
        texts: str | Iterable[str],
        *,
        task: str = "search",
        instruction: str | None = None,
        truncate_to: int | None = None,
        on_long: OnLong = "truncate",
        progress: bool | None = None,
    ) -> np.ndarray:
        """Return the unit vector of each query, float32 [B, E], in the order given.

        One string gives one vector [E]. No text gives an array [0, E]. An empty string is a
        valid text: its vector is that of the prompt alone.

        Args:
            texts: The queries; for symmetric tasks, both sides.
            task: One of `embedder.prompts.tasks`: "search", "similarity", "classification", …
            instruction: Your own words in place of the task's.
            truncate_to: A trained width; None means the full one.
            on_long: Whether a text of more than `max_length` tokens is cut, with a warning, or
                refused.
            progress: True shows it, False never, None once it has taken two seconds.

        Raises:
            InputError: An unknown task, an untrained width, something that is not a text, or one
                that is too long.
        """
        self.prompts.query(task, instruction=instruction)  # refused before the first text
        given = listed(texts)

        def prepare(part: Sequence[str], first: int) -> Prepared:
            return self.prepare_query(
                part, task=task, instruction=instruction, on_long=on_long, first=first
            )

        vectors = self._encode(given, prepare, truncate_to, progress, "queries")
        return vectors[0] if isinstance(texts, str) else vectors

    def encode_document(
        self,
        texts: str | Iterable[str],
        *,
        titles: str | Sequence[str | None] | None = None,
        truncate_to: int | None = None,
        on_long: OnLong = "truncate",
        progress: bool | None = None,
    ) -> np.ndarray:
        """Return the unit vector of each document, float32 [B, E], in the order given.

        Args:
            texts: The documents; see `encode_query` for one, none and empty ones.
            titles: A title for each document, or None where there is none.
            truncate_to: A trained width; None means the full one.
            on_long: As in `encode_query`.
            progress: As in `encode_query`.

        Raises:
            InputError: As in `encode_query`, or titles and texts differ in number.
        """
        given = listed(texts)
        own_titles = [None] * len(given) if titles is None else listed(titles, _TITLES)
        if len(own_titles) != len(given):
            raise InputError(
                f"expected a title for each document, got {len(own_titles)} titles for "
                f"{len(given)} documents; give None where there is no title"
            )

        def prepare(part: Sequence[str], first: int) -> Prepared:
            own = own_titles[first : first + len(part)]
            return self.prepare_document(part, titles=own, on_long=on_long, first=first)

        vectors = self._encode(given, prepare, truncate_to, progress, "documents")
        return vectors[0] if isinstance(texts, str) else vectors

    def stream_query(
        self,
        texts: Iterable[str],
        *,
        task: str = "search",
        instruction: str | None = None,
        truncate_to: int | None = None,
        on_long: OnLong = "truncate",
        window: int = WINDOW,
    ) -> Iterator[np.ndarray]:
        """Yield the vectors of queries as they are done, float32 [b, M], in their order.

        For inputs that do not fit into memory: two windows of texts are held. They are taken on
        the thread that asks for vectors, one window ahead.

        Arguments and errors are those of `encode_query`, except that one string is refused, and
        an error in a text is raised when that text is reached. `window` texts are sorted by
        length together and come out together.
        """
        self.prompts.query(task, instruction=instruction)

        def prepare(part: Sequence[Any], first: int) -> Prepared:
            return self.prepare_query(
                part, task=task, instruction=instruction, on_long=on_long, first=first
            )

        return self._stream(texts, prepare, truncate_to, window)

    def stream_document(
        self,
        texts: Iterable[str | tuple[str | None, str]],
        *,
        truncate_to: int | None = None,
        on_long: OnLong = "truncate",
        window: int = WINDOW,
    ) -> Iterator[np.ndarray]:
        """Yield the vectors of documents as they are done, float32 [b, M], in their order.

        `texts` are documents or pairs (title or None, document); the rest is as in
        `stream_query`.
        """

        def prepare(part: Sequence[Any], first: int) -> Prepared:
            pairs = [title_and_text(item, first + i) for i, item in enumerate(part)]
            return self.prepare_document(
                [text for _, text in pairs],
                titles=[title for title, _ in pairs],
                on_long=on_long,
                first=first,
            )

        return self._stream(texts, prepare, truncate_to, window)

    def prepare_query(
        self,
        texts: Sequence[str],
        *,
        task: str = "search",
        instruction: str | None = None,
        on_long: OnLong = "truncate",
        first: int = 0,
    ) -> Prepared:
        """Return tokenized queries for `embed`, which may run on another thread.

        Arguments are those of `encode_query`; `first` is the number of the first text in messages.
        """
        prompt = self.prompts.query(task, instruction=instruction)
        return self._prepare(texts, [prompt] * len(texts), on_long, first, "queries")

    def prepare_document(
        self,
        texts: Sequence[str],
        *,
        titles: Sequence[str | None],
        on_long: OnLong = "truncate",
        first: int = 0,
    ) -> Prepared:
        """Return tokenized documents for `embed`, which may run on another thread.

        Arguments are those of `encode_document`; `first` is the number of the first text in
        messages.
        """
        for i, title in enumerate(titles):
            if not isinstance(title, str | None):
                raise InputError(
                    f"title {first + i} must be a string or None, got {type(title).__name__}"
                )
        prefixes = [self.prompts.document(title) for title in titles]
        return self._prepare(texts, prefixes, on_long, first, "documents")

    def embed(
        self, prepared: Prepared, *, truncate_to: int | None = None, bar: Progress | None = None
    ) -> np.ndarray:
        """Return the unit vectors of prepared texts, float32 [B, M], in their order.

        Args:
            prepared: From `prepare_query` or `prepare_document`.
            truncate_to: A trained width; None means the full one.
            bar: Advanced as texts are done.

        Raises:
            InputError: If that width was not trained.
            CheckpointError: If the weights give a vector that is not of unit length.
        """
        width = self._width(truncate_to)
        keys = [ids.tobytes() for ids in prepared.ids]
        first = dict(zip(keys, prepared.ids, strict=True))  # equal texts are computed once
        place, distinct = {key: row for row, key in enumerate(first)}, list(first.values())
        rows = [place[key] for key in keys]
        counts = np.bincount(rows, minlength=len(first))
        vectors = np.empty((len(distinct), width), dtype=np.float32)
        for index, embedding in self._engine.embed(distinct):
            vectors[index] = embedding if width == self.dim else unit(embedding[:, :width])
            if bar is not None:
                bar.advance(int(counts[index].sum()))
        check_unit(vectors, self.name)
        return vectors if len(distinct) == len(rows) else vectors[rows]

    def similarity(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return the cosine of each row of a with each row of b, float32 [A, B].

        Raises:
            InputError: If the widths differ.
        """
        left, right = (np.atleast_2d(np.asarray(x, dtype=np.float32)) for x in (a, b))
        if left.shape[1] != right.shape[1]:
            raise InputError(
                f"similarity needs vectors of one width, got {left.shape[1]} and {right.shape[1]}; "
                "truncate both sides alike"
            )
        cosines: np.ndarray = unit(left) @ unit(right).T
        return cosines

    def _encode(
        self,
        texts: list[str],
        prepare: Callable[[Sequence[str], int], Prepared],
        truncate_to: int | None,
        progress: bool | None,
        what: str,
    ) -> np.ndarray:
        width = self._width(truncate_to)
        done: list[np.ndarray] = []
        with (
            Progress("embedding", total=len(texts), unit=what, show=progress) as bar,
            closing(windows(texts, prepare, WINDOW, ahead=len(texts) > WINDOW)) as prepared,
        ):
            for tokens in prepared:
                if tokens.note:
                    warnings.warn(tokens.note, UserWarning, stacklevel=3)
                done.append(self.embed(tokens, truncate_to=width, bar=bar))
        return np.concatenate(done) if done else np.empty((0, width), dtype=np.float32)

    def _stream(
        self,
        texts: Iterable[Any],
        prepare: Callable[[Sequence[Any], int], Prepared],
        truncate_to: int | None,
        window: int,
    ) -> Iterator[np.ndarray]:
        """Return the vectors of windows; wrong arguments are refused at once."""
        width = self._width(truncate_to)
        prepared = windows(several(texts), prepare, check_window(window))

        def vectors() -> Iterator[np.ndarray]:
            with closing(prepared):
                for tokens in prepared:
                    if tokens.note:
                        warnings.warn(tokens.note, UserWarning, stacklevel=2)
                    yield self.embed(tokens, truncate_to=width)

        return vectors()

    def _prepare(
        self, texts: Sequence[str], prefixes: Sequence[str], on_long: OnLong, first: int, what: str
    ) -> Prepared:
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"text {first + i} must be a string, got {type(text).__name__}")
        prompted = [prefix + text for prefix, text in zip(prefixes, texts, strict=True)]
        tokenized = self._tokenizer.encode(
            prompted, on_long=on_long, first=first, prompt_chars=list(map(len, prefixes))
        )
        note = None
        if tokenized.overlong:
            longest = max(length for _, length in tokenized.overlong)
            note = (
                f"{len(tokenized.overlong)} of {len(texts)} {what} are longer than "
                f"{self.max_length} tokens and were cut (the first is number "
                f"{tokenized.overlong[0][0]}, the longest has {longest} tokens); split them, or "
                "pass on_long='error' to be stopped"
            )
        return Prepared(tokenized.ids, note)

    def _width(self, truncate_to: int | None) -> int:
        width = self.dim if truncate_to is None else truncate_to
        check_width(width, self.widths)
        return width
