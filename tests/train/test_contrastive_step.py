"""The contrastive step: however a batch is cut, its gradients are those of one pass."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from training_doubles import gradients, model, random_batch

from culet.data.batches.collate import PairBatch
from culet.errors import InputError
from culet.losses.contrastive import duplicates, embed_distill, info_nce, matryoshka, spread_out
from culet.model.batch import TokenBatch, pack
from culet.model.embedding_model import EmbeddingModel
from culet.train.contrastive_step import (
    LossConfig,
    Projection,
    Temperature,
    contrastive_loss,
    contrastive_step,
)
from culet.train.gradient_cache import Chunking, Towers, one_tower

LOSS = LossConfig(temperature=0.1)


def plain_pass(
    net: EmbeddingModel, batch: PairBatch, config: LossConfig, temperature: Temperature | None
) -> float:
    """One forward and one backward of autograd over the whole batch, nothing cached."""
    total, _ = contrastive_loss(
        net(pack(batch.texts)),
        batch,
        config,
        temperature=config.temperature if temperature is None else temperature(),
        widths=config.widths or net.config.widths,
    )
    total.backward()
    return total.item()


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.any(), f"{name} has no gradient to compare"
        assert torch.allclose(found[name], gradient, rtol=1e-5, atol=1e-5), name


KINDS: dict[str, tuple[dict[str, Any], LossConfig]] = {
    "pairs": ({}, LOSS),
    "negatives": ({"negatives": 2}, LOSS),
    "repeated texts": ({"negatives": 2, "repeats": True}, LOSS),
    "distillation": ({"negatives": 1, "repeats": True, "teacher": True}, LOSS),
    "four directions": ({"negatives": 1}, replace(LOSS, directions=("qd", "qq", "dq", "dd"))),
    "samtone": ({"negatives": 1, "repeats": True}, replace(LOSS, samtone="two")),
    "literal": ({"negatives": 1, "repeats": True}, replace(LOSS, literal=True)),
    "learnt temperature": ({"negatives": 1}, replace(LOSS, learn_temperature=True)),
    "one width": ({}, replace(LOSS, widths=(16,), spread_out=0.0)),
}


@pytest.mark.parametrize(
    ("chunk_tokens", "keep_tokens"),
    [
        (1, 0),
        (40, 0),
        (40, 90),
        (40, 10_000),
        (10_000, 10_000),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_cached_gradients_equal_the_plain_pass(
    kind: str, chunk_tokens: int, keep_tokens: int
) -> None:
    shape, config = KINDS[kind]
    batch = random_batch(6, **shape)
    net = model()
    temperature = Temperature(config.temperature) if config.learn_temperature else None
    expected_loss = plain_pass(net, batch, config, temperature)
    expected = gradients(net) | ({} if temperature is None else gradients(temperature))
    parts = contrastive_step(
        one_tower(net),
        batch,
        config,
        temperature=temperature,
        chunking=Chunking(chunk_tokens=chunk_tokens, keep_tokens=keep_tokens),
    )
    found = gradients(net) | ({} if temperature is None else gradients(temperature))
    assert parts["loss"] == pytest.approx(expected_loss, rel=1e-5)
    assert_close(found, expected)


def test_the_loss_of_a_batch_is_the_sum_of_its_parts_by_hand() -> None:
    batch = random_batch(5, negatives=2, repeats=True, teacher=True)
    net = model()
    config = LossConfig(temperature=0.1, hardness=5.0, spread_out=0.5, distill=2.0)
    embedding = net(pack(batch.texts)).detach()
    q, p = embedding[batch.query], embedding[batch.positive]
    n = embedding[np.maximum(batch.negative, 0)]
    query_id, positive_id = torch.from_numpy(batch.query), torch.from_numpy(batch.positive)
    contrastive = matryoshka(
        lambda q, p, n: info_nce(
            q,
            p,
            n,
            temperature=0.1,
            hardness=5.0,
            duplicate=duplicates(query_id, positive_id),
            present=torch.from_numpy(batch.negative >= 0),
        ),
        q,
        p,
        n,
        widths=(16, 8),
    )
    spread = sum(
        matryoshka(lambda x, i=ids: spread_out(x, duplicate=i[:, None] == i), x, widths=(16, 8))
        for x, ids in ((q, query_id), (p, positive_id))
    )
    teacher = {role: torch.from_numpy(value) for role, value in batch.teacher.items()}
    known = torch.tensor([True, False, True, True, True])  # pair 1 has no teacher for its query
    there = torch.from_numpy(batch.negative >= 0)
    distill = (
        embed_distill(q[known], teacher["query"][known])
        + embed_distill(p, teacher["positive"])
        + embed_distill(n[there], teacher["negative"][there])
    )
    parts = contrastive_step(one_tower(net), batch, config)
    assert parts["contrastive"] == pytest.approx(contrastive.item(), rel=1e-5)
    assert parts["spread_out"] == pytest.approx(float(spread), rel=1e-5)
    assert parts["distill"] == pytest.approx(distill.item(), rel=1e-5)
    assert parts["loss"] == pytest.approx(
        parts["contrastive"] + 0.5 * parts["spread_out"] + 2 * parts["distill"], rel=1e-6
    )


def test_gradients_add_up_over_steps_until_they_are_cleared() -> None:
    net, batch = model(), random_batch()
    contrastive_step(one_tower(net), batch, LOSS)
    once = gradients(net)
    contrastive_step(one_tower(net), batch, LOSS)
    contrastive_step(one_tower(net), batch, LOSS)
    twice = gradients(net)
    for name, gradient in once.items():
        assert torch.allclose(twice[name], 2 * gradient, rtol=1e-5, atol=1e-7), name


def test_two_towers_get_the_gradients_of_one_pass_each() -> None:
    batch = random_batch(6, negatives=1, repeats=True)
    asked = np.isin(np.arange(len(batch.texts)), batch.query)
    nets = [model(seed=1), model(seed=2)]
    embedding = torch.zeros(len(batch.texts), 16)
    for net, own in zip(nets, (asked, ~asked), strict=True):
        places = torch.from_numpy(np.flatnonzero(own))
        vectors = net(pack([batch.texts[i] for i in places.tolist()]))
        embedding = embedding.index_put((places,), vectors)
    total, _ = contrastive_loss(embedding, batch, LOSS, temperature=0.1, widths=(16, 8))
    total.backward()
    expected = [gradients(net) for net in nets]
    towers = Towers(
        lambda texts, tower: nets[tower](texts, compute_dtype=torch.float32),
        dim=16,
        widths=(16, 8),
        device=torch.device("cpu"),
        number=2,
    )
    for chunking in (Chunking(40, 0), Chunking(40, 90), Chunking()):
        parts = contrastive_step(
            towers, replace(batch, tower=(~asked).astype(np.int64)), LOSS, chunking=chunking
        )
        assert parts["loss"] == pytest.approx(total.item(), rel=1e-5)
        for net, gradient in zip(nets, expected, strict=True):
            assert_close(gradients(net), gradient)


# --- dropout


class Spy:
    """Records what the model returned at each call, and how many graphs were alive then."""

    def __init__(self, net: EmbeddingModel) -> None:
        self.outputs: list[Tensor] = []
        self.texts: list[Tensor] = []
        self.with_graph: list[bool] = []
        net.register_forward_hook(self._see)

    def _see(self, module: torch.nn.Module, args: tuple[TokenBatch], output: Tensor) -> None:
        self.outputs.append(output.detach().clone())
        self.texts.append(args[0].ids)
        self.with_graph.append(output.requires_grad)


def test_dropout_is_replayed_bit_for_bit_in_the_second_pass() -> None:
    net, batch = model(dropout=0.3), random_batch(8, negatives=1)
    spy = Spy(net)
    torch.manual_seed(7)
    contrastive_step(one_tower(net), batch, LOSS, chunking=Chunking(chunk_tokens=50, keep_tokens=0))
    half = len(spy.outputs) // 2
    assert half > 3
    assert spy.with_graph == [False] * half + [True] * half
    for first, second in zip(range(half), range(half, 2 * half), strict=True):
        assert torch.equal(spy.texts[first], spy.texts[second])
        assert torch.equal(spy.outputs[first], spy.outputs[second])
    torch.manual_seed(8)
    contrastive_step(one_tower(net), batch, LOSS, chunking=Chunking(chunk_tokens=50, keep_tokens=0))
    assert not torch.equal(spy.outputs[0], spy.outputs[2 * half])


def test_keeping_graphs_or_replaying_them_gives_the_same_gradients_under_dropout() -> None:
    """The first pass draws the same numbers in the same order, whatever is kept."""
    net, batch = model(dropout=0.3), random_batch(8, negatives=1, repeats=True)
    found, after = [], []
    for keep_tokens in (0, 120, 10_000):
        torch.manual_seed(7)
        contrastive_step(
            one_tower(net), batch, LOSS, chunking=Chunking(chunk_tokens=50, keep_tokens=keep_tokens)
        )
        found.append(gradients(net))
        after.append(torch.get_rng_state())
    for other in found[1:]:
        assert_close(other, found[0])
    # the state that the next step begins with does not depend on the replay either
    assert torch.equal(after[0], after[1])
    assert torch.equal(after[0], after[2])


def test_the_next_step_draws_other_numbers() -> None:
    net, batch = model(dropout=0.3), random_batch()
    torch.manual_seed(7)
    first = contrastive_step(one_tower(net), batch, LOSS)["loss"]
    second = contrastive_step(one_tower(net), batch, LOSS)["loss"]
    assert first != second


# --- memory


@pytest.mark.parametrize("keep_tokens", [0, 100, 200])
def test_no_more_graphs_live_than_were_asked_for(
    keep_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts the tokens whose activations autograd holds: those kept, and one chunk."""
    batch = random_batch(16, negatives=1)
    net = model()
    chunk_tokens, alive, most = 50, 0, 0
    forward = EmbeddingModel.forward

    class Mark(torch.autograd.Function):
        """Counts tokens from the forward with a graph to the end of its backward."""

        @staticmethod
        def forward(ctx: Any, x: Tensor, tokens: int) -> Tensor:
            nonlocal alive, most
            ctx.tokens = tokens
            alive += tokens
            most = max(most, alive)
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
            nonlocal alive
            alive -= ctx.tokens
            return grad[0], None

    def marked(self: EmbeddingModel, packed: TokenBatch, **kind: Any) -> Tensor:
        out = forward(self, packed, **kind)
        return Mark.apply(out, packed.num_tokens) if torch.is_grad_enabled() else out

    monkeypatch.setattr(EmbeddingModel, "forward", marked)
    contrastive_step(
        one_tower(net),
        batch,
        LOSS,
        chunking=Chunking(chunk_tokens=chunk_tokens, keep_tokens=keep_tokens),
    )
    assert batch.num_tokens > 2 * (keep_tokens + chunk_tokens)
    assert alive == 0
    assert 0 < most <= max(keep_tokens, chunk_tokens)
    assert keep_tokens == 0 or most > keep_tokens - chunk_tokens


