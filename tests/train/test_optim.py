"""AdamW with warm-up, decay, groups, clipping and an average, against PyTorch's own and by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_doubles import model

from culet.errors import InputError, TrainingError
from culet.model.lora import LoraConfig, add_lora
from culet.train.optim import OptimConfig, Optimizer, rate

STEADY = OptimConfig(lr=0.1, warmup_steps=0, decay="constant", clip_norm=0.0, weight_decay=0.0)


def named(*values: tuple[str, Tensor]) -> list[tuple[str, nn.Parameter]]:
    return [(name, nn.Parameter(value.clone())) for name, value in values]


def test_several_steps_equal_adamw_by_hand() -> None:
    start = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    gradients = [
        torch.tensor([[0.1, -0.4], [2.0, 0.0]]),
        torch.tensor([[-0.3, 0.2], [0.1, 1.0]]),
        torch.tensor([[0.5, 0.5], [-0.5, -0.5]]),
    ]
    config = OptimConfig(
        lr=0.01,
        warmup_steps=0,
        decay="constant",
        clip_norm=0.0,
        weight_decay=0.1,
        betas=(0.8, 0.95),
        eps=1e-6,
    )
    parameters = named(("encoder.w", start))
    optimizer = Optimizer(parameters, config, steps=3)
    weight, mean, square = start.double(), torch.zeros(2, 2).double(), torch.zeros(2, 2).double()
    for step, gradient in enumerate(gradients):
        parameters[0][1].grad = gradient.clone()
        optimizer.update(step)
        g = gradient.double()
        mean = 0.8 * mean + 0.2 * g
        square = 0.95 * square + 0.05 * g * g
        weight = weight - 0.01 * 0.1 * weight  # decoupled decay
        corrected = mean / (1 - 0.8 ** (step + 1))
        weight = weight - 0.01 * corrected / ((square / (1 - 0.95 ** (step + 1))).sqrt() + 1e-6)
        assert torch.allclose(parameters[0][1].double(), weight, atol=1e-6)


def test_a_whole_model_moves_as_under_pytorchs_adamw() -> None:
    net, twin = model(), model()
    config = OptimConfig(lr=1e-2, warmup_steps=2, decay="cosine", clip_norm=0.5, weight_decay=0.1)
    optimizer = Optimizer(net.named_parameters(), config, steps=5)
    decays = [p for n, p in twin.named_parameters() if p.ndim > 1 and n != "encoder.embed"]
    plain = [p for n, p in twin.named_parameters() if p.ndim == 1 or n == "encoder.embed"]
    reference = torch.optim.AdamW(
        [{"params": decays, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    )
    generator = torch.Generator().manual_seed(0)
    for step in range(5):
        for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
            ours.grad = torch.randn(ours.shape, generator=generator)
            theirs.grad = ours.grad.clone()
        optimizer.update(step)
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        for group in reference.param_groups:
            group["lr"] = 1e-2 * rate(step, steps=5, config=config)
        reference.step()
    for (name, ours), theirs in zip(net.named_parameters(), twin.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6), name


def moved_by(name: str, shape: tuple[int, ...], config: OptimConfig) -> float:
    """Return how far a weight of 1 moves in one step with a gradient of 1 (its rate)."""
    parameters = named((name, torch.ones(shape)))
    optimizer = Optimizer(parameters, config, steps=1)
    parameters[0][1].grad = torch.ones(shape)
    optimizer.update(0)
    return 1 - parameters[0][1].flatten()[0].item()


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("encoder.embed", (4, 2), 0.2),
        ("encoder.blocks.0.attention.qkv.weight", (4, 2), 0.1),
        ("encoder.norm.weight", (4,), 0.1),
        ("up.weight", (4, 2), 0.3),
        ("down.weight", (4, 2), 0.3),
        ("pool.probe", (4,), 0.3),
        ("temperature", (), 0.3),
    ],
)
def test_each_part_has_its_own_rate(name: str, shape: tuple[int, ...], expected: float) -> None:
    config = OptimConfig(
        lr=0.1,
        embed_lr=0.2,
        heads_lr=0.3,
        warmup_steps=0,
        decay="constant",
        clip_norm=0.0,
        weight_decay=0.0,
    )
    assert moved_by(name, shape, config) == pytest.approx(expected, rel=1e-5)
    assert moved_by(name, shape, STEADY) == pytest.approx(0.1, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "shape", "decays"),
    [
        ("encoder.embed", (4, 2), False),
        ("encoder.blocks.0.ffn.down.weight", (4, 2), True),
        ("encoder.blocks.0.ffn_norm.weight", (4,), False),
        ("up.weight", (4, 2), True),
        ("pool.probe", (4,), False),
        ("temperature", (), False),
    ],
)
def test_only_matrices_decay(name: str, shape: tuple[int, ...], decays: bool) -> None:
    config = OptimConfig(lr=0.1, warmup_steps=0, decay="constant", clip_norm=0.0, weight_decay=0.5)
    parameters = named((name, torch.ones(shape)))
    optimizer = Optimizer(parameters, config, steps=1)
    parameters[0][1].grad = torch.zeros(shape)
    optimizer.update(0)
    expected = 1 - 0.1 * 0.5 if decays else 1.0
    assert parameters[0][1].flatten()[0].item() == pytest.approx(expected)


def test_frozen_weights_are_left_alone_and_low_rank_ones_are_trained() -> None:
    net = model()
    add_lora(net, LoraConfig(rank=2), seed=0)
    optimizer = Optimizer(net.named_parameters(), STEADY, steps=1)
    assert {name.rpartition(".")[2] for name in optimizer.named} == {"a", "b"}
    frozen = net.encoder.embed.clone()
    for parameter in optimizer.named.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.update(0)
    assert torch.equal(net.encoder.embed, frozen)


# --- the rate over the run


def test_warm_up_rises_in_even_steps_to_the_peak() -> None:
    config = OptimConfig(warmup_steps=4, decay="constant")
    shares = [rate(step, steps=10, config=config) for step in range(6)]
    assert shares == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_linear_decay_falls_in_even_steps() -> None:
    config = OptimConfig(warmup_steps=0, decay="linear")
    assert [rate(step, steps=4, config=config) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]
    half = OptimConfig(warmup_steps=2, decay="linear", final_ratio=0.5)
    assert [rate(step, steps=6, config=half) for step in range(6)] == [
        0.5,
        1.0,
        1.0,
        0.875,
        0.75,
        0.625,
    ]


def test_cosine_decay_follows_the_cosine_to_its_final_share() -> None:
    config = OptimConfig(warmup_steps=1, decay="cosine", final_ratio=0.1)
    for step in range(1, 9):
        share = (1 + math.cos(math.pi * (step - 1) / 8)) / 2
        assert rate(step, steps=9, config=config) == pytest.approx(0.1 + 0.9 * share)
    assert rate(9, steps=9, config=config) == pytest.approx(0.1)


def test_a_warm_up_as_long_as_the_run_never_divides_by_zero() -> None:
    config = OptimConfig(warmup_steps=3, decay="cosine")
    assert [rate(step, steps=3, config=config) for step in range(3)] == pytest.approx(
        [1 / 3, 2 / 3, 1]
    )


def test_the_reported_rate_is_the_one_that_was_used() -> None:
    parameters = named(("encoder.w", torch.ones(2)))
    optimizer = Optimizer(parameters, OptimConfig(lr=0.4, warmup_steps=4, clip_norm=0), steps=9)
    parameters[0][1].grad = torch.ones(2)
    assert optimizer.update(0)["lr"] == pytest.approx(0.1)
    assert 1 - parameters[0][1][0].item() == pytest.approx(0.1, rel=1e-4)


# --- clipping, averaging, stopping


def test_clipping_scales_the_whole_gradient_to_the_largest_norm() -> None:
    config = OptimConfig(
        lr=0.1,
        warmup_steps=0,
        decay="constant",
        clip_norm=1.0,
        eps=1.0,
        betas=(0.0, 0.0),
        weight_decay=0.0,
    )
    parameters = named(("encoder.a", torch.zeros(1)), ("encoder.b", torch.zeros(1)))
    optimizer = Optimizer(parameters, config, steps=1)
    parameters[0][1].grad, parameters[1][1].grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert optimizer.update(0)["grad_norm"] == pytest.approx(5.0)
    # betas of 0: the step is lr · g / (|g| + eps), with g = 0.6 and 0.8 after clipping
    assert parameters[0][1].item() == pytest.approx(-0.1 * 0.6 / 1.6, rel=1e-4)
    assert parameters[1][1].item() == pytest.approx(-0.1 * 0.8 / 1.8, rel=1e-4)


def test_a_gradient_below_the_limit_is_not_scaled() -> None:
    config = OptimConfig(
        lr=0.1,
        warmup_steps=0,
        decay="constant",
        clip_norm=10.0,
        eps=1.0,
        betas=(0.0, 0.0),
        weight_decay=0.0,
    )
    parameters = named(("encoder.a", torch.zeros(1)))
    optimizer = Optimizer(parameters, config, steps=1)
    parameters[0][1].grad = torch.tensor([3.0])
    optimizer.update(0)
    assert parameters[0][1].item() == pytest.approx(-0.1 * 3 / 4, rel=1e-5)


def test_the_average_follows_the_weights() -> None:
    parameters = named(("encoder.a", torch.ones(1)))
    config = OptimConfig(lr=0.1, warmup_steps=0, decay="constant", clip_norm=0.0, ema=0.75)
    optimizer = Optimizer(parameters, config, steps=2)
    average = 1.0
    for step in range(2):
        parameters[0][1].grad = torch.ones(1)
        optimizer.update(step)
        average = 0.75 * average + 0.25 * parameters[0][1].item()
        assert optimizer.average["encoder.a"].item() == pytest.approx(average)
    assert not Optimizer(parameters, STEADY, steps=2).average


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_a_gradient_that_is_not_finite_moves_nothing(bad: float, clip_norm: float) -> None:
    net = model()
    config = OptimConfig(warmup_steps=0, clip_norm=clip_norm, ema=0.9)
    optimizer = Optimizer(net.named_parameters(), config, steps=3)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.update(0)
    before = {name: tensor.clone() for name, tensor in optimizer.tensors().items()}
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    net.down.weight.grad[0, 0] = bad  # type: ignore[index]
    with pytest.raises(TrainingError, match=r"gradient norm is (nan|inf)"):
        optimizer.update(1)
    after = optimizer.tensors()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name


# --- what survives a restart


def test_a_loaded_optimizer_goes_on_bit_for_bit() -> None:
    config = OptimConfig(lr=0.05, warmup_steps=2, clip_norm=0.5, ema=0.9)

    def go(optimizer: Optimizer, steps: range) -> None:
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            for parameter in optimizer.named.values():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.update(step)

    def fresh() -> Optimizer:
        scalar = ("temperature", nn.Parameter(torch.tensor(0.5)))
        return Optimizer([*model().named_parameters(), scalar], config, steps=6)

    whole, first, second = fresh(), fresh(), fresh()
    go(whole, range(6))
    go(first, range(3))
    saved = {name: tensor.clone() for name, tensor in first.tensors().items()}
    go(first, range(3, 4))  # what happens after the save must not leak into it
    second.load(saved)
    go(second, range(3, 6))
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, second.tensors()[name]), name


def test_state_of_other_parameters_is_refused() -> None:
    optimizer = Optimizer(named(("encoder.a", torch.ones(1))), STEADY, steps=1)
    with pytest.raises(TrainingError, match=r"nothing for parameter encoder\.a"):
        optimizer.load({"weight.encoder.b": torch.ones(1)})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lr": 0.0}, "lr must be positive"),
        ({"lr": math.nan}, "lr must be positive"),
        ({"ema": 1.0}, r"ema in \[0, 1\)"),
        ({"final_ratio": 1.5}, "final_ratio"),
        ({"heads_lr": -0.1}, "heads_lr must not be negative, got -0.1"),
        ({"warmup_steps": -1}, "warmup_steps must not be negative"),
        ({"weight_decay": -0.1}, "weight_decay must not be negative"),
        ({"embed_lr": math.nan}, "embed_lr must not be negative, got nan"),
        ({"eps": -1.0}, r"eps must be finite and not negative.*got -1.0 and \[0.9, 0.999\]"),
        ({"eps": math.inf}, "eps must be finite"),
        ({"betas": (0.9, 1.0)}, r"betas in \[0, 1\); got 1e-08 and \[0.9, 1.0\]"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        OptimConfig(**wrong)
