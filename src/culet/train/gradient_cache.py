"""Gradient caching: a batch of any size in fixed memory, with the gradients of one pass.

GradCache (arXiv 2101.06983): embed all chunks without a graph, take the loss and its gradient with
respect to the embeddings, then embed each chunk again, with the same random numbers, and send that
gradient back through it. Chunks that fit in `keep_tokens` keep their graph from the first pass and
are not embedded twice, so the plain pass is the same code with one kept chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from culet.model.batch import TokenBatch, pack, split_by_length
from culet.model.embedding_model import EmbeddingModel
from culet.train.processes import current


@dataclass(frozen=True)
class Towers:
    """The models that turn texts into vectors: one for all texts, or one for each role.

    Attributes:
        embed: Returns the vectors [B, E] of packed texts that the tower of a number reads.
        dim: E.
        widths: The Matryoshka prefixes that the models are made for.
        device: Where they compute.
        number: How many there are.
    """

    embed: Callable[[TokenBatch, int], Tensor]
    dim: int
    widths: tuple[int, ...]
    device: torch.device
    number: int = 1


def one_tower(model: EmbeddingModel, *, compute_dtype: torch.dtype = torch.float32) -> Towers:
    """Return a model that reads queries and documents alike.

    Args:
        model: The model.
        compute_dtype: Dtype of activations and matrix products.
    """
    return Towers(
        lambda texts, tower: model(texts, compute_dtype=compute_dtype),
        dim=model.config.embedding_dim,
        widths=model.config.widths,
        device=model.up.weight.device,
    )


@dataclass(frozen=True)
class Chunking:
    """How a batch is cut for memory; none of it changes the result.

    Attributes:
        chunk_tokens: Tokens of one forward and backward pass.
        keep_tokens: Tokens whose graph is kept between the passes instead of computed twice.
    """

    chunk_tokens: int = 4096
    keep_tokens: int = 16384


@dataclass(frozen=True)
class _Chunk:
    """Texts that are embedded together.

    Attributes:
        index: Which texts.
        tower: The tower that reads them.
        keep: Keep the graph of the first pass.
    """

    index: np.ndarray
    tower: int
    keep: bool


class GradientCache:
    """The texts of one step, embedded in chunks.

    Args:
        towers: What embeds them.
        texts: Token ids of each text; may be none.
        tower: The number of the tower that reads each text; empty where there is one.
        chunking: How they are cut.
    """

    def __init__(
        self, towers: Towers, texts: Sequence[np.ndarray], tower: np.ndarray, chunking: Chunking
    ) -> None:
        self._towers = towers
        self._count = len(texts)
        chunks = _chunks(texts, tower, towers.number, chunking)
        self._texts, self._chunks = _same_passes(texts, chunks, towers.number)
        self._kept: list[tuple[_Chunk, Tensor]] = []
        self._replay: list[tuple[_Chunk, TokenBatch, _RandomState]] = []

    def embed(self) -> Float[Tensor, "T E"]:
        """Return the vectors of all texts, without a graph."""
        device, pieces = self._towers.device, []
        for chunk in self._chunks:
            packed = pack([self._texts[i] for i in chunk.index]).to(device)
            if chunk.keep:
                piece = self._towers.embed(packed, chunk.tower)
                self._kept.append((chunk, piece))
            else:
                self._replay.append((chunk, packed, _random_state(device)))
                with torch.no_grad():
                    piece = self._towers.embed(packed, chunk.tower)
            pieces.append(piece.detach())
        embedding = torch.zeros(len(self._texts), self._towers.dim, device=device)
        if pieces:
            order = np.concatenate([chunk.index for chunk in self._chunks])
            embedding[torch.from_numpy(order).to(device)] = torch.cat(pieces)
        return embedding[: self._count]

    def send_back(self, gradient: Float[Tensor, "T E"]) -> None:
        """Add the gradients of the parameters, given that of the vectors; can be done once."""
        device = self._towers.device
        padded = gradient.new_zeros(len(self._texts), self._towers.dim)
        padded[: self._count] = gradient
        for chunk, piece in self._kept:
            piece.backward(padded[torch.from_numpy(chunk.index).to(device)])  # type: ignore[no-untyped-call]
        self._kept.clear()
        for chunk, packed, state in self._replay:
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                _set_random_state(state, device)
                piece = self._towers.embed(packed, chunk.tower)
            piece.backward(padded[torch.from_numpy(chunk.index).to(device)])  # type: ignore[no-untyped-call]


def _chunks(
    texts: Sequence[np.ndarray], tower: np.ndarray, number: int, chunking: Chunking
) -> list[_Chunk]:
    """Return chunks of similar length under the token budgets, one tower after the other.

    Of each tower the longest texts come first. The last chunks are kept.
    """
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    readers = tower if len(tower) else np.zeros(len(texts), dtype=np.int64)
    groups = []
    for reader in range(number):
        own = np.flatnonzero(readers == reader)
        found = split_by_length(lengths[own].tolist(), chunking.chunk_tokens, first="longest")
        groups += [(own[group], reader) for group in found]
    chunks, kept_tokens = [], 0
    for index, reader in reversed(groups):
        kept_tokens += int(lengths[index].sum())
        chunks.append(_Chunk(index, reader, kept_tokens <= chunking.keep_tokens))
    return chunks[::-1]


def _same_passes(
    texts: Sequence[np.ndarray], chunks: list[_Chunk], number: int
) -> tuple[list[np.ndarray], list[_Chunk]]:
    """Return texts and chunks such that all processes make the same passes in the same order.

    One with fewer chunks gets chunks of one more text, which no pair asks for; see
    `World.missing_passes`.
    """
    world, texts = current(), list(texts)
    if not world.sharded:
        return texts, chunks
    filled = []
    for tower in range(number):
        own = [chunk for chunk in chunks if chunk.tower == tower]
        for _ in range(world.missing_passes(len(own))):
            own.append(_Chunk(np.array([len(texts)]), tower, keep=True))
            texts.append(np.array([1, 2]))
        filled += own
    replayed = world.max(sum(not chunk.keep for chunk in filled))
    return texts, [replace(chunk, keep=i >= replayed) for i, chunk in enumerate(filled)]


_RandomState = tuple[Tensor, Tensor | None]


def _random_state(device: torch.device) -> _RandomState:
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), cuda


def _set_random_state(state: _RandomState, device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
