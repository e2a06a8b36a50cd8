"""Layers with different numbers of heads, as after pruning: what closed heads would have given."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_checkpoint import random_arrays
from runtime_doubles import BFLOAT16, embed, reference, texts

from culet.architecture.embedding_config import EmbeddingConfig, tiny
from culet.architecture.encoder_config import EncoderConfig
from culet.architecture.generating_config import DecoderConfig
from culet.checkpoints.embedding import EmbeddingCheckpoint, read_embedding_model
from culet.checkpoints.own_config import own_table, read_own
from culet.checkpoints.write import write_checkpoint
from culet.errors import CheckpointError, InputError
from culet.model.batch import pack
from culet.model.embedding_model import EmbeddingModel, initialize
from culet.model.weights import from_arrays, to_arrays
from culet.runtime.openvino.engine import OpenVinoEngine
from culet.text.tokenizer_training import byte_tokenizer

FULL = replace(tiny(), encoder=replace(tiny().encoder, num_heads=4, num_kv_heads=2))
# Of each layer: the query heads that stay, then the key heads; two query heads share a key head.
OPEN = (
    ((0, 1), (0,)),
    ((0, 3), (0, 1)),
    ((), ()),
    ((2,), (1,)),
    ((0, 1, 2, 3), (0, 1)),
    ((1, 2), (0, 1)),
    ((3,), (1,)),  # a global layer
)


def pruned_config() -> EmbeddingConfig:
    heads, kv_heads = (tuple(len(part[i]) for part in OPEN) for i in (0, 1))
    return replace(FULL, encoder=replace(FULL.encoder, num_heads=heads, num_kv_heads=kv_heads))


def rows(weight: np.ndarray, heads: tuple[int, ...]) -> np.ndarray:
    width = FULL.encoder.head_dim
    return np.concatenate([weight[:0], *(weight[h * width : (h + 1) * width] for h in heads)])


def full_and_pruned() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return weights whose closed heads write next to nothing, and the same without these heads."""
    full = random_arrays(FULL)
    pruned = dict(full)
    for layer, (heads, kv_heads) in enumerate(OPEN):
        name = f"blocks.{layer}.attention"
        for part, kept in (("query", heads), ("key", kv_heads), ("value", kv_heads)):
            pruned[f"{name}.{part}"] = rows(full[f"{name}.{part}"], kept)
        columns = full[f"{name}.out"].T
        pruned[f"{name}.out"] = np.ascontiguousarray(rows(columns, heads).T)
        closed = [head for head in range(4) if head not in heads]
        for head in closed:
            # a view of columns of `out`; not 0, because a matrix of zeros is refused
            columns[head * 16 : (head + 1) * 16] *= 1e-9
    return full, pruned


def written(
    folder: Path, config: EmbeddingConfig, arrays: dict[str, np.ndarray]
) -> EmbeddingCheckpoint:
    tokenizer = byte_tokenizer().to_str()
    write_checkpoint(folder, config, arrays, tokenizer_json=tokenizer, prompts={"query": "q: "})
    return read_embedding_model(folder)


def test_a_model_without_its_closed_heads_gives_the_vectors_of_the_full_one() -> None:
    full, pruned = (
        from_arrays(config, arrays)
        for config, arrays in zip((FULL, pruned_config()), full_and_pruned(), strict=True)
    )
    batch = pack(texts((1, 5, 40, 5, 300)))
    torch.testing.assert_close(pruned(batch), full(batch), rtol=0, atol=2e-6)
    keep = {f"attention.{i}" for i in range(7)}
    shares = [m.encoder(batch, compute_dtype=torch.float32, keep=keep) for m in (full, pruned)]
    for layer, (heads, _) in enumerate(OPEN):
        for ours, all_heads in zip(*(s.attention[layer] for s in reversed(shares)), strict=True):
            torch.testing.assert_close(ours, all_heads[list(heads)], rtol=0, atol=2e-6)
    pruned(batch)[:, 0].sum().backward()  # it trains
    assert all(p.grad is not None for p in pruned.parameters() if p.numel())


