"""Packed batches: the tokens of many texts in one row, without padding.

Texts are laid down in order of length, so that texts of equal length stand side by side and
attention can see each such run as a plain [texts, length] rectangle: no padding, no mask,
no gather. `order` puts the results back into the order of the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from culet.errors import InputError


@dataclass(frozen=True)
class TokenBatch:
    """The tokens of B texts, packed.

    Attributes:
        ids: Token ids of all texts, one after another, shortest text first.
        positions: Place of each token in its own text, from 0.
        lengths: Tokens of each text, in packed order.
        runs: (length, number of texts) for each run of texts of equal length.
        order: For each text of the caller, its place in the packed order.
    """

    ids: Int[Tensor, " N"]
    positions: Int[Tensor, " N"]
    lengths: Int[Tensor, " B"]
    runs: tuple[tuple[int, int], ...]
    order: Int[Tensor, " B"]

    @property
    def num_texts(self) -> int:
        """Return B."""
        return int(self.lengths.numel())

    @property
    def num_tokens(self) -> int:
        """Return N."""
        return int(self.ids.numel())

    def to(self, device: torch.device | str) -> TokenBatch:
        """Return the batch on another device."""
        return TokenBatch(
            ids=self.ids.to(device),
            positions=self.positions.to(device),
            lengths=self.lengths.to(device),
            runs=self.runs,
            order=self.order.to(device),
        )


def pack(texts: Sequence[np.ndarray | Sequence[int]]) -> TokenBatch:
    """Return the packed batch of tokenized texts.

    Args:
        texts: Token ids of each text; at least one text, and no text without tokens.

    Raises:
        InputError: If there is no text, or a text has no token.
    """
    if not texts:
        raise InputError("pack needs at least one text, got none")
    lengths = np.fromiter((len(text) for text in texts), dtype=np.int64, count=len(texts))
    if lengths.min() == 0:
        empty = int(lengths.argmin())
        raise InputError(
            f"text {empty} has no tokens; even an empty string has BOS and EOS after tokenizing"
        )
    by_length = np.argsort(lengths, kind="stable")
    order = np.empty_like(by_length)
    order[by_length] = np.arange(len(texts))
    sorted_lengths = lengths[by_length]
    ids = np.concatenate([np.asarray(texts[i], dtype=np.int64) for i in by_length])
    starts = np.concatenate([[0], np.cumsum(sorted_lengths)[:-1]])
    positions = np.arange(len(ids)) - np.repeat(starts, sorted_lengths)
    values, counts = np.unique(sorted_lengths, return_counts=True)
    return TokenBatch(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions),
        lengths=torch.from_numpy(sorted_lengths),
        runs=tuple((int(v), int(c)) for v, c in zip(values, counts, strict=True)),
        order=torch.from_numpy(order),
    )