def test_chunks_stay_under_their_token_budget_and_hold_each_text_once() -> None:
    batch, net = random_batch(16, negatives=1), model()
    spy = Spy(net)
    contrastive_step(one_tower(net), batch, LOSS, chunking=Chunking(chunk_tokens=50, keep_tokens=0))
    half = len(spy.texts) // 2
    assert all(len(ids) <= 50 for ids in spy.texts)
    assert sum(len(ids) for ids in spy.texts[:half]) == batch.num_tokens


def test_a_text_longer_than_a_chunk_is_a_chunk_of_its_own() -> None:
    batch, net = random_batch(4), model()
    spy = Spy(net)
    contrastive_step(one_tower(net), batch, LOSS, chunking=Chunking(chunk_tokens=1, keep_tokens=0))
    assert len(spy.texts) == 2 * len(batch.texts)


# --- precision and determinism


def test_bfloat16_compute_leaves_float32_gradients_near_the_exact_ones() -> None:
    net, batch = model(), random_batch(8, negatives=1)
    exact = contrastive_step(one_tower(net), batch, LOSS)
    expected = gradients(net)
    rounded = contrastive_step(
        one_tower(net, compute_dtype=torch.bfloat16),
        batch,
        LOSS,
        chunking=Chunking(chunk_tokens=50, keep_tokens=60),
    )
    found = gradients(net)
    assert rounded["loss"] != exact["loss"]  # it did compute in bfloat16
    assert rounded["loss"] == pytest.approx(exact["loss"], rel=0.05)
    for name, gradient in found.items():
        assert gradient.dtype == torch.float32, name
        cosine = torch.cosine_similarity(gradient.flatten(), expected[name].flatten(), dim=0)
        assert cosine > 0.95, name


