"""The contrastive step: any batch size in fixed memory, with the gradients of one pass.

Gradient caching (GradCache, arXiv 2101.06983): embed all chunks without a graph, take the loss
and its gradient with respect to the embeddings, then embed each chunk again, with the same
random numbers, and send that gradient back through it. Chunks that fit in `keep_tokens` keep
their graph from the first pass and are not embedded twice, so the plain pass is the same code
with one kept chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
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
from culet.model.batch import pack, split_by_length
from culet.model.embedding_model import EmbeddingModel
from culet.train.gather import gather_batch
from culet.train.processes import World, current

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
        distill: Weight of embedding distillation where records carry teacher vectors.
        distill_distance: "l2", "squared" or "cosine".
        distill_projection: Where the teacher's width is another: "prefix" compares the shorter
            prefix of both, as a Matryoshka teacher allows; "learned" maps the student's vectors
            to the teacher's width by a linear map that is trained along and then dropped, as
            EmbedDistill does (arXiv 2301.12005, equation 7).
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


@dataclass(frozen=True)
class Chunking:
    """How a batch is cut for memory; none of it changes the result.

    Attributes:
        chunk_tokens: Tokens of one forward and backward pass.
        keep_tokens: Tokens whose graph is kept between the passes instead of computed twice.
    """

    chunk_tokens: int = 4096
    keep_tokens: int = 16384


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
    negative = present = negative_id = None
    if batch.negative.shape[1]:
        negative_id = torch.from_numpy(batch.negative).to(device)
        present = negative_id >= 0
        negative = _rows(embedding, negative_id.clamp(min=0))
    duplicate = duplicates(query_id, positive_id)

    def contrast(q: Tensor, p: Tensor, n: Tensor | None) -> Tensor:
        common = {
            "temperature": temperature,
            "hardness": config.hardness,
            "duplicate": duplicate,
            "present": present,
        }
        if config.samtone != "off":
            return samtone(q, p, n, ways=config.samtone, **common)  # type: ignore[arg-type]
        return info_nce(
            q,
            p,
            n,
            directions=config.directions,
            literal=config.literal,
            **common,  # type: ignore[arg-type]
        )

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
    model: EmbeddingModel,
    batch: PairBatch,
    config: LossConfig,
    *,
    temperature: Temperature | None = None,
    projection: Projection | None = None,
    chunking: Chunking | None = None,
    compute_dtype: torch.dtype = torch.float32,
) -> dict[str, float]:
    """Add the gradients of one batch to the model's parameters and return the loss parts.

    Among several processes the batch is this one's part of a whole, the loss and its parts are
    those of the whole, and the gradients added here sum to its gradient over the processes.

    Args:
        model: The model, in train mode if dropout is to act.
        batch: The batch.
        config: What to minimise.
        temperature: The learnt temperature; None uses the config's.
        projection: The learnt map to the teacher's width; None compares prefixes.
        chunking: How to cut the batch for memory.
        compute_dtype: Dtype of activations and matrix products.
    """
    world = current()
    device = model.up.weight.device
    chunks = _chunks(batch.texts, chunking or Chunking())
    texts, chunks = _same_passes(batch.texts, chunks, world)
    kept, replay, pieces = [], [], []
    for index, keep in chunks:
        packed = pack([texts[i] for i in index]).to(device)
        if keep:
            piece = model(packed, compute_dtype=compute_dtype)
            kept.append((index, piece))
        else:
            replay.append((index, packed, _random_state(device)))
            with torch.no_grad():
                piece = model(packed, compute_dtype=compute_dtype)
        pieces.append(piece.detach())
    own = torch.zeros(len(texts), model.config.embedding_dim, device=device)
    if chunks:
        order = torch.from_numpy(np.concatenate([index for index, _ in chunks])).to(device)
        own[order] = torch.cat(pieces)
    embedding, pairs, mine = gather_batch(own[: len(batch.texts)], batch, world)
    embedding.requires_grad_()

    total, parts = contrastive_loss(
        embedding,
        pairs,
        config,
        temperature=config.temperature if temperature is None else temperature(),
        widths=config.widths or model.config.widths,
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
    gradient = torch.zeros_like(own)
    gradient[: len(batch.texts)] = embedding.grad[mine] * (world.size if world.sharded else 1)
    if not np.isfinite(values["loss"]):
        return values  # the loop refuses the step; there is nothing worth sending back

    for index, piece in kept:
        piece.backward(gradient[torch.from_numpy(index).to(device)])
    kept.clear()
    for index, packed, state in replay:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            _set_random_state(state, device)
            piece = model(packed, compute_dtype=compute_dtype)
        piece.backward(gradient[torch.from_numpy(index).to(device)])
    return values


def _same_passes(
    texts: Sequence[np.ndarray], chunks: list[tuple[np.ndarray, bool]], world: World
) -> tuple[list[np.ndarray], list[tuple[np.ndarray, bool]]]:
    """Return texts and chunks such that all processes make the same passes in the same order.

    One with fewer chunks gets chunks of one more text, which no pair asks for; see
    `World.missing_passes`.
    """
    texts = list(texts)
    if not world.sharded:
        return texts, chunks
    missing = world.missing_passes(len(chunks))
    most = len(chunks) + missing
    filled = [(np.array([len(texts) + i]), True) for i in range(missing)]
    texts += [np.array([1, 2])] * missing
    replayed = world.max(most - sum(keep for _, keep in [*chunks, *filled]))
    chunks = [*chunks, *filled]
    return texts, [(index, i >= replayed) for i, (index, _) in enumerate(chunks)]


def _chunks(texts: Sequence[np.ndarray], chunking: Chunking) -> list[tuple[np.ndarray, bool]]:
    """Return (indices, keep the graph?) of chunks of similar length under the token budgets.

    The longest texts come first and are replayed; the shortest are kept.
    """
    lengths = np.array([len(text) for text in texts])
    chunks = split_by_length(lengths.tolist(), chunking.chunk_tokens, first="longest")
    keep, kept_tokens = [], 0
    for chunk in reversed(chunks):
        kept_tokens += int(lengths[chunk].sum())
        keep.append(kept_tokens <= chunking.keep_tokens)
    return list(zip(chunks, reversed(keep), strict=True))


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), cuda


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
