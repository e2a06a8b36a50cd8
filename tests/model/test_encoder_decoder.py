"""The encoder-decoder against transformers, its masks, and the packing of pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from decoder_doubles import (
    gemma2_like,
    loud_arrays,
    padded,
    t5gemma2_like,
    t5gemma_like,
    texts_of,
    their_encoder_decoder,
)
from random_checkpoint import random_arrays

from culet.architecture.generating_config import EncoderDecoderConfig
from culet.errors import InputError
from culet.losses.tokens import IGNORED
from culet.model.attention import attend
from culet.model.batch import PairRun, Seq2SeqBatch, TokenBatch, pack, pack_pairs
from culet.model.encoder_decoder import EncoderDecoder
from culet.model.weights import from_arrays, parameter_sources, to_arrays

# the window is 8, or 3 and 4 in T5Gemma 2's encoder; equal pairs stand side by side
SOURCES = (1, 40, 9, 9, 17, 5, 9, 300, 2)
TARGETS = (3, 1, 12, 12, 40, 12, 7, 30, 270)


def unbalanced() -> EncoderDecoderConfig:
    """Return a pair whose encoder is wider and deeper than its decoder."""
    encoder = replace(
        gemma2_like().stack, causal=False, num_layers=5, model_dim=48, num_heads=2, num_kv_heads=1
    )
    return EncoderDecoderConfig(encoder, gemma2_like())


PAIRS = {
    "t5gemma": t5gemma_like(),
    "unbalanced": unbalanced(),
    "t5gemma 2": t5gemma2_like(),
    "t5gemma 2, scaled rope": t5gemma2_like(global_rope_scaling=8.0),
}
every_pair = pytest.mark.parametrize("config", PAIRS.values(), ids=PAIRS)


def batch_of(*, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray], Seq2SeqBatch]:
    sources, targets = texts_of(*SOURCES, seed=seed), texts_of(*TARGETS, seed=seed + 1)
    return sources, targets, pack_pairs(sources, targets)


def split_targets(packed: torch.Tensor, batch: Seq2SeqBatch) -> list[torch.Tensor]:
    """Return packed target rows as one tensor a pair, in the order of the caller."""
    pieces = packed.split(batch.target.lengths.tolist())
    return [pieces[place] for place in batch.target.order.tolist()]


def logits(model: EncoderDecoder, batch: Seq2SeqBatch) -> torch.Tensor:
    with torch.inference_mode():
        return model.logits(model(batch))


@every_pair
def test_logits_and_loss_equal_transformers(config: EncoderDecoderConfig) -> None:
    arrays = loud_arrays(config)
    model, reference = from_arrays(config, arrays), their_encoder_decoder(config, arrays)
    sources, targets, batch = batch_of()
    packed = logits(model, batch)
    labels = padded(targets)["input_ids"].where(padded(targets)["attention_mask"].bool(), IGNORED)
    with torch.inference_mode():
        theirs = reference(**padded(sources), labels=labels)
    for i, ours in enumerate(split_targets(packed, batch)):
        torch.testing.assert_close(ours, theirs.logits[i, : len(targets[i])], rtol=0, atol=1e-4)
    loss = F.cross_entropy(packed, batch.labels)
    torch.testing.assert_close(loss, theirs.loss, rtol=0, atol=1e-4)


@every_pair
def test_the_last_input_token_reaches_the_first_state_of_the_encoder(
    config: EncoderDecoderConfig,
) -> None:
    model = from_arrays(config, loud_arrays(config))
    (text,) = texts_of(6)
    changed = np.append(text[:-1], text[-1] + 1)
    with torch.inference_mode():
        first, second = (model.encode(pack([ids]))[0] for ids in (text, changed))
    assert (first - second).abs().max() > 1e-3


@every_pair
def test_a_target_token_changes_logits_only_from_its_place_on(config: EncoderDecoderConfig) -> None:
    model = from_arrays(config, loud_arrays(config))
    source, target = texts_of(11, 20)
    changed = target.copy()
    changed[7] += 1  # read by the decoder at place 8
    before, after = (logits(model, pack_pairs([source], [ids])) for ids in (target, changed))
    difference = (before - after).abs().amax(dim=1)
    assert difference[:8].max() == 0
    assert difference[8] > 1e-3


@every_pair
def test_every_target_token_sees_every_source_token_and_no_other_source(
    config: EncoderDecoderConfig,
) -> None:
    model = from_arrays(config, loud_arrays(config))
    batch = pack_pairs(texts_of(30, 30), texts_of(20, 20, seed=1))
    generator = torch.Generator().manual_seed(0)
    memory = torch.randn(60, config.encoder.model_dim, generator=generator)
    for token in (0, 29, 30, 59):  # also those that no window would reach
        changed = memory.clone()
        changed[token] += 1.0
        with torch.inference_mode():
            difference = (model.decode(memory, batch) - model.decode(changed, batch)).abs().amax(1)
        own = slice(0, 20) if token < 30 else slice(20, 40)
        other = slice(20, 40) if token < 30 else slice(0, 20)
        assert difference[own].min() > 0
        assert difference[other].max() == 0


@every_pair
def test_neither_the_order_of_pairs_nor_their_company_matters(config: EncoderDecoderConfig) -> None:
    model = from_arrays(config, loud_arrays(config))
    sources, targets, batch = batch_of()
    together = split_targets(logits(model, batch), batch)
    shuffled = np.random.default_rng(5).permutation(len(sources))
    other = pack_pairs([sources[i] for i in shuffled], [targets[i] for i in shuffled])
    again = split_targets(logits(model, other), other)
    for place, i in enumerate(shuffled):
        torch.testing.assert_close(again[place], together[i], rtol=0, atol=1e-4)
        alone = logits(model, pack_pairs([sources[i]], [targets[i]]))
        torch.testing.assert_close(alone, together[i], rtol=0, atol=1e-4)


@every_pair
def test_every_weight_has_one_place_and_comes_back(config: EncoderDecoderConfig) -> None:
    arrays = loud_arrays(config)
    model = from_arrays(config, arrays)
    places = [weight for weights in parameter_sources(model).values() for weight in weights]
    assert sorted(places) == sorted(config.weight_shapes())
    assert sum(p.numel() for p in model.parameters()) == config.num_parameters()
    back = to_arrays(model)
    assert list(back) == list(config.weight_shapes())
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)


def test_a_tied_table_is_one_storage_and_its_gradient_the_sum_of_its_three_uses() -> None:
    tied = t5gemma2_like()
    free = replace(tied, tied_embeddings=False, decoder=replace(tied.decoder, tied_head=False))
    arrays = loud_arrays(tied)
    table = arrays["encoder.embed"]
    apart = arrays | {"decoder.embed": table, "decoder.head": table}
    models = [from_arrays(tied, arrays), from_arrays(free, apart)]
    assert models[0].decoder.stack.embed is models[0].encoder.embed
    _, _, batch = batch_of()
    for model in models:
        hidden = model(batch)
        F.cross_entropy(model.logits(hidden), batch.labels).backward()
    own = models[1].decoder.head.own
    assert own is not None
    parts = [models[1].encoder.embed.grad, models[1].decoder.stack.embed.grad, own.weight.grad]
    assert all(part is not None and part.abs().max() > 0 for part in parts)
    total = torch.stack([part for part in parts if part is not None]).sum(0)
    torch.testing.assert_close(models[0].encoder.embed.grad, total, rtol=1e-4, atol=1e-6)


@every_pair
def test_bfloat16_activations_give_nearly_the_same_states_and_gradients(
    config: EncoderDecoderConfig,
) -> None:
    model = from_arrays(config, random_arrays(config))
    batch = pack_pairs(texts_of(5, 20, 300), texts_of(9, 30, 12, seed=1))
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        model.zero_grad()
        hidden = model(batch, compute_dtype=dtype)
        assert hidden.dtype == dtype
        F.cross_entropy(model.logits(hidden).float(), batch.labels).backward()
        found.append((hidden.float(), model.encoder.blocks[0].attention.qkv.weight.grad.clone()))
    for exact, rough in zip(*found, strict=True):
        assert F.cosine_similarity(exact.flatten(), rough.flatten(), dim=0) > 0.99


# --- pairs ---------------------------------------------------------------------------------------


def test_pairs_of_equal_lengths_stand_side_by_side_on_both_sides() -> None:
    sources = [[10, 11], [20], [30, 31], [40], [50]]
    targets = [[60, 1], [70, 71, 1], [80, 1], [90, 1], [95, 1]]
    batch = pack_pairs(sources, targets)
    runs = [(run.source_length, run.target_length, run.count) for run in batch.runs]
    assert runs == [(1, 2, 2), (2, 2, 2), (1, 3, 1)]
    assert batch.source.ids.tolist() == [40, 50, 20, 10, 11, 30, 31]
    assert batch.target.ids.tolist() == [2, 90, 2, 95, 2, 60, 2, 80, 2, 70, 71]
    assert batch.labels.tolist() == [90, 1, 95, 1, 60, 1, 80, 1, 70, 71, 1]
    assert batch.source.order.tolist() == [3, 2, 4, 0, 1]
    assert batch.target.order.tolist() == [2, 4, 3, 0, 1]
    assert [piece.tolist() for piece in batch.split_source(batch.source.ids)] == [
        [40, 50], [10, 11, 30, 31], [20],
    ]  # fmt: skip
    assert (batch.num_pairs, batch.num_tokens) == (5, 18)


def test_labels_may_leave_tokens_out() -> None:
    batch = pack_pairs([[5, 6]], [[7, 8, 1]], labels=[[IGNORED, 8, 1]], bos=3)
    assert batch.target.ids.tolist() == [3, 7, 8]
    assert batch.labels.tolist() == [IGNORED, 8, 1]


def test_pairs_that_are_none_are_refused() -> None:
    with pytest.raises(InputError, match="got 2 sources, 1 targets and 1 rows of labels"):
        pack_pairs([[5], [6]], [[7]])
    with pytest.raises(InputError, match="labels as long as it"):
        pack_pairs([[5]], [[7, 8]], labels=[[7]])
    with pytest.raises(InputError, match="text 1 has no tokens"):
        pack_pairs([[5], []], [[7], [8]])
    with pytest.raises(InputError, match="at least one text"):
        pack_pairs([], [])


def test_merged_attention_without_a_source_is_the_plain_decoder() -> None:
    config = t5gemma2_like()
    arrays = loud_arrays(config)
    own = {name.removeprefix("decoder."): array for name, array in arrays.items()}
    own["embed"] = arrays["encoder.embed"]
    plain = from_arrays(config.decoder, {n: own[n] for n in config.decoder.weight_shapes()})
    target = pack(texts_of(30, 30))
    nothing = torch.zeros(0, dtype=torch.int64)
    source = TokenBatch(nothing, nothing, torch.zeros(2, dtype=torch.int64), (), target.order)
    batch = Seq2SeqBatch(source, target, target.ids, (PairRun(0, 30, 2),))
    model = from_arrays(config, arrays)
    with torch.inference_mode():
        ours = model.decode(torch.zeros(0, 32), batch)
        torch.testing.assert_close(ours, plain(target), rtol=0, atol=1e-5)


@pytest.mark.parametrize("window", [None, 4])
def test_the_shares_of_both_parts_of_a_merged_softmax_sum_to_one(window: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 3, 20, 8, generator=generator)
    key = torch.randn(2, 3, 26, 8, generator=generator)  # 6 of the source, then 20 of the target
    far = torch.zeros_like(key)
    far[:, :, :6] = 1.0  # what comes out is then the share of the source
    shares = [
        attend(query, key, value, scale=0.3, window=window, after=0, prefix=6)
        for value in (far, 1 - far)
    ]
    assert all(share.min() > 0.001 and share.max() < 0.999 for share in shares)
    torch.testing.assert_close(shares[0] + shares[1], torch.ones_like(query), rtol=0, atol=1e-5)
