"""What becomes of a decoder's weights, proved on outputs and not only on names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from decoder_doubles import gemma2_like, gemma3_like, loud_arrays, texts_of

from culet.architecture.embedding_config import EmbeddingConfig
from culet.architecture.generating_config import DecoderConfig, gemma3_270m, t5gemma
from culet.errors import CheckpointError, InputError
from culet.model.adapt import adapt, adapted_config, encoder_of, is_balanced, origins
from culet.model.batch import pack, pack_pairs
from culet.model.weights import from_arrays, to_arrays

SOURCES = {
    "gemma 3": gemma3_like(),
    "gemma 2": gemma2_like(),
    "own head": replace(gemma3_like(), tied_head=False),
}
every_source = pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
LENGTHS = (1, 9, 30, 300)


def larger() -> DecoderConfig:
    """Return a decoder as wide as no other."""
    return gemma3_like(num_layers=8, model_dim=48, num_heads=2, num_kv_heads=1)


@every_source
@pytest.mark.parametrize("cross", ["separate", "merged"])
def test_with_the_causal_mask_put_back_the_encoder_is_the_source(
    source: DecoderConfig, cross: str
) -> None:
    arrays = loud_arrays(source)
    config = adapted_config(source, cross=cross)  # type: ignore[arg-type]
    assert not config.encoder.causal
    window = source.stack.window
    causal = replace(config.encoder, causal=True, window=window, window_after=None)
    back = replace(config, encoder=causal)
    model, plain = from_arrays(back, adapt(config, arrays)), from_arrays(source, arrays)
    batch = pack(texts_of(*LENGTHS))
    with torch.inference_mode():
        torch.testing.assert_close(model.encode(batch), plain(batch), rtol=0, atol=0)
        free = from_arrays(config, adapt(config, arrays)).encode(batch)
        assert (free - plain(batch)).abs().max() > 0.1  # the mask does matter


@every_source
@pytest.mark.parametrize("norms", ["copied", "plain", "quiet"])
def test_with_cross_attention_silenced_the_decoder_is_the_source(
    source: DecoderConfig, norms: str
) -> None:
    arrays = loud_arrays(source)
    config = adapted_config(source)
    adapted = adapt(config, arrays, cross_norms=norms)  # type: ignore[arg-type]
    silent = adapted | {
        name: np.full_like(array, -1.0)  # 1 + w = 0
        for name, array in adapted.items()
        if name.endswith("cross_post_norm")
    }
    batch = pack_pairs(texts_of(*LENGTHS), texts_of(20, 30, 40, 280, seed=1))
    models = [from_arrays(config, each) for each in (silent, adapted)]
    plain = from_arrays(source, arrays)
    with torch.inference_mode():
        expected = plain.logits(plain(batch.target))
        ours, heard = (model.logits(model(batch)) for model in models)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    assert (heard - expected).abs().max() > 1e-2


def test_a_quiet_beginning_is_nearly_the_source() -> None:
    source = gemma3_like()
    arrays = loud_arrays(source)
    config = adapted_config(source)
    batch = pack_pairs(texts_of(20), texts_of(20, seed=1))
    plain = from_arrays(source, arrays)
    distance = {}
    with torch.inference_mode():
        expected = plain.logits(plain(batch.target))
        for norms in ("quiet", "plain", "copied"):
            model = from_arrays(config, adapt(config, arrays, cross_norms=norms))  # type: ignore[arg-type]
            distance[norms] = float((model.logits(model(batch)) - expected).abs().mean())
    assert distance["quiet"] < 0.2 * min(distance["plain"], distance["copied"])


@every_source
def test_only_the_norms_of_cross_attention_are_new_in_a_balanced_pair(
    source: DecoderConfig,
) -> None:
    config = adapted_config(source)
    assert is_balanced(config)
    new = [name for name, origin in origins(config).items() if origin is None]
    assert len(new) == 2 * source.stack.num_layers
    assert all(name.endswith(("cross_norm", "cross_post_norm")) for name in new)
    arrays = loud_arrays(source)
    adapted = adapt(config, arrays)
    for layer in range(source.stack.num_layers):
        for part in ("query", "key", "value", "out"):
            np.testing.assert_array_equal(
                adapted[f"decoder.blocks.{layer}.cross.{part}"],
                arrays[f"blocks.{layer}.attention.{part}"],
            )


def test_merged_attention_has_nothing_new_and_tied_embeddings_one_table() -> None:
    source = gemma3_like()
    arrays = loud_arrays(source)
    config = adapted_config(source, cross="merged", tied_embeddings=True, encoder_window="split")
    assert None not in origins(config).values()
    model = from_arrays(config, adapt(config, arrays))
    assert model.decoder.stack.embed is model.encoder.embed
    table = source.stack.vocab_size * source.stack.model_dim
    assert config.num_parameters() == 2 * source.num_parameters() - table
    back = to_arrays(model)
    for name, origin in origins(config).items():
        assert origin is not None
        np.testing.assert_array_equal(back[name], arrays[origin.name])


def test_an_unbalanced_pair_takes_each_side_once_and_draws_cross_attention() -> None:
    source, other = gemma3_like(), larger()
    arrays, wide = loud_arrays(source), loud_arrays(other, seed=1)
    config = adapted_config(source, other)
    assert not is_balanced(config)
    adapted = adapt(config, arrays, wide, seed=3)
    for name, origin in origins(config).items():
        if origin is None:
            assert ".cross" in name
        else:
            expected = (wide if origin.source == "encoder" else arrays)[origin.name]
            np.testing.assert_array_equal(adapted[name], expected)
    key = adapted["decoder.blocks.0.cross.key"]
    assert key.shape == (32, 48)
    assert key.std() == pytest.approx(48**-0.5, rel=0.1)
    assert adapted["decoder.blocks.0.cross.key_norm"].tolist() == [0.0] * 16
    for seed, same in ((3, True), (4, False)):
        again = adapt(config, arrays, wide, seed=seed)["decoder.blocks.0.cross.key"]
        assert np.array_equal(again, key) == same
    model = from_arrays(config, adapted)
    with torch.inference_mode():
        assert model(pack_pairs(texts_of(5), texts_of(6))).isfinite().all()


@pytest.mark.parametrize(
    ("rule", "window", "after"), [("half", 256, None), ("split", 255, 256), ("whole", 511, None)]
)
def test_the_encoder_sees_what_the_rule_says(rule: str, window: int, after: int | None) -> None:
    config = adapted_config(gemma3_270m(), encoder_window=rule)  # type: ignore[arg-type]
    assert (config.encoder.window, config.encoder.window_after) == (window, after)
    assert config.decoder.stack.window == 511


def test_t5gemma_is_its_decoder_adapted() -> None:
    published = t5gemma(8, 512, 1024, 8)
    config = adapted_config(published.decoder, encoder_window="whole")
    assert config == published
    assert config.num_parameters() == 312_517_632


def test_the_encoder_becomes_the_encoder_of_an_embedding_model() -> None:
    source = gemma3_like()
    config = adapted_config(source)
    arrays = adapt(config, loud_arrays(source))
    encoder, weights = encoder_of(config, arrays)
    whole = EmbeddingConfig(encoder, projection_dim=64, embedding_dim=32, widths=(32,))
    head = {"up": np.eye(64, 32, dtype=np.float32), "down": np.eye(32, 64, dtype=np.float32)}
    model = from_arrays(whole, weights | head)
    batch = pack(texts_of(*LENGTHS))
    with torch.inference_mode():
        hidden = model.encoder(batch, compute_dtype=torch.float32).hidden
        torch.testing.assert_close(hidden, from_arrays(config, arrays).encode(batch))


def test_what_does_not_fit_is_named() -> None:
    source, arrays = gemma3_like(), loud_arrays(gemma3_like())
    config = adapted_config(source)
    lacking = {name: array for name, array in arrays.items() if name != "blocks.1.ffn.up"}
    with pytest.raises(CheckpointError, match=r"missing \['blocks.1.ffn.up'\], unexpected \[\]"):
        adapt(config, lacking)
    with pytest.raises(CheckpointError, match=r"missing \[\], unexpected \['head'\]"):
        adapt(config, arrays | {"head": arrays["embed"]})
    with pytest.raises(CheckpointError, match=r"must have shape \(48, 32\), got \(32, 48\)"):
        adapt(config, arrays | {"blocks.1.ffn.up": arrays["blocks.1.ffn.up"].T})
    with pytest.raises(InputError, match="share a tokenizer, got vocabularies of 300 and 272"):
        adapted_config(source, gemma3_like(vocab_size=300))
    with pytest.raises(InputError, match="tied embeddings need encoder and decoder from one"):
        adapted_config(source, larger(), tied_embeddings=True)
    with pytest.raises(InputError, match="must be 'half', 'split' or 'whole', got 'third'"):
        adapted_config(source, encoder_window="third")  # type: ignore[arg-type]
