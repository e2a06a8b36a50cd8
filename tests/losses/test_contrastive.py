"""The losses against closed forms, golden values, an independent reading, and finite differences.

Goldens for a batch of 64: every positive at 1 and every other pair at 0, temperature 1.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from culet.losses.contrastive import (
    DIRECTIONS,
    duplicates,
    embed_distill,
    info_nce,
    matryoshka,
    samtone,
    spread_out,
)


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def collapsed(rows: int, dim: int = 8) -> Tensor:
    return unit(1, dim).expand(rows, dim)


# --- closed forms and goldens


def test_orthogonal_pairs_give_the_golden_values() -> None:
    own = torch.eye(64)
    assert info_nce(own, own, temperature=1.0).item() == pytest.approx(3.185377, abs=1e-6)
    assert info_nce(own, own, temperature=1.0).item() == pytest.approx(math.log(1 + 63 / math.e))
    both = info_nce(own, own, temperature=1.0, directions=("qd", "qq")).item()
    assert both == pytest.approx(3.857626, abs=1e-6)
    for ways in ("one", "two"):
        assert samtone(own, own, temperature=1.0, ways=ways).item() == pytest.approx(both)


def test_a_collapsed_batch_gives_the_log_of_the_denominators_size() -> None:
    same = collapsed(64)
    assert info_nce(same, same, temperature=0.05).item() == pytest.approx(math.log(64))
    assert samtone(same, same, temperature=0.05, ways="one").item() == pytest.approx(math.log(127))
    four = info_nce(same, same, temperature=0.05, directions=DIRECTIONS).item()
    assert four == pytest.approx(math.log(1 + 4 * 63))


def test_one_pair_alone_has_no_loss() -> None:
    assert info_nce(unit(1, 8), unit(1, 8, seed=1), temperature=0.05).item() == 0.0


def test_spread_out_of_a_collapsed_batch_is_one_and_of_random_vectors_one_over_the_width() -> None:
    assert spread_out(collapsed(16)).item() == pytest.approx(1.0)
    value = spread_out(unit(2000, 64)).item()
    # 2e6 pairs, standard deviation of a squared cosine about sqrt(2)/64: far below 1 %
    assert value == pytest.approx(1 / 64, rel=0.01)


def test_spread_out_of_an_orthonormal_basis_is_zero_and_of_repeated_ones_the_welch_bound() -> None:
    assert spread_out(torch.eye(8)).item() == 0.0
    rows, dim = 512, 64  # eight copies of a basis: a tight frame, which reaches the bound
    value = spread_out(torch.eye(dim, dtype=torch.float64).repeat(rows // dim, 1)).item()
    assert value == pytest.approx((rows - dim) / (dim * (rows - 1)))
    assert value == pytest.approx(0.013699, abs=1e-6)


def test_spread_out_leaves_equal_texts_out() -> None:
    embedding = torch.cat([torch.eye(4), torch.eye(4)[:1]])  # row 4 is text 0 again
    ids = torch.tensor([0, 1, 2, 3, 0])
    assert spread_out(embedding).item() == pytest.approx(2 / 20)
    assert spread_out(embedding, duplicate=ids[:, None] == ids[None, :]).item() == 0.0


@pytest.mark.parametrize("distance", ["l2", "squared", "cosine"])
def test_distillation_of_an_identical_student_is_zero_with_a_finite_gradient(distance: str) -> None:
    student = unit(5, 8).float().requires_grad_()
    loss = embed_distill(student, student.detach().clone(), distance=distance)
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    loss.backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_distillation_compares_the_unit_prefix_of_a_wider_teacher() -> None:
    teacher = 7 * unit(5, 32)
    student = F.normalize(teacher[:, :8], dim=-1)
    assert embed_distill(student, teacher).item() == pytest.approx(0.0, abs=1e-7)
    wide = F.normalize(torch.cat([student, unit(5, 4)], dim=-1), dim=-1)
    assert embed_distill(wide, teacher[:, :8]).item() == pytest.approx(0.0, abs=1e-7)


def test_distillation_distances_of_orthogonal_vectors() -> None:
    student, teacher = torch.eye(4)[:2], torch.eye(4)[2:]
    assert embed_distill(student, teacher).item() == pytest.approx(math.sqrt(2))
    assert embed_distill(student, teacher, distance="squared").item() == pytest.approx(2)
    assert embed_distill(student, teacher, distance="cosine").item() == pytest.approx(1)


def test_distillation_sends_no_gradient_to_the_teacher() -> None:
    student, teacher = unit(3, 8).requires_grad_(), unit(3, 8, seed=1).requires_grad_()
    embed_distill(student, teacher).backward()
    assert student.grad is not None
    assert teacher.grad is None


# --- an independent reading of equations 2 and 3


def read_to_the_letter(
    query: np.ndarray,
    positive: np.ndarray,
    negative: np.ndarray | None,
    *,
    tau: float,
    alpha: float,
    query_text: list[str],
    positive_text: list[str],
    present: np.ndarray | None = None,
    directions: tuple[str, ...] = ("qd",),
    literal: bool = False,
) -> float:
    """Sum exponentials in nested loops; fails loudly if they overflow."""
    size = len(query)
    total = 0.0
    for i in range(size):
        own = math.exp(query[i] @ positive[i] / tau)
        denominator = 0.0 if literal else own
        for j in range(size):
            if query_text[i] == query_text[j] or positive_text[i] == positive_text[j]:
                continue
            ends = {"q": query, "d": positive}
            for left, right in directions:
                denominator += math.exp(ends[left][i] @ ends[right][j] / tau)
        for c in range(0 if negative is None else negative.shape[1]):
            if present is None or present[i, c]:
                s = float(query[i] @ negative[i, c])
                denominator += math.exp(alpha * s) * math.exp(s / tau)
        if denominator:
            total += -math.log(own / denominator)
    return total / size


@pytest.mark.parametrize("literal", [False, True])
@pytest.mark.parametrize("directions", [("qd",), ("qd", "qq"), ("dd", "dq"), DIRECTIONS])
@pytest.mark.parametrize("num_negatives", [0, 1, 3])
def test_info_nce_equals_explicit_sums(
    literal: bool, directions: tuple[str, ...], num_negatives: int
) -> None:
    size = 7
    query, positive = unit(size, 5), unit(size, 5, seed=1)
    negative = unit(size, num_negatives, 5, seed=2) if num_negatives else None
    present = torch.rand(size, num_negatives, generator=torch.Generator().manual_seed(3)) < 0.6
    query_text, positive_text = list("abcabcd"), list("uvwxyzu")
    query_ids = torch.tensor([ord(c) for c in query_text])
    positive_ids = torch.tensor([ord(c) for c in positive_text])
    ours = info_nce(
        query,
        positive,
        negative,
        temperature=0.07,
        hardness=5.0,
        duplicate=duplicates(query_ids, positive_ids),
        present=present if num_negatives else None,
        directions=directions,
        literal=literal,
    )
    theirs = read_to_the_letter(
        query.numpy(),
        positive.numpy(),
        None if negative is None else negative.numpy(),
        tau=0.07,
        alpha=5.0,
        query_text=query_text,
        positive_text=positive_text,
        present=present.numpy(),
        directions=directions,
        literal=literal,
    )
    assert ours.item() == pytest.approx(theirs, rel=1e-12)


def test_duplicates_share_a_query_or_a_positive() -> None:
    mask = duplicates(torch.tensor([0, 1, 0, 3]), torch.tensor([5, 6, 7, 6]))
    assert mask.int().tolist() == [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]]


def test_the_diagonal_of_the_duplicate_mask_does_not_matter() -> None:
    query, positive = unit(4, 8), unit(4, 8, seed=1)
    nothing = torch.zeros(4, 4, dtype=torch.bool)
    plain = info_nce(query, positive, temperature=0.05)
    for mask in (nothing, torch.eye(4, dtype=torch.bool)):
        assert torch.equal(plain, info_nce(query, positive, temperature=0.05, duplicate=mask))


def test_the_literal_form_can_fall_below_zero_and_the_plain_one_cannot() -> None:
    own = torch.eye(4)
    assert info_nce(own, own, temperature=0.5, literal=True).item() < 0
    assert info_nce(own, own, temperature=0.5).item() > 0


def test_samtone_in_two_ways_is_the_mean_of_both_mirrors() -> None:
    query, positive, negative = unit(6, 8), unit(6, 8, seed=1), unit(6, 2, 8, seed=2)
    duplicate = duplicates(torch.tensor([0, 1, 2, 3, 4, 0]), torch.arange(6))
    common = {"temperature": 0.05, "duplicate": duplicate}
    forward = info_nce(query, positive, negative, hardness=5.0, directions=("qd", "qq"), **common)
    backward = info_nce(positive, query, directions=("qd", "qq"), **common)
    two = samtone(query, positive, negative, hardness=5.0, ways="two", **common)
    one = samtone(query, positive, negative, hardness=5.0, ways="one", **common)
    assert two.item() == pytest.approx((forward + backward).item() / 2)
    assert one.item() == pytest.approx(forward.item())


# --- hardness


def test_no_hardness_is_the_plain_loss_bit_for_bit() -> None:
    query, positive, negative = (unit(6, 8), unit(6, 8, seed=1), unit(6, 2, 8, seed=2))
    plain = F.cross_entropy(
        torch.cat(
            [
                (query * positive).sum(-1, keepdim=True) / 0.05,
                (query @ positive.T / 0.05).masked_fill(torch.eye(6, dtype=torch.bool), -torch.inf),
                torch.einsum("be,bce->bc", query, negative) / 0.05,
            ],
            dim=1,
        ).float(),
        torch.zeros(6, dtype=torch.long),
    )
    soft = info_nce(query, positive, negative, temperature=0.05, hardness=0.0)
    default = info_nce(query, positive, negative, temperature=0.05)
    assert torch.equal(soft, default)
    assert soft.item() == pytest.approx(plain.item(), rel=1e-6)
    without = info_nce(query, positive, temperature=0.05, hardness=5.0)
    assert torch.equal(without, info_nce(query, positive, temperature=0.05))


def test_the_gradient_of_a_similarity_is_its_share_over_the_temperature_without_hardness() -> None:
    """d loss / d s_j = p'_j / τ, p' from the weighted logits: the weight has no gradient."""
    tau, alpha = 0.1, 5.0
    query = torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64)
    positive = torch.tensor([[0.9, 0.1, 0, 0]], dtype=torch.float64)
    negative = torch.tensor([[[0.8, 0, 0.3, 0], [0.5, 0, 0, 0.4]]], dtype=torch.float64)
    negative.requires_grad_()
    info_nce(query, positive, negative, temperature=tau, hardness=alpha).backward()
    s = torch.tensor([0.9, 0.8, 0.5], dtype=torch.float64)
    weighted = s / tau + torch.tensor([0.0, alpha, alpha]) * s
    share = weighted.softmax(0)
    assert negative.grad is not None
    # s_j = q · n_j, and q is the first axis: the first component holds the gradient of s_j
    assert torch.allclose(negative.grad[0, :, 0], share[1:] / tau, rtol=1e-12)
    ratio = (negative.grad[0, 0, 0] / negative.grad[0, 1, 0]).item()
    assert ratio == pytest.approx(math.exp((1 / tau + alpha) * (0.8 - 0.5)))


# --- masks leave no NaN


@pytest.mark.parametrize("literal", [False, True])
def test_a_batch_of_one_text_repeated_is_finite(literal: bool) -> None:
    query = collapsed(4).clone().requires_grad_()
    positive = collapsed(4).clone().requires_grad_()
    negative = unit(4, 2, 8).requires_grad_()
    zeros = torch.zeros(4, dtype=torch.long)
    loss = info_nce(
        query,
        positive,
        negative,
        temperature=0.05,
        hardness=5.0,
        literal=literal,
        duplicate=duplicates(zeros, zeros),
        present=torch.zeros(4, 2, dtype=torch.bool),
        directions=DIRECTIONS,
    ) + spread_out(query, duplicate=duplicates(zeros, zeros))
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    for tensor in (query, positive, negative):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
    assert not negative.grad.any()


def test_an_absent_negative_neither_counts_nor_moves() -> None:
    query, positive = unit(3, 8), unit(3, 8, seed=1)
    negative = unit(3, 2, 8, seed=2).requires_grad_()
    present = torch.tensor([[True, False]] * 3)
    common = {"temperature": 0.05, "hardness": 5.0}
    loss = info_nce(query, positive, negative, present=present, **common)
    alone = info_nce(query, positive, negative[:, :1], **common)
    assert loss.item() == pytest.approx(alone.item(), rel=1e-12)
    loss.backward()
    assert negative.grad is not None
    assert not negative.grad[:, 1].any()
    assert negative.grad[:, 0].any()


# --- Matryoshka


def test_matryoshka_is_the_explicit_sum_over_prefixes_at_unit_length() -> None:
    query, positive, negative = unit(5, 16), unit(5, 16, seed=1), unit(5, 2, 16, seed=2)

    def loss(q: Tensor, p: Tensor, n: Tensor | None) -> Tensor:
        return info_nce(q, p, n, temperature=0.05, hardness=5.0)

    def cut(x: Tensor, width: int) -> Tensor:
        return x[..., :width] / x[..., :width].norm(dim=-1, keepdim=True)

    by_hand = sum(loss(*(cut(x, w) for x in (query, positive, negative))) for w in (16, 8, 2))
    ours = matryoshka(loss, query, positive, negative, widths=(16, 8, 2))
    assert ours.item() == pytest.approx(float(by_hand), rel=1e-12)
    without = matryoshka(loss, query, positive, None, widths=(16,))
    assert without.item() == pytest.approx(loss(query, positive, None).item(), rel=1e-12)


def test_prefix_losses_move_nothing_beyond_their_prefix() -> None:
    query = unit(5, 16).requires_grad_()
    matryoshka(spread_out, query, widths=(8, 4)).backward()
    assert query.grad is not None
    assert query.grad[:, :8].all()
    assert not query.grad[:, 8:].any()


def test_matryoshka_without_a_width_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one width"):
        matryoshka(spread_out, unit(2, 4), widths=())


# --- finite differences in float64


def raw(*shape: int, seed: int = 0) -> Tensor:
    """Vectors that are not of unit length, so that every direction has a gradient."""
    return (1.3 * unit(*shape, seed=seed)).requires_grad_()


@pytest.mark.parametrize("literal", [False, True])
@pytest.mark.parametrize("directions", [("qd",), DIRECTIONS])
def test_info_nce_gradients_are_finite_differences(
    literal: bool, directions: tuple[str, ...]
) -> None:
    duplicate = duplicates(torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1, 2, 3]))
    present = torch.tensor([[True, True], [True, False], [False, False], [True, True]])
    log_temperature = torch.tensor(math.log(0.3), dtype=torch.float64, requires_grad=True)

    def loss(q: Tensor, p: Tensor, n: Tensor, log_t: Tensor) -> Tensor:
        return info_nce(
            q,
            p,
            n,
            temperature=log_t.exp(),
            duplicate=duplicate,
            present=present,
            directions=directions,
            literal=literal,
        )

    inputs = (raw(4, 3), raw(4, 3, seed=1), raw(4, 2, 3, seed=2), log_temperature)
    assert torch.autograd.gradcheck(loss, inputs)


def test_the_hardness_weight_is_held_still_in_the_gradient() -> None:
    """Finite differences agree once the weight is a constant, and disagree where it moves."""
    query, positive, negative = raw(3, 4), raw(3, 4, seed=1), raw(3, 2, 4, seed=2)
    fixed = torch.einsum("be,bce->bc", query, negative).detach()

    def constant(q: Tensor, p: Tensor, n: Tensor) -> Tensor:
        similarity = torch.einsum("be,bce->bc", q, n)
        own = (q * p).sum(-1) / 0.3
        logits = (q @ p.T / 0.3).masked_fill(torch.eye(3, dtype=torch.bool), -torch.inf)
        joined = torch.cat([own[:, None], logits, similarity / 0.3 + 5.0 * fixed], dim=1)
        return (joined.logsumexp(1) - own).mean()

    def ours(q: Tensor, p: Tensor, n: Tensor) -> Tensor:
        return info_nce(q, p, n, temperature=0.3, hardness=5.0)

    assert torch.autograd.gradcheck(constant, (query, positive, negative))
    expected = torch.autograd.grad(constant(query, positive, negative), (query, negative))
    found = torch.autograd.grad(ours(query, positive, negative), (query, negative))
    for a, b in zip(expected, found, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-14)
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(ours, (query, positive, negative))


@pytest.mark.parametrize("ways", ["one", "two"])
def test_samtone_gradients_are_finite_differences(ways: str) -> None:
    def loss(q: Tensor, p: Tensor, n: Tensor) -> Tensor:
        return samtone(q, p, n, temperature=0.3, ways=ways)  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(loss, (raw(4, 3), raw(4, 3, seed=1), raw(4, 1, 3, seed=2)))


def test_spread_out_gradients_are_finite_differences() -> None:
    ids = torch.tensor([0, 1, 2, 0])
    same = ids[:, None] == ids[None, :]
    assert torch.autograd.gradcheck(lambda e: spread_out(e, duplicate=same), (raw(4, 3),))


@pytest.mark.parametrize("distance", ["l2", "squared", "cosine"])
def test_distillation_gradients_are_finite_differences(distance: str) -> None:
    teacher = unit(4, 5, seed=9)
    assert torch.autograd.gradcheck(
        lambda s: embed_distill(s, teacher, distance=distance), (raw(4, 3),)
    )


def test_matryoshka_gradients_are_finite_differences() -> None:
    def loss(q: Tensor, p: Tensor) -> Tensor:
        return matryoshka(lambda a, b: info_nce(a, b, temperature=0.3), q, p, widths=(4, 2))

    assert torch.autograd.gradcheck(loss, (raw(3, 4), raw(3, 4, seed=1)))
