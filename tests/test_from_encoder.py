"""An encoder gets a head, and stays what it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from training_doubles import model

from culet.errors import InputError
from culet.model.batch import pack
from culet.model.from_encoder import HeadConfig, embedding_config, with_head
from culet.model.weights import from_arrays, to_arrays


def test_the_head_keeps_lengths_and_the_encoder_is_untouched() -> None:
    before = model()
    encoder = before.config.encoder
    config = embedding_config(encoder, HeadConfig())
    assert (config.projection_dim, config.embedding_dim) == (64, 16)
    assert config.widths == (16, 8, 4, 2)
    arrays = with_head(config, to_arrays(before), HeadConfig())
    after = from_arrays(config, arrays)
    batch = pack([[2, 50, 60, 1], [2, 70, 1]])
    hidden = [m.encoder(batch, compute_dtype=torch.float32).hidden for m in (before.eval(), after)]
    assert torch.equal(*hidden)
    x = torch.randn(7, 16)
    assert torch.allclose(after.down(after.up(x)).norm(dim=1), x.norm(dim=1), rtol=1e-4)


def test_the_head_follows_its_seed_and_settings() -> None:
    encoder = model().config.encoder
    head = HeadConfig(projection_dim=24, embedding_dim=8, widths=(8, 4), max_length=128)
    config = embedding_config(encoder, head)
    assert (config.projection_dim, config.embedding_dim, config.widths) == (24, 8, (8, 4))
    assert config.encoder.max_length == 128
    arrays = to_arrays(model())
    one, same, other = (
        with_head(config, arrays, replace(head, seed=seed))["down"] for seed in (0, 0, 1)
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_an_encoder_that_no_embedding_model_may_have_is_refused() -> None:
    encoder = model().config.encoder
    with pytest.raises(InputError, match="must have query_key_norm = True"):
        embedding_config(replace(encoder, query_key_norm=False), HeadConfig())
    with pytest.raises(InputError, match="must be positive"):
        HeadConfig(projection_dim=-1)
