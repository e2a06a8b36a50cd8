"""Settings of a new head, and the embedding model they make of an encoder."""

from __future__ import annotations

from dataclasses import replace

import pytest
from training_doubles import model

from culet.errors import InputError
from culet.stages.new_head import HeadConfig, embedding_config


def test_sizes_follow_the_encoder_unless_they_are_given() -> None:
    encoder = model().config.encoder
    config = embedding_config(encoder, HeadConfig())
    assert (config.projection_dim, config.embedding_dim) == (64, 16)
    assert config.widths == (16, 8, 4, 2)
    head = HeadConfig(projection_dim=24, embedding_dim=8, widths=(8, 4), max_length=128)
    config = embedding_config(encoder, head)
    assert (config.projection_dim, config.embedding_dim, config.widths) == (24, 8, (8, 4))
    assert config.encoder.max_length == 128


def test_an_encoder_that_no_embedding_model_may_have_is_refused() -> None:
    encoder = model().config.encoder
    with pytest.raises(InputError, match="must have query_key_norm = True"):
        embedding_config(replace(encoder, query_key_norm=False), HeadConfig())
    with pytest.raises(InputError, match="must be positive"):
        HeadConfig(projection_dim=-1)
    with pytest.raises(InputError, match=r"whiten must be from 0 to 0\.5"):
        HeadConfig(whiten=0.7)
    with pytest.raises(InputError, match="sublayers must be above 0 and at most 1, got 0"):
        HeadConfig(sublayers=0.0)