def test_repeated_texts_give_the_same_bits_each_time_on_several_threads() -> None:
    """Plain indexing would not: its gradient adds up equal rows in the order of the threads."""
    rng = np.random.default_rng(0)
    texts, pairs, width = 64, 256, 384
    batch = PairBatch(
        texts=[np.array([2, 1])] * texts,
        query=rng.integers(0, texts, pairs),
        positive=rng.integers(0, texts, pairs),
        negative=rng.integers(0, texts, (pairs, 2)),
    )
    start = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(texts, width))).float())
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        seen = set()
        for _ in range(20):
            embedding = start.clone().requires_grad_()
            config = replace(LOSS, spread_out=0.0)
            contrastive_loss(embedding, batch, config, temperature=0.1, widths=(384,))[0].backward()
            assert embedding.grad is not None
            seen.add(hashlib.sha256(embedding.grad.numpy().tobytes()).hexdigest())
    finally:
        torch.set_num_threads(threads)
    assert len(seen) == 1


# --- masks inside the step


def test_a_batch_of_one_text_gives_no_gradient_and_no_nan() -> None:
    text = np.array([2, 30, 31, 1])
    zeros = np.zeros(4, dtype=np.int64)
    batch = PairBatch([text], zeros, zeros, np.full((4, 0), -1))
    net = model()
    for config in (LOSS, replace(LOSS, literal=True), replace(LOSS, samtone="two")):
        parts = contrastive_step(one_tower(net), batch, config)
        assert parts["loss"] == pytest.approx(0.0, abs=1e-6)
        for name, gradient in gradients(net).items():
            assert gradient.isfinite().all(), name
            assert gradient.abs().max() < 1e-5, name


