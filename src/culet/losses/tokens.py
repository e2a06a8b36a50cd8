"""The cross-entropy of a large vocabulary in little memory.

With Gemma's 262,144 words the logits of a thousand tokens are a gigabyte, and autograd would keep
them and their softmax. Here they exist for a few rows at a time: the loss and gradients of those
rows are computed together, and only the gradients of the states and of the table are kept, which
are needed anyway. The cost is that of the plain loss; nothing is computed twice.

Where that cost is too high, as for a small model with many words, the softmax can be taken over
some of them (`Candidates`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

IGNORED = -100  # a label that does not count

_LOGITS_AT_ONCE = 1 << 25  # 128 MiB of float32


@dataclass(frozen=True)
class Teacher:
    """Another model's states for the same tokens.

    Attributes:
        hidden: Its states for some of the labels, in their order.
        table: Its head, words by width.
        rows: The places of those labels.
        softcap: Its cap on logits.
        weight: Share of its distribution in the target of those labels, from 0 to 1.
    """

    hidden: Float[Tensor, "K T"]
    table: Float[Tensor, "V T"]
    rows: Int[Tensor, " K"]
    softcap: float | None = None
    weight: float = 0.5


@dataclass(frozen=True)
class TokenLoss:
    """The loss of some tokens, and what the log records of it.

    Attributes:
        total: What is minimised: the mean over the labels that count.
        cross_entropy: The part against the labels themselves, in nats, without gradient.
        accuracy: Share of the labels that the model gives the highest score.
        count: How many labels count.
    """

    total: Float[Tensor, ""]
    cross_entropy: Float[Tensor, ""]
    accuracy: Float[Tensor, ""]
    count: int


@dataclass(frozen=True)
class Candidates:
    """Some words of a vocabulary, in place of all in a softmax.

    The labels of the batch are all among them; a uniform sample stands for the other words, each
    drawn one weighted by the number of words it stands for. Given the labels, the sum that the
    softmax divides by is then unbiased (importance sampling as in Bengio and Senécal 2008; the
    loss, its logarithm, is a little too low).

    Attributes:
        ids: The words.
        log_weights: Logarithm of the number of words each stands for.
        labels: The labels as indices into the words.
    """

    ids: Int[Tensor, " C"]
    log_weights: Float[Tensor, " C"]
    labels: Int[Tensor, " N"]


def draw_candidates(labels: Int[Tensor, " N"], *, vocab_size: int, drawn: int) -> Candidates:
    """Return the labels' words and `drawn` others, by PyTorch's random numbers for the CPU."""
    own, places = torch.unique(labels, return_inverse=True)
    other = torch.ones(vocab_size, dtype=torch.bool)
    other[own.cpu()] = False
    others = other.nonzero().squeeze(1)
    some = others[torch.randperm(len(others))[:drawn]]
    log_weights = torch.zeros(len(own) + len(some))
    if len(some):
        log_weights[len(own) :] = math.log(len(others) / len(some))
    ids = torch.cat([own, some.to(own.device)])
    return Candidates(ids, log_weights.to(own.device), places)


def token_loss(
    hidden: Float[Tensor, "N D"],
    table: Float[Tensor, "V D"],
    labels: Int[Tensor, " N"],
    *,
    softcap: float | None = None,
    teacher: Teacher | None = None,
    rows_at_once: int = 0,
    candidates: int = 0,
) -> TokenLoss:
    """Return the mean cross-entropy of labels given states, in float32.

    With a teacher the target of its rows is weight · teacher + (1 − weight) · label, as in
    UL2 with distillation (arXiv 2512.14856, section 4): a row without a teacher, such as that of
    a sentinel, keeps its label.

    Args:
        hidden: States, one a label.
        table: The head; its gradient has its own dtype.
        labels: Token ids, `IGNORED` where nothing counts.
        softcap: cap · tanh(logits / cap), if any.
        teacher: See `Teacher`.
        rows_at_once: Labels whose logits exist at a time; by default those of 128 MiB.
        candidates: Words drawn besides those of the labels to stand for the rest of the
            vocabulary; 0 takes all. Accuracy is then among fewer words. Not with a teacher.
    """
    counted = labels != IGNORED
    count = int(counted.sum())
    at_once = rows_at_once or max(8, _LOGITS_AT_ONCE // table.shape[0])
    if teacher is not None:
        place = torch.cumsum(counted, 0) - 1  # of a label among those that count
        keep = counted[teacher.rows]
        teacher = Teacher(
            teacher.hidden[keep],
            teacher.table,
            place[teacher.rows[keep]],
            teacher.softcap,
            teacher.weight,
        )
    right, log_weights = labels[counted], None
    if candidates:
        assert teacher is None, "a teacher's distribution is over all words"
        some = draw_candidates(right, vocab_size=table.shape[0], drawn=candidates)
        table, right, log_weights = F.embedding(some.ids, table), some.labels, some.log_weights
    total, hard, hits = _ChunkedLoss.apply(  # type: ignore[no-untyped-call]
        hidden[counted], table, right, softcap, log_weights, teacher, at_once
    )
    return TokenLoss(total, hard, hits, count)


class _ChunkedLoss(torch.autograd.Function):
    """Loss and gradients, a few rows at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        table: Tensor,
        labels: Tensor,
        softcap: float | None,
        log_weights: Tensor | None,
        teacher: Teacher | None,
        at_once: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        count = max(1, len(labels))
        wants_hidden, wants_table = ctx.needs_input_grad[:2]
        grad_hidden = torch.zeros_like(hidden) if wants_hidden else None
        grad_table = torch.zeros_like(table, dtype=torch.float32) if wants_table else None
        cast = table.to(hidden.dtype)
        sums = torch.zeros(3, dtype=torch.float32, device=hidden.device)
        for start in range(0, len(labels), at_once):
            rows = slice(start, min(start + at_once, len(labels)))
            own, right = hidden[rows], labels[rows]
            logits, bent = _capped(F.linear(own, cast).float(), softcap)
            hits = (logits.gather(1, right[:, None]).squeeze(1) >= logits.amax(1)).sum()
            if log_weights is not None:
                logits += log_weights
            logits = logits.log_softmax(1)
            hard = -logits.gather(1, right[:, None]).squeeze(1)
            target = _blended(teacher, rows, right, logits.shape, cast.dtype)
            if target is None:
                soft = hard.sum()
            else:
                mixed, weight = target
                soft = ((1 - weight) * hard).sum() - (mixed * logits).sum()
            sums += torch.stack([soft, hard.sum(), hits.float()])
            if not (wants_hidden or wants_table):
                continue
            grad = logits.exp_()
            ones = torch.ones_like(hard) if target is None else 1 - target[1]
            grad.scatter_add_(1, right[:, None], -ones[:, None])
            if target is not None:
                grad -= target[0]
            if bent is not None:
                grad = torch.ops.aten.tanh_backward(grad, bent)  # the slope of the cap, in one go
            grad = grad.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = (grad @ cast).div_(count)
            if grad_table is not None and grad_table.dtype == hidden.dtype:
                grad_table.addmm_(grad.T, own / count)
            elif grad_table is not None:
                grad_table += grad.T @ (own / count)
        ctx.save_for_backward(grad_hidden, grad_table)
        ctx.table_dtype = table.dtype
        means = sums / count
        parts = means[0], means[1], means[2]
        ctx.mark_non_differentiable(*parts[1:])
        return parts

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_table = ctx.saved_tensors
        scale = grads[0]
        return (
            None if grad_hidden is None else grad_hidden * scale.to(grad_hidden.dtype),
            None if grad_table is None else (grad_table * scale).to(ctx.table_dtype),
            None,
            None,
            None,
            None,
            None,
        )


def _capped(logits: Tensor, softcap: float | None) -> tuple[Tensor, Tensor | None]:
    """Return capped logits, and tanh(logits / cap), of which the gradient is made."""
    if softcap is None:
        return logits, None
    bent = logits.div_(softcap).tanh_()
    return bent * softcap, bent


def _blended(
    teacher: Teacher | None, rows: slice, labels: Tensor, shape: torch.Size, dtype: torch.dtype
) -> tuple[Tensor, Tensor] | None:
    """Return weight · teacher distribution [rows, V] and each row's weight, 0 without a teacher."""
    if teacher is None:
        return None
    mine = (teacher.rows >= rows.start) & (teacher.rows < rows.stop)
    places = teacher.rows[mine] - rows.start
    logits = F.linear(teacher.hidden[mine].to(dtype), teacher.table.to(dtype)).float()
    capped, _ = _capped(logits, teacher.softcap)
    mixed = torch.zeros(shape, dtype=torch.float32, device=labels.device)
    mixed[places] = capped.softmax(1) * teacher.weight
    weight = torch.zeros(shape[0], dtype=torch.float32, device=labels.device)
    weight[places] = teacher.weight
    return mixed, weight
