"""The loss in pieces is the plain loss, with its gradients and without its memory."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from plain_losses import token_cross_entropy
from torch import Tensor

from culet.losses.tokens import IGNORED, Teacher, draw_candidates, token_loss

N, D, V = 23, 6, 40


def inputs(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(N, D, generator=generator, requires_grad=True)
    table = torch.randn(V, D, generator=generator, requires_grad=True)
    labels = torch.randint(0, V, (N,), generator=generator)
    labels[[0, 7, 22]] = IGNORED
    return hidden, table, labels


def capped(logits: Tensor, softcap: float | None) -> Tensor:
    return logits if softcap is None else softcap * (logits / softcap).tanh()


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("at_once", [1, 7, 100])
def test_value_and_gradients_are_those_of_the_plain_loss(
    softcap: float | None, at_once: int
) -> None:
    hidden, table, labels = inputs()
    plain = token_cross_entropy(capped(hidden @ table.T, softcap), labels)
    wanted = torch.autograd.grad(3 * plain, (hidden, table))
    found = token_loss(hidden, table, labels, softcap=softcap, rows_at_once=at_once)
    assert found.count == N - 3
    assert found.total.item() == pytest.approx(plain.item(), rel=1e-6)
    assert found.cross_entropy.item() == pytest.approx(plain.item(), rel=1e-6)
    for gradient, expected in zip(
        torch.autograd.grad(3 * found.total, (hidden, table)), wanted, strict=True
    ):
        torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("at_once", [1, 7, 100])
def test_a_teacher_counts_where_it_speaks_and_nowhere_else(at_once: int) -> None:
    hidden, table, labels = inputs()
    generator = torch.Generator().manual_seed(5)
    theirs = torch.randn(4, 3, generator=generator)
    head = torch.randn(V, 3, generator=generator)
    rows = torch.tensor([7, 20, 2, 3])  # 7 does not count
    teacher = Teacher(theirs, head, rows, softcap=5.0, weight=0.25)

    target = F.one_hot(labels.clamp(min=0), V).float()
    said = capped(theirs @ head.T, 5.0).softmax(1)
    target[rows] = 0.25 * said + 0.75 * target[rows]
    counted = labels != IGNORED
    log = (hidden @ table.T).log_softmax(1)
    plain = -(target * log).sum(1)[counted].mean()
    wanted = torch.autograd.grad(plain, (hidden, table))

    found = token_loss(hidden, table, labels, teacher=teacher, rows_at_once=at_once)
    assert found.total.item() == pytest.approx(plain.item(), rel=1e-6)
    hard = token_cross_entropy(hidden @ table.T, labels)
    assert found.cross_entropy.item() == pytest.approx(hard.item(), rel=1e-6)
    for gradient, expected in zip(
        torch.autograd.grad(found.total, (hidden, table)), wanted, strict=True
    ):
        torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-5)


def test_gradients_agree_with_finite_differences() -> None:
    hidden, table, labels = inputs()
    found = token_loss(hidden, table, labels, softcap=4.0)
    (gradient,) = torch.autograd.grad(found.total, hidden)
    shift = torch.zeros_like(hidden)
    shift[5, 2] = 1e-2
    up = token_loss(hidden + shift, table, labels, softcap=4.0).total
    down = token_loss(hidden - shift, table, labels, softcap=4.0).total
    assert (up - down).item() / 2e-2 == pytest.approx(gradient[5, 2].item(), rel=1e-2)


def test_accuracy_counts_the_labels_that_win() -> None:
    table = torch.eye(4)
    labels = torch.tensor([0, 1, IGNORED, 3])
    found = token_loss(table[[0, 2, 2, 3]] * 9, table, labels)
    assert found.accuracy.item() == pytest.approx(2 / 3)


def test_no_label_gives_zero_and_zero_gradients() -> None:
    hidden, table, _ = inputs()
    found = token_loss(hidden, table, torch.full((N,), IGNORED))
    assert found.total.item() == 0
    assert not torch.autograd.grad(found.total, hidden)[0].any()


def test_frozen_tables_and_states_get_no_gradient() -> None:
    hidden, table, labels = inputs()
    found = token_loss(hidden, table.detach(), labels)
    assert torch.autograd.grad(found.total, hidden)[0].any()
    with torch.no_grad():
        assert token_loss(hidden, table, labels).total.item() == pytest.approx(found.total.item())


def test_bfloat16_states_stay_near() -> None:
    hidden, table, labels = inputs()
    exact = token_loss(hidden, table, labels)
    rounded = token_loss(hidden.bfloat16(), table, labels)
    assert rounded.total.item() == pytest.approx(exact.total.item(), rel=2e-2)
    (gradient,) = torch.autograd.grad(rounded.total, table)
    assert gradient.dtype == torch.float32


_MEMORY = """
import resource, torch
from culet.losses.tokens import token_loss
torch.set_num_threads(1)
table = torch.randn(65536, 16, requires_grad=True)
hidden = torch.randn(1024, 16, requires_grad=True)
labels = torch.arange(1024)
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
token_loss(hidden[:8], table, labels[:8], rows_at_once=8).total.backward()
before = peak()
token_loss(hidden, table, labels, rows_at_once=64).total.backward()
print(peak() - before)
"""


def test_the_logits_of_all_labels_never_exist_at_once() -> None:
    """They would be 256 MiB, and as much again for their softmax and its gradient."""
    found = subprocess.run(
        [sys.executable, "-c", _MEMORY], capture_output=True, text=True, check=True
    )
    assert float(found.stdout) < 150


# --- candidates in place of the whole vocabulary


def test_with_all_words_drawn_the_loss_and_its_gradients_are_those_of_the_vocabulary() -> None:
    hidden, table, labels = inputs()
    whole = token_loss(hidden, table, labels)
    wanted = torch.autograd.grad(whole.total, (hidden, table))
    for drawn in (V, 10 * V):
        found = token_loss(hidden, table, labels, candidates=drawn)
        assert found.total.item() == pytest.approx(whole.total.item(), rel=1e-5)
        assert found.accuracy.item() == whole.accuracy.item()
        for gradient, expected in zip(
            torch.autograd.grad(found.total, (hidden, table)), wanted, strict=True
        ):
            torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-5)


def test_drawn_words_stand_for_the_others_in_the_mean() -> None:
    _, _, labels = inputs()
    scores = torch.randn(V, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(0)
    sums = []
    for _ in range(4000):
        some = draw_candidates(labels.clamp(min=0), vocab_size=V, drawn=5)
        assert torch.equal(some.ids[some.labels], labels.clamp(min=0))
        assert len(some.ids.unique()) == len(some.ids)
        sums.append(float((scores[some.ids] + some.log_weights).exp().sum()))
    assert sum(sums) / len(sums) == pytest.approx(float(scores.exp().sum()), rel=0.01)


def test_words_that_were_not_drawn_get_no_gradient() -> None:
    hidden, table, labels = inputs()
    torch.manual_seed(0)
    gradient = torch.autograd.grad(token_loss(hidden, table, labels, candidates=3).total, table)[0]
    touched = gradient.abs().sum(1) > 0
    own = labels[labels != IGNORED].unique()
    assert touched[own].all()
    assert int(touched.sum()) == len(own) + 3


# --- the plain loss that it is compared with


def test_token_cross_entropy_of_even_logits_is_the_log_of_the_vocabulary() -> None:
    logits = torch.zeros(4, 10, dtype=torch.bfloat16)
    loss = token_cross_entropy(logits, torch.tensor([3, 1, -100, 9]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(10))


def test_ignored_tokens_neither_count_nor_move() -> None:
    logits = torch.randn(4, 10, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = token_cross_entropy(logits, torch.tensor([3, -100, 5, -100]))
    by_hand = -(logits.log_softmax(-1)[[0, 2], [3, 5]]).mean()
    assert loss.item() == pytest.approx(by_hand.item())
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad[[1, 3]].any()
    assert logits.grad[[0, 2]].any()


def test_nothing_but_ignored_tokens_gives_zero_and_no_nan() -> None:
    logits = torch.randn(2, 10, requires_grad=True)
    loss = token_cross_entropy(logits, torch.tensor([7, 7]), ignore=7)
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_token_cross_entropy_gradients_are_the_softmax_minus_the_target() -> None:
    """By the closed form: the loss is computed in float32, where finite differences are blunt."""
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets = torch.tensor([1, -100, 4])
    token_cross_entropy(logits, targets).backward()
    expected = (logits.detach().softmax(-1) - F.one_hot(targets.clamp(min=0), 5)) / 2
    expected[1] = 0
    assert logits.grad is not None
    assert torch.allclose(logits.grad, expected, atol=1e-7)
