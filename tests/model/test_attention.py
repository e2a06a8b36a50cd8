from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from attention_doubles import heads
from random_checkpoint import random_arrays

from culet.architecture.embedding_config import tiny
from culet.architecture.encoder_config import EncoderConfig
from culet.model.attention import Attention, _cached_mask, attend, window_mask
from culet.model.batch import pack
from culet.model.embedding_model import EmbeddingModel
from culet.model.encoder import Encoder
from culet.model.weights import from_arrays


def by_definition(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """Softmax over the whole matrix of scores, with what is too far at minus infinity."""
    scores = scale * query @ key.transpose(-1, -2)
    if window is not None:
        place = torch.arange(query.shape[2])
        scores[..., (place[:, None] - place[None, :]).abs() > window] = -torch.inf
    return scores.softmax(-1) @ value


def test_the_window_is_counted_on_each_side_and_not_itself() -> None:
    assert window_mask(5, 5, window=1).int().tolist() == [
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 1, 1, 1, 0],
        [0, 0, 1, 1, 1],
        [0, 0, 0, 1, 1],
    ]


def test_a_band_sees_its_own_columns_of_the_window() -> None:
    # queries 2 and 3 of a text, keys 0 … 4
    assert window_mask(2, 5, window=2, offset=2).int().tolist() == [
        [1, 1, 1, 1, 1],
        [0, 1, 1, 1, 1],
    ]


def test_a_query_of_embeddinggemma_sees_513_tokens() -> None:
    row = window_mask(2048, 2048, window=256)[1000]
    assert int(row.sum()) == 513
    assert row.nonzero().flatten()[[0, -1]].tolist() == [744, 1256]


@pytest.mark.parametrize("window", [1, 2, 3, 8, None])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 8, 9, 10, 16, 17, 18, 25])
def test_banded_attention_equals_the_full_masked_matrix(length: int, window: int | None) -> None:
    query, key, value = heads(length)
    banded = attend(query, key, value, scale=0.3, window=window)
    whole = by_definition(query, key, value, scale=0.3, window=window)
    torch.testing.assert_close(banded, whole, rtol=0, atol=2e-6)


def test_banded_attention_has_the_gradients_of_the_full_matrix() -> None:
    gradients = []
    for function in (attend, by_definition):
        inputs = [x.clone().requires_grad_() for x in heads(19)]
        function(*inputs, scale=0.3, window=4).square().sum().backward()
        gradients.append([x.grad for x in inputs])
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_mask_made_while_embedding_can_be_trained_with() -> None:
    _cached_mask.cache_clear()
    inputs = [x.clone().requires_grad_() for x in heads(23, seed=1)]
    with torch.inference_mode():
        attend(*heads(23), scale=1.0, window=5)
        assert not _cached_mask(5, 10, 5, 0, torch.device("cpu")).is_inference()
    attend(*inputs, scale=1.0, window=5).sum().backward()
    assert all(x.grad is not None for x in inputs)


def reach(attention: Attention, length: int) -> list[int]:
    """Return which tokens change what the first token gathers when they are changed."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(length, 32, generator=generator)
    batch = pack([np.arange(length)])
    rotation = (torch.ones(length, 16), torch.zeros(length, 16))  # no rotation
    before = attention(x, batch, *rotation)[0]
    moved = []
    for token in range(length):
        changed = x.clone()
        changed[token] += 1.0
        if not torch.equal(attention(changed, batch, *rotation)[0], before):
            moved.append(token)
    return moved


def small_window() -> EncoderConfig:
    return replace(tiny().encoder, window=3, num_layers=2, global_layers=(1,))


def model_of(config: EncoderConfig) -> EmbeddingModel:
    whole = replace(tiny(), encoder=config)
    return from_arrays(whole, random_arrays(whole))


def test_a_local_layer_reaches_its_window_and_a_global_one_the_whole_text() -> None:
    local, whole = (block.attention for block in model_of(small_window()).encoder.blocks)
    with torch.inference_mode():
        assert reach(local, 10) == [0, 1, 2, 3]
        assert reach(whole, 10) == list(range(10))


def test_key_heads_are_shared_by_neighbouring_query_heads() -> None:
    config = replace(tiny().encoder, num_heads=4, num_kv_heads=2)
    attention = Attention(config, layer=0)
    generator = torch.Generator().manual_seed(0)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    attention.out.weight.data = torch.eye(64)[:32]  # heads 0 and 1, as they are
    x = torch.randn(5, 32, generator=generator)
    batch = pack([np.arange(5)])
    rotation = (torch.ones(5, 16), torch.zeros(5, 16))
    before = attention(x, batch, *rotation)
    value_rows = slice(4 * 16 + 2 * 16 + 16, None)  # values of the second group
    attention.qkv.weight.data[value_rows] += 1.0
    assert torch.equal(attention(x, batch, *rotation), before)


def changed_by(length: int, **changes: object) -> float:
    """Return how far a vector moves when the encoder's config is changed and its weights not."""
    config = replace(tiny().encoder, window=3, num_layers=2, global_layers=(1,))
    ids = np.random.default_rng(0).integers(16, 272, length)
    with torch.inference_mode():
        before, after = (model_of(c)(pack([ids])) for c in (config, replace(config, **changes)))
    return float((before - after).abs().max())


