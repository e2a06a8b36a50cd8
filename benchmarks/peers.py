"""Other engines on the same checkpoint and token ids: each if it is installed, each at its best.

A peer that is not installed is left out with a line that says how to install it; so is one whose
vectors are not the model's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from culet.checkpoints.embedding import read_embedding_model

Run = Callable[[Sequence[np.ndarray]], np.ndarray]

BUDGETS = (1, 512, 1024, 2048)  # tokens of a batch that are tried; 1 is a text at a time
LONGEST = 2048
MOST_TEXTS = 64  # of a batch
RIGHT = 0.999  # mean cosine to float32 below which a comparison would mean nothing


class Peer:
    """An engine and the size of batches it is fastest with.

    Args:
        name: What runs it, and at which precision.
        run: Token ids of one batch to unit vectors.
        padded: Whether a batch costs what its longest text does times its texts.
    """

    def __init__(self, name: str, run: Run, *, padded: bool) -> None:
        self.name, self._run, self._padded = name, run, padded
        self._budget = BUDGETS[0]

    @property
    def label(self) -> str:
        """Return the name with the size of its batches."""
        size = "a text at a time" if self._budget == 1 else f"batches of {self._budget} tokens"
        return f"{self.name}, {size}"

    def embed(self, texts: Sequence[np.ndarray]) -> np.ndarray:
        """Return the unit vectors of texts as token ids, float32 [B, E], sorted by length inside.

        Raises:
            RuntimeError: If the engine stops.
        """
        batches = list(self._batches([len(text) for text in texts]))
        vectors = np.concatenate([self._run([texts[i] for i in batch]) for batch in batches])
        ordered = np.empty_like(vectors)
        ordered[np.concatenate(batches)] = vectors
        return ordered

    def choose(self, texts: Sequence[np.ndarray]) -> np.ndarray:
        """Take the fastest size of batches on these texts, and return their vectors."""
        taken = {}
        for budget in BUDGETS:
            self._budget = budget
            self.embed(texts[:1])
            began = time.process_time()  # what else runs here must not choose
            vectors = self.embed(texts)
            taken[budget] = time.process_time() - began
        self._budget = min(taken, key=lambda budget: taken[budget])
        return vectors

    def _batches(self, lengths: Sequence[int]) -> Iterator[np.ndarray]:
        order = np.argsort(-np.asarray(lengths), kind="stable")
        first = tokens = 0
        for place, index in enumerate(order):
            cost = lengths[order[first]] if self._padded else lengths[index]
            full = tokens + cost > self._budget or place - first == MOST_TEXTS
            if place > first and full:
                yield order[first:place]
                first, tokens, cost = place, 0, lengths[index]
            tokens += cost
        yield order[first:]


def at_hand(
    folder: Path, *, work: Path, threads: int, texts: Sequence[np.ndarray], exact: np.ndarray
) -> list[Peer]:
    """Return the peers that are installed and right, each with its best size of batches.

    Args:
        folder: The checkpoint.
        work: Where files that peers need are written, and found again.
        threads: Threads of each.
        texts: Token ids to try them with.
        exact: The vectors of these texts in float32.
    """
    found = []
    for name, (build, padded, install) in _KNOWN.items():
        try:
            peer = Peer(name, build(folder, work, threads), padded=padded)
        except ImportError as error:
            _say(f"{name} is left out ({error}); to have it: {install}")
            continue
        except ValueError as error:
            _say(f"{name} is left out: {error}")
            continue
        cosine = float((peer.choose(texts) * exact).sum(1).mean())
        if cosine < RIGHT:
            _say(f"{name} is left out: its mean cosine to float32 is {cosine:.5f}, below {RIGHT}")
            continue
        found.append(peer)
    return found


def _llama(folder: Path, work: Path, threads: int) -> Run:
    from peer_llama import LlamaCpp, write_gguf

    path = work / f"{read_embedding_model(folder).fingerprint}-q8_0.gguf"
    if not path.exists():
        aside = path.with_suffix(".part")
        write_gguf(folder, aside)
        aside.rename(path)
    return LlamaCpp(path, threads=threads, tokens=LONGEST)


def _onnx(folder: Path, _: Path, threads: int, *, bits: int) -> Run:
    from peer_onnx import OnnxRuntime

    return OnnxRuntime(folder, threads=threads, bits=bits)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


_ONNX_INSTALL = "pip install 'culet[bench]'"
_KNOWN: dict[str, tuple[Callable[[Path, Path, int], Run], bool, str]] = {
    "llama.cpp Q8_0": (
        _llama,
        False,
        "pip install gguf llama-cpp-python (compiles llama.cpp for this CPU: gcc, cmake, minutes)",
    ),
    "ONNX Runtime float32": (
        lambda folder, work, threads: _onnx(folder, work, threads, bits=32),
        True,
        _ONNX_INSTALL,
    ),
    "ONNX Runtime 8-bit": (
        lambda folder, work, threads: _onnx(folder, work, threads, bits=8),
        True,
        _ONNX_INSTALL,
    ),
}