def test_a_batch_without_any_teacher_vector_has_no_distillation() -> None:
    batch = random_batch(4, teacher=True)
    for vectors in batch.teacher.values():
        vectors[:] = np.nan
    parts = contrastive_step(one_tower(model()), batch, LOSS)
    assert parts["distill"] == 0.0
    assert np.isfinite(parts["loss"])
    assert "distill" not in contrastive_step(one_tower(model()), random_batch(4), LOSS)


def test_a_loss_that_is_not_finite_sends_nothing_back() -> None:
    net = model()
    with torch.no_grad():
        net.down.weight.fill_(torch.nan)
    parts = contrastive_step(one_tower(net), random_batch(), LOSS)
    assert np.isnan(parts["loss"])
    assert all(p.grad is None for p in net.parameters())


# --- the learnt temperature and the settings


def test_a_learnt_temperature_begins_where_it_is_told_and_never_falls_below_a_hundredth() -> None:
    temperature = Temperature(0.05)
    assert temperature().item() == pytest.approx(0.05)
    with torch.no_grad():
        temperature.log.fill_(-50.0)
    assert temperature().item() == pytest.approx(0.01)


def test_a_temperature_at_its_floor_still_has_a_gradient_to_rise_by() -> None:
    temperature = Temperature(0.05)
    with torch.no_grad():
        temperature.log.fill_(-50.0)
    net = model()
    contrastive_step(
        one_tower(net),
        random_batch(),
        replace(LOSS, learn_temperature=True),
        temperature=temperature,
    )
    assert temperature.log.grad is not None
    assert temperature.log.grad != 0
    for _ in range(3):  # a push upwards must be felt at once, not after the way it fell
        with torch.no_grad():
            temperature.log += 0.1
    assert temperature().item() == pytest.approx(0.01 * np.exp(0.3), rel=1e-4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"temperature": float("nan")}, "temperature must be above 0"),
        ({"temperature": 0.005, "learn_temperature": True}, "at least 0.01 where it is learnt"),
        ({"hardness": -1.0}, "must not be negative"),
        ({"spread_out": -1.0}, "must not be negative"),
        ({"directions": ()}, "directions must name at least one of qd, qq, dq, dd"),
        ({"directions": ("qd", "qd")}, "none twice"),
        ({"samtone": "two", "literal": True}, "samtone sets the directions itself"),
        ({"samtone": "one", "directions": ("qd", "qq")}, "samtone sets the directions itself"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        LossConfig(**wrong)


# --- a teacher of another width


def test_a_learnt_projection_begins_as_the_prefix_and_gets_the_gradient_of_one_pass() -> None:
    batch = random_batch(negatives=2, teacher=True)  # a teacher of 20 numbers, a student of 16
    config = replace(LOSS, distill_projection="learned")
    net, projection = model(), Projection(16, 20)
    total, parts = contrastive_loss(
        net(pack(batch.texts)),
        batch,
        config,
        temperature=0.1,
        widths=net.config.widths,
        projection=projection,
    )
    total.backward()
    expected = gradients(net) | {"projection": gradients(projection)["weight"]}
    found_parts = contrastive_step(
        one_tower(net), batch, config, projection=projection, chunking=Chunking(40, 60)
    )
    found = gradients(net) | {"projection": gradients(projection)["weight"]}
    assert_close(found, expected)
    assert found_parts["distill"] == pytest.approx(parts["distill"].item(), rel=1e-5)
    # at its start the map leaves the student's numbers and adds zeros
    student = torch.nn.functional.normalize(torch.randn(3, 16), dim=-1)
    assert torch.equal(projection(student)[:, :16], student)
    assert not projection(student)[:, 16:].any()


def test_a_projection_learns_a_linear_teacher_that_no_prefix_resembles() -> None:
    """EmbedDistill's case: the teacher is a rotation of the student into more numbers."""
    torch.manual_seed(0)
    student = torch.nn.functional.normalize(torch.randn(200, 16), dim=-1)
    rotation, _ = torch.linalg.qr(torch.randn(24, 16))
    teacher = student @ rotation.T
    projection = Projection(16, 24)
    optimizer = torch.optim.Adam(projection.parameters(), lr=0.02)

    def distance() -> Tensor:
        return embed_distill(projection(student), teacher)

    before = distance().item()
    for step in range(400):
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * (1 - step / 400)
        optimizer.zero_grad()
        distance().backward()
        optimizer.step()
    assert before > 1
    assert distance().item() < 1e-2
