"""The contrastive step: the loss of a batch from its embeddings, and its gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from culet.data.batches.collate import PairBatch
from culet.errors import InputError
from culet.files.settings import LATER
from culet.losses.contrastive import (
    DIRECTIONS,
    Direction,
    Distance,
    duplicates,
    embed_distill,
    info_nce,
    matryoshka,
    samtone,
    spread_out,
)
from culet.train.gather import gather_batch
from culet.train.gradient_cache import Chunking, GradientCache, Towers
from culet.train.processes import current

MIN_TEMPERATURE = 0.01  # a learnt τ stays above it, so that the softmax cannot collapse


@dataclass(frozen=True)
class LossConfig:
    """What a contrastive stage minimises, and how strongly.

    Attributes:
        temperature: τ. Not published for EmbeddingGemma; 0.05 is our default.
        learn_temperature: Train log τ, starting from `temperature`.
        hardness: α on own hard negatives (5 in the paper); no effect where there are none.
        directions: Similarities in the denominator; see `culet.losses.contrastive.info_nce`.
        samtone: "one" or "two" ways replaces `directions` by the SamToNe loss; "off" leaves it.
        literal: Equation 2 to the letter, the positive outside its denominator.
        spread_out: Weight of the spread-out term (weights are not published; 1 is ours).
        distill: Weight of embedding distillation where records have teacher vectors.
        distill_distance: "l2", "squared" or "cosine".
        distill_projection: Where the teacher's width is another: "prefix" compares the shorter
            prefix of both, as a Matryoshka teacher allows; "learned" maps the student's vectors
            to the teacher's width by a linear map that is trained with the model and then
            dropped, as in EmbedDistill (arXiv 2301.12005, equation 7).
        widths: Matryoshka prefixes; empty means those of the model.
    """

    temperature: float = 0.05
    learn_temperature: bool = False
    hardness: float = 5.0
    directions: tuple[Direction, ...] = ("qd",)
    samtone: Literal["off", "one", "two"] = "off"
    literal: bool = False
    spread_out: float = 1.0
    distill: float = 1.0
    distill_distance: Distance = "l2"
    distill_projection: Literal["prefix", "learned"] = field(default="prefix", metadata=LATER)
    widths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if min(self.hardness, self.spread_out, self.distill) < 0:
            raise InputError(
                "hardness, spread_out and distill must not be negative, got "
                f"{self.hardness}, {self.spread_out}, {self.distill}"
            )
        lowest = MIN_TEMPERATURE if self.learn_temperature else 0.0
        if not self.temperature > 0 or self.temperature < lowest:
            raise InputError(
                f"temperature must be above 0, and at least {MIN_TEMPERATURE} where it is learnt; "
                f"got {self.temperature}"
            )
        if not self.directions or len(set(self.directions)) < len(self.directions):
            raise InputError(
                f"directions must name at least one of {', '.join(DIRECTIONS)}, none twice; "
                f"got {list(self.directions)}"
            )
        if self.samtone != "off" and (self.literal or self.directions != ("qd",)):
            raise InputError(
                "samtone sets the directions itself and has no literal form; leave directions and "
                "literal out, or set samtone to 'off'"
            )


class Temperature(nn.Module):
    """τ as a parameter: trained as log τ, so that it stays positive."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(float(np.log(start))))

    def forward(self) -> Float[Tensor, ""]:
        """Return τ, the parameter first brought back to `MIN_TEMPERATURE` if it fell below.

        A clamp of the result would have no gradient below the bound: τ could never rise again.
        """
        with torch.no_grad():
            self.log.clamp_(min=float(np.log(MIN_TEMPERATURE)))
        return self.log.exp()


class Projection(nn.Module):
    """A linear map from the student's vectors to a teacher's; it begins as the plain prefix."""

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(teacher_width, student_width))

    def forward(self, student: Float[Tensor, "B E"]) -> Float[Tensor, "B T"]:
        """Return the vectors in the teacher's width."""
        return F.linear(student, self.weight)