@pytest.mark.parametrize(
    ("precision", "gap"), [("float32", 1e-5), (BFLOAT16, 0.02), ("int8", 0.05), ("int4", 0.2)]
)
def test_the_runtime_computes_it_too(precision: Any, gap: float, tmp_path: Path) -> None:
    if not isinstance(precision, str):
        precision = precision.values[0]
    checkpoints = [
        written(tmp_path / name, config, arrays)
        for name, config, arrays in zip(
            ("full", "pruned"), (FULL, pruned_config()), full_and_pruned(), strict=True
        )
    ]
    ids = texts((1, 5, 40, 5, 769))
    expected = reference(checkpoints[0], ids)
    engine = OpenVinoEngine(checkpoints[1], precision, threads=1, cache=tmp_path / "cache")
    assert np.abs(embed(engine, ids) - expected).max() <= gap
    if precision == "float32":
        again = OpenVinoEngine(checkpoints[0], precision, threads=1, cache=tmp_path / "cache")
        assert np.allclose(embed(again, ids), embed(engine, ids), rtol=0, atol=2e-6)


def test_a_checkpoint_keeps_the_heads_of_each_layer(tmp_path: Path) -> None:
    config, (_, pruned) = pruned_config(), full_and_pruned()
    checkpoint = written(tmp_path / "m", config, pruned)
    assert checkpoint.config == config
    model = from_arrays(config, checkpoint.arrays())
    assert all(np.array_equal(array, pruned[name]) for name, array in to_arrays(model).items())
    path = tmp_path / "m/config.json"
    stated = json.loads(path.read_text())
    assert (stated["num_attention_heads"], stated["num_key_value_heads"]) == (4, 2)
    assert stated["culet"]["num_heads"] == [2, 2, 0, 1, 4, 2, 1]
    assert stated["culet"]["num_kv_heads"] == [1, 2, 0, 1, 2, 2, 1]
    for odd, words in (
        (3, "a list of whole numbers, got 3"),
        ([2.5] * 7, "got \\[2.5"),
        ([2], "7 layers"),
    ):
        stated["culet"]["num_heads"] = odd
        path.write_text(json.dumps(stated))
        with pytest.raises(CheckpointError, match=words):
            read_embedding_model(tmp_path / "m")


def test_heads_of_decoders_are_kept_in_their_own_table(tmp_path: Path) -> None:
    stack = replace(
        FULL.encoder,
        causal=True,
        num_heads=(4, 2, 2, 4, 1, 4, 4),
        num_kv_heads=(2, 2, 1, 2, 1, 2, 2),
    )
    assert read_own(json.loads(json.dumps(own_table(stack))), tmp_path) == stack
    shapes = DecoderConfig(stack).weight_shapes()
    assert shapes["blocks.4.attention.query"] == (16, 32)


def test_one_number_for_all_layers_has_one_form() -> None:
    encoder = replace(FULL.encoder, num_heads=(4,) * 7, num_kv_heads=(2,) * 7)
    assert encoder == FULL.encoder
    assert replace(FULL, encoder=encoder).identity() == FULL.identity()
    assert pruned_config().identity() != FULL.identity()


def encoder_with(heads: Any, kv_heads: Any, **changes: Any) -> EncoderConfig:
    return replace(FULL.encoder, num_heads=heads, num_kv_heads=kv_heads, **changes)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "words"),
    [
        ((1, 2), 1, r"num_heads must be one number or one for each of 7 layers, got \(1, 2\)"),
        ((4, 4, 4, 4, 4, 4, 3), 2, "num_kv_heads must divide num_heads, got 2 and"),
        ((0, 4, 4, 4, 4, 4, 4), 2, "must divide"),
        ((-4, 4, 4, 4, 4, 4, 4), (0, 2, 2, 2, 2, 2, 2), "must divide"),
        ((0,) * 7, (0,) * 7, "num_heads must be at least 1, got"),
    ],
)
def test_impossible_numbers_of_heads_are_refused(heads: Any, kv_heads: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        encoder_with(heads, kv_heads)


def test_a_decoder_has_heads_in_every_layer() -> None:
    with pytest.raises(InputError, match="in a causal stack"):
        encoder_with((0, 4, 4, 4, 4, 4, 4), (0, 2, 2, 2, 2, 2, 2), causal=True)


def test_a_model_with_a_layer_without_heads_can_begin_from_nothing() -> None:
    model = initialize(EmbeddingModel(pruned_config()), seed=0)
    assert torch.isfinite(model(pack(texts((5, 9))))).all()
