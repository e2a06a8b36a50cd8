from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from random_checkpoint import random_arrays, write_random

import culet
from culet.architecture.embedding_config import tiny
from culet.model.batch import TokenBatch, pack
from culet.model.embedding_model import EmbeddingModel
from culet.model.pooling import AttentionPool, first_pool, last_pool, mean_pool
from culet.model.weights import from_arrays

# A text of one token, then two of three, in packed order.
HIDDEN = torch.tensor([[1.0, 2.0], [0, 3], [3, 0], [6, 6], [1, 1], [2, 2], [6, 0]])


def batch() -> TokenBatch:
    return pack([[5], [5, 6, 7], [5, 6, 8]])


def test_mean_pool_averages_every_token_of_a_text() -> None:
    assert mean_pool(HIDDEN, batch()).tolist() == [[1, 2], [3, 3], [3, 1]]


def test_first_pool_averages_the_first_tokens_there_are() -> None:
    assert first_pool(HIDDEN, batch(), 1).tolist() == [[1, 2], [0, 3], [1, 1]]
    assert first_pool(HIDDEN, batch(), 2).tolist() == [[1, 2], [1.5, 1.5], [1.5, 1.5]]
    assert first_pool(HIDDEN, batch(), 9).tolist() == mean_pool(HIDDEN, batch()).tolist()


def test_last_pool_averages_the_last_tokens_there_are() -> None:
    assert last_pool(HIDDEN, batch(), 1).tolist() == [[1, 2], [6, 6], [6, 0]]
    assert last_pool(HIDDEN, batch(), 2).tolist() == [[1, 2], [4.5, 3], [4, 1]]
    assert last_pool(HIDDEN, batch(), 9).tolist() == mean_pool(HIDDEN, batch()).tolist()


def test_bfloat16_states_are_averaged_in_float32() -> None:
    states = torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.bfloat16)
    pooled = mean_pool(states, pack([[5, 6, 7]]))
    torch.testing.assert_close(pooled, torch.tensor([[1 / 3]]))  # 0.3340 in bfloat16


def test_attention_pool_weighs_values_by_the_softmax_of_probe_and_key() -> None:
    pool = AttentionPool(2, num_heads=1)
    pool.probe.data = torch.tensor([2**0.5, 0.0])  # cancels 1 / sqrt(head_dim)
    pool.key.weight.data = torch.eye(2)
    pool.value.weight.data = torch.tensor([[0.0, 1.0], [1.0, 0.0]])  # swaps the two numbers
    states = torch.tensor([[0.0, 8.0], [torch.log(torch.tensor(3.0)), 4.0]])  # weights 1/4, 3/4
    pooled = pool(states, pack([[5, 6]]))
    expected = torch.tensor([[0.25 * 8 + 0.75 * 4, 0.75 * torch.log(torch.tensor(3.0)).item()]])
    torch.testing.assert_close(pooled, expected)


def test_each_head_of_attention_pool_has_its_own_weights() -> None:
    pool = AttentionPool(4, num_heads=2)
    pool.probe.data = torch.tensor([100.0, 0, -100.0, 0])
    pool.key.weight.data = pool.value.weight.data = torch.eye(4)
    states = torch.tensor([[1.0, 10, 1.0, 10], [0.0, 20, 0.0, 20]])
    # the first head takes the token with the largest key, the second that with the smallest
    torch.testing.assert_close(pool(states, pack([[5, 6]])), torch.tensor([[1.0, 10, 0, 20]]))


@pytest.mark.parametrize("pooling", ["mean", "first", "last", "attention"])
def test_pooling_keeps_texts_apart_and_in_order(pooling: str) -> None:
    config = replace(tiny(), pooling=pooling, pooling_tokens=2)
    model = from_arrays(config, random_arrays(config))
    texts = [[20, 21, 22], [30], [40, 41], [50, 51, 52]]
    with torch.inference_mode():
        together = model(pack(texts))
        alone = torch.cat([model(pack([text])) for text in texts])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_four_poolings_of_one_encoder_give_four_vectors() -> None:
    vectors = []
    for pooling in ("mean", "first", "last", "attention"):
        config = replace(tiny(), pooling=pooling)
        with torch.inference_mode():
            model: EmbeddingModel = from_arrays(config, random_arrays(config))
            vectors.append(model(pack([[20, 21, 22]])))
    assert torch.pdist(torch.cat(vectors)).min() > 0.1


@pytest.mark.parametrize(
    "changes",
    [
        {"pooling": "attention", "pooling_heads": 8},
        {"pooling": "first", "pooling_tokens": 3},
        {"pooling": "last", "pooling_tokens": 2},
    ],
)
def test_a_pooling_of_our_own_survives_saving(tmp_path, changes) -> None:
    config = replace(tiny(), **changes)
    folder = write_random(tmp_path / "m", config, prompts={})
    embedder = culet.load(folder, precision="float32")
    assert embedder.checkpoint.config == config
    model = from_arrays(config, random_arrays(config))
    text = "abcde"
    ids = [2, *(byte + 16 for byte in text.encode()), 1]
    with torch.inference_mode():
        expected = model(pack([ids]))[0]
    torch.testing.assert_close(torch.tensor(embedder.encode_query(text)), expected)
