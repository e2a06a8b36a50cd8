"""Packed batches: the tokens of many texts in one row, without padding.

Texts are packed in order of length, so that texts of equal length are adjacent and attention
can treat each such run as a plain [texts, length] rectangle: no padding, no mask,
no gather. `order` puts the results back into the order of the caller.

Pairs of source and target are packed likewise, each side in order of its own length and then of
the other's, so that pairs of equal (source length, target length) are adjacent in both.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int32
from torch import Tensor

from culet.errors import InputError

BOS = 2  # the same in every Gemma tokenizer


@dataclass(frozen=True)
class TokenBatch:
    """The tokens of B texts, packed.

    Attributes:
        ids: Token ids of all texts, one after another, shortest text first.
        positions: Position of each token in its own text, from 0.
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

    @functools.cached_property
    def boundaries(self) -> Int32[Tensor, " ends"]:
        """Offset of each text, and the end of the last: B + 1 values."""
        return F.pad(self.lengths.cumsum(0), (1, 0)).to(torch.int32)

    def places(self, texts: Int[Tensor, " S"], positions: Int[Tensor, " S"]) -> Int[Tensor, " S"]:
        """Return the indices of tokens in the packed batch.

        Args:
            texts: The text of each token, in the caller's numbering.
            positions: Its position in that text, from 0.
        """
        return self.boundaries[self.order[texts]] + positions

    def to(self, device: torch.device | str) -> TokenBatch:
        """Return the batch on another device."""
        return TokenBatch(
            ids=self.ids.to(device),
            positions=self.positions.to(device),
            lengths=self.lengths.to(device),
            runs=self.runs,
            order=self.order.to(device),
        )


@dataclass(frozen=True)
class TokenVectors:
    """Vectors that stand in for the embedding of some tokens of a packed batch.

    Attributes:
        places: Indices of the tokens (`TokenBatch.places`), without duplicates.
        vectors: Like rows of the token table, before the factor √D. Gradients pass through.
    """

    places: Int[Tensor, " S"]
    vectors: Float[Tensor, "S D"]

    def to(self, device: torch.device | str) -> TokenVectors:
        """Return them on another device."""
        return TokenVectors(self.places.to(device), self.vectors.to(device))


@dataclass(frozen=True)
class PairRun:
    """Adjacent pairs of the same lengths.

    Attributes:
        source_length: Tokens of each source.
        target_length: Tokens of each target.
        count: Number of pairs.
    """

    source_length: int
    target_length: int
    count: int


@dataclass(frozen=True)
class Seq2SeqBatch:
    """B pairs of a source, which the encoder reads, and a target, which the decoder predicts.

    Attributes:
        source: What the encoder reads.
        target: What the decoder reads: BOS, then each target but its last token.
        labels: What each token of `target` should predict, in the packed order of `target`:
            the target itself; see `culet.losses.tokens.IGNORED`.
        runs: The pairs in the packed order of `target`, as rectangles.
    """

    source: TokenBatch
    target: TokenBatch
    labels: Int[Tensor, " T"]
    runs: tuple[PairRun, ...]

    @property
    def num_pairs(self) -> int:
        """Return B."""
        return self.source.num_texts

    @property
    def num_tokens(self) -> int:
        """Return the tokens of both sides."""
        return self.source.num_tokens + self.target.num_tokens

    def split_target(self, x: Tensor) -> list[Tensor]:
        """Return packed target states in pieces, one per run."""
        return list(torch.split(x, [run.target_length * run.count for run in self.runs]))

    def split_source(self, x: Tensor) -> list[Tensor]:
        """Return packed source states in pieces, one per run, in the order of the runs."""
        lengths = [(run.source_length, run.target_length) for run in self.runs]
        by_source = sorted(range(len(lengths)), key=lengths.__getitem__)
        tokens = [self.runs[i].source_length * self.runs[i].count for i in by_source]
        pieces = dict(zip(by_source, torch.split(x, tokens), strict=True))
        return [pieces[i] for i in range(len(lengths))]

    def to(self, device: torch.device | str) -> Seq2SeqBatch:
        """Return the batch on another device."""
        return Seq2SeqBatch(
            source=self.source.to(device),
            target=self.target.to(device),
            labels=self.labels.to(device),
            runs=self.runs,
        )