def contrastive_loss(
    embedding: Float[Tensor, "T E"],
    batch: PairBatch,
    config: LossConfig,
    *,
    temperature: float | Float[Tensor, ""],
    widths: Sequence[int],
    projection: Projection | None = None,
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Return the total loss of a batch and its parts, from the embeddings of its texts."""
    device = embedding.device
    query_id = torch.from_numpy(batch.query).to(device)
    positive_id = torch.from_numpy(batch.positive).to(device)
    query, positive = _rows(embedding, query_id), _rows(embedding, positive_id)
    negative = present = None
    if batch.negative.shape[1]:
        negative_id = torch.from_numpy(batch.negative).to(device)
        present = negative_id >= 0
        negative = _rows(embedding, negative_id.clamp(min=0))
    contrast = _contrast(config, temperature, duplicates(query_id, positive_id), present)
    parts = {"contrastive": matryoshka(contrast, query, positive, negative, widths=widths)}
    total = parts["contrastive"]
    if config.spread_out:
        same_query = query_id[:, None] == query_id[None, :]
        same_positive = positive_id[:, None] == positive_id[None, :]

        def spread(q: Tensor, p: Tensor) -> Tensor:
            return spread_out(q, duplicate=same_query) + spread_out(p, duplicate=same_positive)

        parts["spread_out"] = matryoshka(spread, query, positive, widths=widths)
        total = total + config.spread_out * parts["spread_out"]
    if config.distill and batch.teacher:
        roles = {"query": query, "positive": positive}
        if negative is not None:
            roles["negative"] = negative
        parts["distill"] = _distill(roles, batch.teacher, config.distill_distance, projection)
        total = total + config.distill * parts["distill"]
    return total, parts


def _contrast(
    config: LossConfig,
    temperature: float | Float[Tensor, ""],
    duplicate: Bool[Tensor, "B B"],
    present: Bool[Tensor, "B C"] | None,
) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """Return the contrastive loss of queries, positives and negatives at one width."""
    if config.samtone != "off":
        return partial(
            samtone,
            ways=config.samtone,
            temperature=temperature,
            hardness=config.hardness,
            duplicate=duplicate,
            present=present,
        )
    return partial(
        info_nce,
        directions=config.directions,
        literal=config.literal,
        temperature=temperature,
        hardness=config.hardness,
        duplicate=duplicate,
        present=present,
    )


def _rows(embedding: Float[Tensor, "T E"], index: Int[Tensor, "*B"]) -> Float[Tensor, "*B E"]:
    """Return some rows, with a gradient that is the same bits in every run.

    The gradient of plain indexing adds up repeated rows in whatever order the threads come.
    """
    return F.embedding(index, embedding)


def _distill(
    roles: dict[str, Tensor],
    teacher: dict[str, np.ndarray],
    distance: Distance,
    projection: Projection | None,
) -> Float[Tensor, ""]:
    """Return the sum over roles of the mean distance to the teacher, where it has a vector."""
    total = torch.zeros((), device=roles["query"].device)
    for role, student in roles.items():
        if role not in teacher:
            continue
        target = torch.from_numpy(teacher[role]).to(student.device, torch.float32)
        known = ~target[..., 0].isnan()
        if known.any():
            taught = student[known] if projection is None else projection(student[known])
            total = total + embed_distill(taught, target[known], distance=distance)
    return total


def contrastive_step(
    towers: Towers,
    batch: PairBatch,
    config: LossConfig,
    *,
    temperature: Temperature | None = None,
    projection: Projection | None = None,
    chunking: Chunking | None = None,
) -> dict[str, float]:
    """Add the gradients of one batch to the parameters of the towers and return the loss parts.

    With several processes the batch is one process's part of the whole batch, the loss and its
    parts are those of the whole batch, and the gradients added here sum to its gradient.

    Args:
        towers: What turns texts into vectors, in train mode if dropout is to act.
        batch: The batch.
        config: What to minimise.
        temperature: The learnt temperature; None uses the config's.
        projection: The learnt map to the teacher's width; None compares prefixes.
        chunking: How to cut the batch for memory.
    """
    world = current()
    cache = GradientCache(towers, batch.texts, batch.tower, chunking or Chunking())
    embedding, pairs, mine = gather_batch(cache.embed(), batch, world)
    embedding.requires_grad_()
    total, parts = contrastive_loss(
        embedding,
        pairs,
        config,
        temperature=config.temperature if temperature is None else temperature(),
        widths=config.widths or towers.widths,
        projection=projection,
    )
    # Every process has the whole loss, so that a gradient it takes itself counts once in the sum;
    # where weights are split, summing divides by the number of processes.
    total.backward()  # type: ignore[no-untyped-call]
    for learnt in (temperature, projection):
        for parameter in () if learnt is None else learnt.parameters():
            if parameter.grad is not None:
                parameter.grad /= world.size
    values = {"loss": total.item()} | {name: part.item() for name, part in parts.items()}
    assert embedding.grad is not None
    if np.isfinite(values["loss"]):  # else the loop refuses the step
        cache.send_back(embedding.grad[mine] * (world.size if world.sharded else 1))
    return values