def test_each_rotary_base_matters_in_the_layers_of_its_kind() -> None:
    assert changed_by(40, local_rope_base=100.0) > 1e-4
    assert changed_by(40, global_rope_base=100.0) > 1e-4
    assert changed_by(40, local_rope_base=100.0, global_layers=(0, 1)) > 0
    everywhere = {"global_layers": (0, 1)}
    only_local = changed_by(40, **everywhere) - changed_by(40, **everywhere, local_rope_base=7.0)
    assert only_local == 0.0  # without a local layer the local base is not used


def test_which_layers_are_global_matters_beyond_the_window_only() -> None:
    one_base = {"local_rope_base": 1e6}
    assert changed_by(40, global_layers=(0,)) > 1e-3
    assert changed_by(4, **one_base) > 1e-6
    config = replace(small_window(), local_rope_base=1e6)  # then only the window tells them apart
    ids = np.arange(20, 24)
    with torch.inference_mode():
        vectors = [
            model_of(replace(config, global_layers=layers))(pack([ids])) for layers in ((1,), (0,))
        ]
    torch.testing.assert_close(vectors[0], vectors[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("causal", [False, True])
def test_kept_attention_is_the_softmax_of_every_query_over_what_it_sees(
    softcap: float | None, causal: bool
) -> None:
    config = replace(
        small_window(), num_heads=4, num_kv_heads=2, causal=causal, attention_softcap=softcap
    )
    stack = Encoder(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in stack.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    batch = pack([np.arange(20, 29), np.arange(40, 45), np.arange(60, 69)])
    keep = {"attention.0", "attention.1", "hidden.0"}
    with torch.inference_mode():
        encoded = stack(batch, compute_dtype=torch.float32, keep=keep)
        plain = stack(batch, compute_dtype=torch.float32)
        x = stack.embedded(batch.ids, torch.float32)
        rotations = stack.rotations(batch.positions, x.dtype)
        assert torch.equal(encoded.hidden, plain.hidden)
        assert set(encoded.attention) == {0, 1}
        for layer, (block, rotation) in enumerate(zip(stack.blocks, rotations, strict=True)):
            normed = block.attention_norm(x)
            query, key, value = block.attention.project(normed, *rotation)
            outputs = []
            for text, start in enumerate((0, 5, 14)):  # shortest first
                length = int(batch.lengths[text])
                shares = encoded.attention[layer][text]
                assert shares.shape == (4, length, length)
                for head, q, k in np.ndindex(4, length, length):
                    assert (shares[head, q, k] > 0) == (
                        (layer == 1 or abs(q - k) <= 3) and (k <= q or not causal)
                    )
                scores = config.scale * torch.stack(
                    [query[start : start + length, h] @ key[start : start + length, h // 2].T
                     for h in range(4)]
                )  # fmt: skip
                if softcap is not None:
                    scores = softcap * torch.tanh(scores / softcap)
                weight = torch.where(shares > 0, scores.exp(), 0)
                torch.testing.assert_close(
                    shares, weight / weight.sum(-1, keepdim=True), rtol=0, atol=1e-6
                )
                own = value[start : start + length].repeat_interleave(2, dim=1)
                outputs.append(torch.einsum("hqk,kha->qha", shares, own))
            attended = block.attention(normed, batch, *rotation)
            torch.testing.assert_close(
                block.attention.project_out(torch.cat(outputs)), attended, rtol=0, atol=1e-5
            )  # what the layer itself gathers
            x = block(x, batch, *rotation)
            if layer == 0:
                assert torch.equal(x, encoded.kept["hidden.0"])
