from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from random_checkpoint import random_arrays

from culet.architecture.embedding_config import EmbeddingConfig, tiny
from culet.errors import CheckpointError
from culet.model.embedding_model import EmbeddingModel
from culet.model.weights import from_arrays, parameter_sources, to_arrays

CONFIGS = [tiny(), replace(tiny(), pooling="attention")]


@pytest.mark.parametrize("config", CONFIGS)
def test_weights_come_back_as_they_went_in(config: EmbeddingConfig) -> None:
    arrays = random_arrays(config)
    back = to_arrays(from_arrays(config, arrays))
    assert list(back) == list(config.weight_shapes())
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)


@pytest.mark.parametrize("config", CONFIGS)
def test_every_weight_has_one_place_in_the_model(config: EmbeddingConfig) -> None:
    with torch.device("meta"):
        sources = parameter_sources(EmbeddingModel(config))
    places = [weight for weights in sources.values() for weight in weights]
    assert sorted(places) == sorted(config.weight_shapes())


def test_query_key_and_value_are_stacked_in_this_order() -> None:
    arrays = random_arrays(tiny())
    model = from_arrays(tiny(), arrays)
    block, name = model.encoder.blocks[3], "blocks.3."
    stacked = [arrays[f"{name}attention.{part}"] for part in ("query", "key", "value")]
    np.testing.assert_array_equal(block.attention.qkv.weight.detach(), np.concatenate(stacked))
    stacked = [arrays[f"{name}ffn.{part}"] for part in ("gate", "up")]
    np.testing.assert_array_equal(block.ffn.gate_up.weight.detach(), np.concatenate(stacked))


def test_a_model_may_be_kept_in_bfloat16() -> None:
    arrays = random_arrays(tiny())
    model = from_arrays(tiny(), arrays, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    expected = torch.from_numpy(arrays["up"]).to(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(to_arrays(model)["up"], expected)


def test_a_model_never_changes_the_arrays_it_came_from() -> None:
    arrays = random_arrays(tiny())
    kept = arrays["up"].copy()
    model = from_arrays(tiny(), arrays)
    with torch.no_grad():
        model.up.weight.zero_()
    np.testing.assert_array_equal(arrays["up"], kept)


def test_missing_superfluous_and_misshapen_weights_are_named() -> None:
    arrays = random_arrays(tiny())
    lacking = {name: array for name, array in arrays.items() if name != "blocks.2.ffn.up"}
    with pytest.raises(CheckpointError, match=r"missing \['blocks\.2\.ffn\.up'\], unexpected \[\]"):
        from_arrays(tiny(), lacking)
    with pytest.raises(CheckpointError, match=r"missing \[\], unexpected \['bias'\]"):
        from_arrays(tiny(), arrays | {"bias": np.zeros(3)})
    with pytest.raises(
        CheckpointError, match=r"weight up must have shape \(64, 32\) by the config, got \(32, 64\)"
    ):
        from_arrays(tiny(), arrays | {"up": arrays["up"].T})
    # the key's rows would fill the value's place if only their sum were looked at
    short = arrays["blocks.0.attention.key"][:-1]
    with pytest.raises(CheckpointError, match=r"attention\.key must have shape \(16, 32\)"):
        from_arrays(tiny(), arrays | {"blocks.0.attention.key": short})