Texts = Sequence[np.ndarray | Sequence[int]]


def pack(texts: Texts) -> TokenBatch:
    """Return the packed batch of tokenized texts.

    Args:
        texts: Token ids of each text; at least one text, and no text without tokens.

    Raises:
        InputError: If there is no text, or a text has no token.
    """
    lengths = _lengths(texts)
    return _lay_down(texts, lengths, np.argsort(lengths, kind="stable"))


def pack_pairs(
    sources: Texts, targets: Texts, *, bos: int = BOS, labels: Texts | None = None
) -> Seq2SeqBatch:
    """Return the packed batch of pairs.

    Args:
        sources: Token ids of each source.
        targets: Token ids of each target, usually with EOS at its end and no BOS: the decoder
            reads `bos` and all of them but the last, and predicts all of them.
        bos: The first token that the decoder reads.
        labels: What to predict, if not the targets: rows of the same lengths, with
            `culet.losses.tokens.IGNORED` at positions that do not count.

    Raises:
        InputError: If there is no pair, the numbers differ, or a text has no token.
    """
    wanted = targets if labels is None else labels
    source_lengths, target_lengths = _lengths(sources), _lengths(targets)
    if len(sources) != len(targets) or [len(w) for w in wanted] != target_lengths.tolist():
        raise InputError(
            "each source needs one target, and labels as long as it; got "
            f"{len(sources)} sources, {len(targets)} targets and {len(wanted)} rows of labels"
        )
    # lexsort is stable, and its last key counts first: both sides keep pairs of equal lengths
    # in the order of the caller
    by_source = np.lexsort((target_lengths, source_lengths))
    by_target = np.lexsort((source_lengths, target_lengths))
    shifted = [np.array([bos, *target[:-1]], dtype=np.int64) for target in targets]
    rows = np.stack([source_lengths, target_lengths], axis=1)[by_target]
    starts = np.flatnonzero(np.any(np.diff(rows, axis=0, prepend=-1) != 0, axis=1))
    counts = np.diff(starts, append=len(rows))
    return Seq2SeqBatch(
        source=_lay_down(sources, source_lengths, by_source),
        target=_lay_down(shifted, target_lengths, by_target),
        labels=torch.from_numpy(_joined(wanted, by_target)),
        runs=tuple(
            PairRun(int(rows[start, 0]), int(rows[start, 1]), int(count))
            for start, count in zip(starts, counts, strict=True)
        ),
    )


def split_by_length(
    lengths: Sequence[int], budget: int, *, first: Literal["longest", "shortest"]
) -> list[np.ndarray]:
    """Return indices of texts, grouped by similar length with at most `budget` tokens per group.

    A text that is longer than the budget forms its own group.
    """
    counts = np.asarray(lengths, dtype=np.int64)
    groups: list[list[int]] = []
    filled = 0
    for i in np.argsort(-counts if first == "longest" else counts, kind="stable"):
        if not groups or filled + counts[i] > budget:
            groups.append([])
            filled = 0
        groups[-1].append(int(i))
        filled += int(counts[i])
    return [np.array(group) for group in groups]


def _lengths(texts: Texts) -> np.ndarray:
    """Return the number of tokens of each text; raise InputError if there are none."""
    if not len(texts):
        raise InputError("pack needs at least one text, got none")
    lengths = np.fromiter((len(text) for text in texts), dtype=np.int64, count=len(texts))
    if lengths.min() == 0:
        empty = int(lengths.argmin())
        raise InputError(
            f"text {empty} has no tokens; even an empty string has BOS and EOS after tokenizing"
        )
    return lengths


def _joined(texts: Texts, order: np.ndarray) -> np.ndarray:
    return np.concatenate([np.asarray(texts[i], dtype=np.int64) for i in order])


def _lay_down(texts: Texts, lengths: np.ndarray, by_length: np.ndarray) -> TokenBatch:
    """Return the texts packed in the given order, which sorts them by length."""
    order = np.empty_like(by_length)
    order[by_length] = np.arange(len(texts))
    sorted_lengths = lengths[by_length]
    ids = _joined(texts, by_length)
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
