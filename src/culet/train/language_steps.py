"""The steps of language-model training: pairs for an encoder-decoder, windows for one stack.

A batch is cut into parts of similar lengths to save memory; each part is weighted by its number of
labels, so the gradients are those of the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from culet.data.batches.windows import TokenPairs, TokenWindows
from culet.losses.tokens import IGNORED, Teacher, TokenLoss, token_loss
from culet.model.batch import Seq2SeqBatch, TokenBatch, pack, pack_pairs, split_by_length
from culet.model.decoder import Decoder
from culet.model.encoder import Encoder
from culet.model.encoder_decoder import EncoderDecoder
from culet.train.processes import current


@dataclass(frozen=True)
class StepConfig:
    """How a step computes a batch.

    Attributes:
        chunk_tokens: Tokens, of both sides, that are in the model at a time.
        compute_dtype: Dtype of activations.
        distill: Share of the teacher's distribution in the target of a real token.
        candidates: Words in the softmax besides those of the labels; 0 takes all words.
    """

    chunk_tokens: int = 16_384
    compute_dtype: torch.dtype = torch.float32
    distill: float = 0.5
    candidates: int = 0


def head_table(decoder: Decoder) -> Float[Tensor, "V D"]:
    """Return the matrix that turns a decoder's states into logits."""
    table: Tensor = decoder.stack.embed if decoder.head.own is None else decoder.head.own.weight
    return table


def pairs_step(
    model: EncoderDecoder,
    batch: TokenPairs,
    config: StepConfig,
    *,
    bos: int,
    teacher: Decoder | None = None,
) -> dict[str, float]:
    """Add the gradients of a batch of pairs and return its loss parts.

    Args:
        model: The encoder-decoder.
        batch: The pairs, with windows and places if there is a teacher.
        config: See `StepConfig`.
        bos: The first token that the decoder reads.
        teacher: A decoder that reads each window from its start and predicts the tokens that are
            masked in the pair; sentinels and EOS are not predicted by it.
    """
    device = next(model.parameters()).device
    lengths = [len(s) + len(t) for s, t in zip(batch.sources, batch.targets, strict=True)]
    sums = _Sums(batch.num_labels)
    parts = split_by_length(lengths, config.chunk_tokens, first="shortest")
    missing = current().missing_passes(len(parts))
    for part in parts:
        sources = [batch.sources[i] for i in part]
        packed = pack_pairs(sources, [batch.targets[i] for i in part], bos=bos).to(device)
        hidden = model(packed, compute_dtype=config.compute_dtype)
        states = None
        if teacher is not None:
            windows = [batch.windows[i] for i in part]
            places = [batch.places[i] for i in part]
            states = _teacher_states(teacher, windows, places, packed, config)
        head = model.decoder
        loss = token_loss(
            hidden,
            head_table(head),
            packed.labels,
            softcap=head.head.softcap,
            teacher=states,
            candidates=config.candidates,
        )
        sums.add(loss)
    for _ in range(missing):
        packed = pack_pairs([np.array([bos])], [np.array([bos])], bos=bos).to(device)
        _send_zeros_back(model(packed, compute_dtype=config.compute_dtype))
    return sums.means()


def windows_step(
    stack: Encoder,
    table: Float[Tensor, "V D"],
    batch: TokenWindows,
    config: StepConfig,
    *,
    softcap: float | None = None,
) -> dict[str, float]:
    """Add the gradients of a batch for one stack, causal or not, and return its loss parts.

    Args:
        stack: Token ids to states.
        table: States to logits.
        batch: Texts and the labels of their tokens.
        config: See `StepConfig`.
        softcap: Cap on logits.
    """
    device = table.device
    counts = [int((labels != IGNORED).sum()) for labels in batch.labels]
    sums = _Sums(sum(counts))
    lengths = [len(text) for text in batch.texts]
    parts = split_by_length(lengths, config.chunk_tokens, first="shortest")
    missing = current().missing_passes(len(parts))
    for part in parts:
        packed = pack([batch.texts[i] for i in part])
        labels = np.empty(packed.num_tokens, dtype=np.int64)
        for i, start in zip(part, _starts(packed), strict=True):
            labels[start : start + len(batch.labels[i])] = batch.labels[i]
        hidden = stack(packed.to(device), compute_dtype=config.compute_dtype).hidden
        loss = token_loss(
            hidden,
            table,
            torch.from_numpy(labels).to(device),
            softcap=softcap,
            candidates=config.candidates,
        )
        sums.add(loss)
    for _ in range(missing):
        packed = pack([np.array([1, 2])]).to(device)
        _send_zeros_back(stack(packed, compute_dtype=config.compute_dtype).hidden)
    return sums.means()


class _Sums:
    """Adds up the losses of parts of a batch; each part's gradient is computed at once.

    Several processes share a batch: each adds the gradients of its own part, and their sum, like
    the loss parts here, is that of one process with the whole batch.
    """

    def __init__(self, count: int) -> None:
        self._world = current()
        self._count = max(1, *self._world.sums([count]))
        self._parts: list[Tensor] = []

    def add(self, loss: TokenLoss) -> None:
        share = loss.count / self._count
        if loss.total.requires_grad:
            (loss.total * share).backward()  # type: ignore[no-untyped-call]
        parts = torch.stack([loss.total.detach(), loss.cross_entropy, loss.accuracy])
        self._parts.append(parts * share)

    def means(self) -> dict[str, float]:
        own = torch.stack(self._parts).sum(0) if self._parts else torch.zeros(3)
        total, hard, accuracy = self._world.totals(own).tolist()
        return {"loss": total, "cross_entropy": hard, "accuracy": accuracy}


def _send_zeros_back(hidden: Tensor) -> None:
    hidden.backward(torch.zeros_like(hidden))  # type: ignore[no-untyped-call]


def _starts(packed: TokenBatch) -> np.ndarray:
    """Return where each text of the caller begins in the packed row."""
    lengths = packed.lengths.cpu().numpy()
    starts: np.ndarray = (np.cumsum(lengths) - lengths)[packed.order.cpu().numpy()]
    return starts


def _teacher_states(
    teacher: Decoder,
    windows: Sequence[np.ndarray],
    places: Sequence[np.ndarray],
    packed: Seq2SeqBatch,
    config: StepConfig,
) -> Teacher | None:
    """Return the teacher's states for the real tokens among the targets."""
    taught = [i for i, place in enumerate(places) if (place >= 0).any()]
    if not taught:
        return None
    read = pack([windows[i] for i in taught])
    device = packed.labels.device
    with torch.no_grad():
        hidden = teacher(read.to(device), compute_dtype=config.compute_dtype)
    target_starts = _starts(packed.target)
    rows, states = [], []
    for i, start in zip(taught, _starts(read), strict=True):
        real = np.flatnonzero(places[i] >= 0)
        rows.append(target_starts[i] + real)
        states.append(start + places[i][real])
    return Teacher(
        hidden=hidden[torch.from_numpy(np.concatenate(states)).to(device)],
        table=head_table(teacher).detach(),
        rows=torch.from_numpy(np.concatenate(rows)).to(device),
        softcap=teacher.head.softcap,
        weight=config.distill,
    )
