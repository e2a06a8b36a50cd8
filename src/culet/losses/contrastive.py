"""The losses of the recipe, as pure functions of embeddings.

No model, no rank, no logging: a loss sees unit vectors and masks and returns one number. The
training step gathers, weights and sums.

- `info_nce`: EmbeddingGemma (arXiv 2509.20354) equations 2 and 3, with the same-tower terms of
  SamToNe (arXiv 2306.02516) as further directions of the same denominator
- `spread_out`: equation 4
- `embed_distill`: equation 5, with the distance of EmbedDistill (arXiv 2301.12005, equation 7)
- `matryoshka`: any of them over nested prefixes (arXiv 2205.13147)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

Direction = Literal["qd", "qq", "dq", "dd"]
DIRECTIONS: tuple[Direction, ...] = ("qd", "qq", "dq", "dd")
Distance = Literal["l2", "squared", "cosine"]


def info_nce(
    query: Float[Tensor, "B E"],
    positive: Float[Tensor, "B E"],
    negative: Float[Tensor, "B C E"] | None = None,
    *,
    temperature: float | Float[Tensor, ""],
    hardness: float = 0.0,
    duplicate: Bool[Tensor, "B B"] | None = None,
    present: Bool[Tensor, "B C"] | None = None,
    directions: Sequence[Direction] = ("qd",),
    literal: bool = False,
) -> Float[Tensor, ""]:
    """Return the mean over queries of −log of the positive's share of its denominator.

    The denominator of query i holds e^(s/τ) for its own positive, for every pair (i, j) of each
    direction that is no duplicate, and for its own hard negatives, those weighted by
    exp(hardness · stopgrad(s)). Directions add to the same denominator: "qd" in-batch positives,
    "qq" other queries, "dq" other queries seen from the positive, "dd" other positives.
    ("qd", "qq") is SamToNe; all four are the form of GTE and Qwen3-Embedding.

    Args:
        query: Unit vectors.
        positive: Unit vectors, row i belongs to query i.
        negative: Unit vectors of each query's own hard negatives.
        temperature: τ, divides; a tensor may be learnt.
        hardness: α ≥ 0; 0 leaves the plain loss.
        duplicate: True where pair (i, j) shares its query or its positive and so is no negative.
            The diagonal is ignored.
        present: False where a query has fewer negatives than C.
        directions: Which similarities enter the denominator; "qd" first in the paper.
        literal: Leave the positive out of its denominator, as equation 2 reads to the letter
            (the loss can then fall below 0).
    """
    size = query.shape[0]
    own = torch.eye(size, dtype=torch.bool, device=query.device)
    exclude = own if duplicate is None else own | duplicate
    pairs = {
        "qd": (query, positive),
        "qq": (query, query),
        "dq": (positive, query),
        "dd": (positive, positive),
    }
    own_logit = (query * positive).sum(-1) / temperature  # B
    columns = [] if literal else [own_logit[:, None]]
    for direction in directions:
        left, right = pairs[direction]
        columns.append((left @ right.T / temperature).masked_fill(exclude, -torch.inf))  # B B
    if negative is not None:
        similarity = torch.einsum("be,bce->bc", query, negative)
        logits = similarity / temperature + hardness * similarity.detach()
        columns.append(logits if present is None else logits.masked_fill(~present, -torch.inf))
    joined = torch.cat(columns, dim=1)
    if not literal:
        return (joined.logsumexp(dim=1) - own_logit).mean()
    # To the letter, a query whose every column is masked has an empty denominator: it counts 0.
    empty = joined.isneginf().all(dim=1)
    denominator = joined.masked_fill(empty[:, None], 0.0).logsumexp(dim=1)
    return (denominator - own_logit).masked_fill(empty, 0.0).mean()


def samtone(
    query: Float[Tensor, "B E"],
    positive: Float[Tensor, "B E"],
    negative: Float[Tensor, "B C E"] | None = None,
    *,
    temperature: float | Float[Tensor, ""],
    hardness: float = 0.0,
    duplicate: Bool[Tensor, "B B"] | None = None,
    present: Bool[Tensor, "B C"] | None = None,
    ways: Literal["one", "two"] = "two",
) -> Float[Tensor, ""]:
    """Return the SamToNe loss: in-batch and same-tower negatives in one denominator.

    Two ways adds the mirrored loss, positives searching queries, and takes the mean of both (the
    paper's transcriptions disagree on sum or mean; the mean keeps the scale of the one-way loss).
    Hard negatives belong to the query and enter its way only.
    """
    forward = info_nce(
        query,
        positive,
        negative,
        temperature=temperature,
        hardness=hardness,
        duplicate=duplicate,
        present=present,
        directions=("qd", "qq"),
    )
    if ways == "one":
        return forward
    mirrored = info_nce(
        positive, query, temperature=temperature, duplicate=duplicate, directions=("qd", "qq")
    )
    return (forward + mirrored) / 2


def duplicates(
    query_ids: Int[Tensor, " B"], positive_ids: Int[Tensor, " B"]
) -> Bool[Tensor, "B B"]:
    """Return which pairs share a query or a positive (equation 3); the diagonal is True."""
    same_query = query_ids[:, None] == query_ids[None, :]
    return same_query | (positive_ids[:, None] == positive_ids[None, :])


def spread_out(
    embedding: Float[Tensor, "B E"], *, duplicate: Bool[Tensor, "B B"] | None = None
) -> Float[Tensor, ""]:
    """Return the mean squared dot product of different rows; 1/E for uniform unit vectors.

    Args:
        embedding: Unit vectors.
        duplicate: True where two rows are the same text, which cannot and need not spread.
    """
    size = embedding.shape[0]
    exclude = torch.eye(size, dtype=torch.bool, device=embedding.device)
    if duplicate is not None:
        exclude = exclude | duplicate
    squared = (embedding @ embedding.T).square().masked_fill(exclude, 0.0)
    return squared.sum() / (size * size - exclude.sum()).clamp(min=1)


def embed_distill(
    student: Float[Tensor, "B E"],
    teacher: Float[Tensor, "B T"],
    *,
    distance: Distance = "l2",
) -> Float[Tensor, ""]:
    """Return the mean distance between student and teacher vectors.

    Where the widths differ, the shorter prefix of both is compared at unit length: a Matryoshka
    teacher's prefix is itself an embedding. The published recipe does not name its distance;
    "l2" is the norm of EmbedDistill.

    Args:
        student: Unit vectors; the gradient goes here only.
        teacher: Vectors of any length and width.
        distance: "l2" ‖s − t‖, "squared" ‖s − t‖², or "cosine" 1 − s·t.
    """
    width = min(student.shape[-1], teacher.shape[-1])
    student = F.normalize(student[:, :width], dim=-1)
    teacher = F.normalize(teacher[:, :width].detach().to(student.dtype), dim=-1)
    if distance == "cosine":
        return (1 - (student * teacher).sum(-1)).mean()
    gap = student - teacher
    if distance == "squared":
        return gap.square().sum(-1).mean()
    lengths: Tensor = torch.linalg.vector_norm(gap, dim=-1)
    return lengths.mean()


def matryoshka(
    loss: Callable[..., Float[Tensor, ""]],
    *embeddings: Float[Tensor, "... E"] | None,
    widths: Sequence[int],
) -> Float[Tensor, ""]:
    """Return the sum of a loss over nested prefixes, each brought back to unit length.

    Args:
        loss: Takes the truncated embeddings in the order given.
        embeddings: Vectors of one width; None is passed on.
        widths: Prefix lengths; the full width must be named to count.
    """
    total = None
    for width in widths:
        cut = [None if e is None else F.normalize(e[..., :width], dim=-1) for e in embeddings]
        part = loss(*cut)
        total = part if total is None else total + part
    if total is None:
        raise ValueError("matryoshka needs at least one width, got none")
    return total
