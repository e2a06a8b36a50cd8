"""The published sizes count exactly, and shapes that cannot be are refused."""

from dataclasses import replace

import pytest

from culet.architecture.embedding_config import EmbeddingConfig, tiny
from culet.architecture.generating_config import (
    DecoderConfig,
    EncoderDecoderConfig,
    gemma3_1b,
    gemma3_270m,
    t5gemma,
)
from culet.errors import InputError


def test_published_decoders_count_exactly() -> None:
    assert gemma3_270m().num_parameters() == 268_098_176
    assert gemma3_1b().num_parameters() == 999_885_952


@pytest.mark.parametrize(
    ("sizes", "count"), [((8, 512, 1024, 8), 312_517_632), ((12, 768, 2048, 12), 591_490_560)]
)
def test_published_t5gemma_counts_exactly(sizes: tuple[int, int, int, int], count: int) -> None:
    assert t5gemma(*sizes).num_parameters() == count


def two_b() -> EncoderDecoderConfig:
    """Return T5Gemma 2B-2B: the example of T5Gemma 2's table 1."""
    base = t5gemma(26, 2304, 9216, 8)
    encoder = replace(base.encoder, num_kv_heads=4, head_dim=256)
    return EncoderDecoderConfig(encoder, DecoderConfig(replace(encoder, causal=True)))


def test_tying_and_merging_save_what_the_paper_says() -> None:
    config = two_b()
    tied = replace(config, tied_embeddings=True)
    merged = replace(config, cross="merged")
    assert 1 - tied.num_parameters() / config.num_parameters() == pytest.approx(0.1054, abs=1e-4)
    assert 1 - merged.num_parameters() / config.num_parameters() == pytest.approx(0.0658, abs=1e-4)


def test_merged_attention_needs_equal_widths() -> None:
    config = t5gemma(2, 64, 96, 1)
    wide = replace(config.encoder, model_dim=128)
    with pytest.raises(InputError, match="as wide as the decoder, got 128 and 64"):
        EncoderDecoderConfig(wide, config.decoder, cross="merged")


def test_a_decoder_is_causal_and_an_embedding_model_is_not() -> None:
    with pytest.raises(InputError, match="must be causal"):
        DecoderConfig(tiny().encoder)
    causal = replace(tiny().encoder, causal=True)
    with pytest.raises(InputError, match="must have causal = False, got True"):
        EmbeddingConfig(causal, projection_dim=8, embedding_dim=8, widths=(8,))
