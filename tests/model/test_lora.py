from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from random_checkpoint import random_arrays

from culet.architecture.embedding_config import tiny
from culet.errors import InputError
from culet.model.batch import pack
from culet.model.embedding_model import EmbeddingModel
from culet.model.layers import Linear
from culet.model.lora import LoraConfig, LoraLinear, add_lora, merge_lora
from culet.model.weights import from_arrays, to_arrays

BATCH = pack([[20, 21, 22], [30, 31], list(range(20, 60))])


def tiny_model() -> EmbeddingModel:
    return from_arrays(tiny(), random_arrays(tiny()))


def lora_model(*, seed: int = 0) -> EmbeddingModel:
    model = tiny_model()
    add_lora(model, LoraConfig(rank=4, scale=8.0), seed=seed)
    return model


def train_a_little(model: EmbeddingModel) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        vectors = model(BATCH)
        (vectors[0] @ vectors[1] - vectors[0] @ vectors[2]).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_training_starts_at_the_model_it_is_given() -> None:
    torch.testing.assert_close(lora_model()(BATCH), tiny_model()(BATCH), rtol=0, atol=1e-7)


def test_only_the_thin_matrices_train() -> None:
    model = lora_model()
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    linears = {name for name, module in model.named_modules() if isinstance(module, LoraLinear)}
    assert names == {f"{name}.{part}" for name in linears for part in ("a", "b")}
    assert len(linears) == 7 * 4 + 2  # qkv, out, gate_up and down of each layer, and the head
    before = {name: value.clone() for name, value in model.named_parameters()}
    train_a_little(model)
    moved = {n for n, value in model.named_parameters() if not torch.equal(value, before[n])}
    assert moved == names
    sizes = {name: tuple(p.shape) for name, p in model.named_parameters() if name in names}
    assert sizes["up.a"] == (4, 32)
    assert sizes["up.b"] == (64, 4)


def test_merging_changes_no_vector_and_leaves_plain_linear_maps() -> None:
    model = lora_model()
    train_a_little(model)
    with torch.inference_mode():
        before = model(BATCH)
    assert (before - tiny_model()(BATCH)).abs().max() > 1e-2
    merge_lora(model)
    torch.testing.assert_close(model(BATCH), before, rtol=0, atol=1e-6)
    assert not any(isinstance(module, LoraLinear) for module in model.modules())
    assert set(to_arrays(model)) == set(tiny().weight_shapes())
    again = from_arrays(tiny(), to_arrays(model))
    torch.testing.assert_close(again(BATCH), before, rtol=0, atol=1e-6)


def test_the_merged_weight_is_base_plus_scaled_product() -> None:
    base = Linear(2, 2)
    base.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    addition = LoraLinear(base, LoraConfig(rank=1, scale=3.0), torch.Generator().manual_seed(0))
    addition.a.data = torch.tensor([[1.0, 2.0]])
    addition.b.data = torch.tensor([[10.0], [0.0]])
    x = torch.tensor([[1.0, 1.0]])
    assert addition(x).tolist() == [[1 + 3 * 30, 1]]
    assert addition.merged().weight.tolist() == [[31, 60], [0, 1]]


def test_the_seed_decides_the_random_half() -> None:
    first, again, other = (lora_model(seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.up.a, again.up.a)
    assert not torch.equal(first.up.a, other.up.a)
    assert not torch.equal(first.encoder.blocks[0].ffn.down.a, first.encoder.blocks[1].ffn.down.a)


def test_a_copy_of_a_model_with_additions_is_its_own() -> None:
    model = lora_model()
    twin = copy.deepcopy(model)
    train_a_little(twin)
    np.testing.assert_array_equal(model.up.b.detach(), np.zeros((64, 4)))


def test_senseless_settings_are_refused() -> None:
    with pytest.raises(InputError, match=r"rank >= 1 and scale > 0, got 0, 32\.0"):
        LoraConfig(rank=0)
    with pytest.raises(InputError, match="rank >= 1"):
        LoraConfig(scale=0.0)
