"""Generation against the full forward pass and against transformers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from decoder_doubles import (
    gemma2_like,
    gemma3_like,
    loud_arrays,
    padded,
    t5gemma2_like,
    t5gemma_like,
    texts_of,
    their_decoder,
    their_encoder_decoder,
)

from culet.errors import InputError
from culet.model.batch import pack, pack_pairs
from culet.model.cache import prefill, read_sources, step
from culet.model.decoder import Decoder
from culet.model.decoder_config import DecoderConfig, EncoderDecoderConfig
from culet.model.encoder_decoder import EncoderDecoder
from culet.model.generate import GenerationConfig, generate
from culet.model.weights import from_arrays

LENGTHS = (3, 20, 9, 8, 1, 9)
NEW = 24  # three times the window of 8
F32 = {"compute_dtype": torch.float32}

DECODERS = {"gemma 3": gemma3_like(), "gemma 2": gemma2_like()}
PAIRS = {"t5gemma": t5gemma_like(), "t5gemma 2": t5gemma2_like()}
every_decoder = pytest.mark.parametrize("config", DECODERS.values(), ids=DECODERS)
every_pair = pytest.mark.parametrize("config", PAIRS.values(), ids=PAIRS)


def spoken(config: Any, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Return random weights whose model now and then says EOS, because its row is long."""
    arrays = loud_arrays(config, seed=seed)
    table = "encoder.embed" if "encoder.embed" in arrays else "embed"
    if "decoder.embed" in arrays:
        table = "decoder.embed"
    arrays[table] = arrays[table].copy()
    arrays[table][1] *= 3.0
    return arrays


@every_decoder
def test_a_cached_step_equals_the_full_forward_pass(config: DecoderConfig) -> None:
    model = from_arrays(config, loud_arrays(config))
    prompts, rest = texts_of(*LENGTHS), texts_of(*[NEW] * len(LENGTHS), seed=1)
    with torch.inference_mode():
        hidden, cache = prefill(model, pack(prompts), **F32)
        for n in range(NEW):
            whole = [np.concatenate([p, r[:n]]) for p, r in zip(prompts, rest, strict=True)]
            batch = pack(whole)
            last = batch.lengths.cumsum(0)[batch.order] - 1
            torch.testing.assert_close(hidden, model(batch)[last], rtol=0, atol=2e-5)
            hidden = step(model, torch.tensor([r[n] for r in rest]), cache)


@every_pair
def test_a_cached_step_of_a_pair_equals_the_full_forward_pass(
    config: EncoderDecoderConfig,
) -> None:
    model = from_arrays(config, loud_arrays(config))
    sources, rest = texts_of(*LENGTHS), texts_of(*[NEW] * len(LENGTHS), seed=1)
    with torch.inference_mode():
        batch = pack_pairs(sources, rest)
        packed = model(batch).split(NEW)
        whole = torch.stack([packed[place] for place in batch.target.order.tolist()])  # B n D
        cache = read_sources(model, pack(sources), **F32)
        cache.repeat(2)
        ids = torch.full((2 * len(sources),), 2)
        for n in range(NEW):
            hidden = step(model, ids, cache)
            for beam in (hidden[0::2], hidden[1::2]):
                torch.testing.assert_close(beam, whole[:, n], rtol=0, atol=2e-5)
            ids = torch.tensor([r[n] for r in rest]).repeat_interleave(2)


def theirs(reference: Any, texts: list[np.ndarray], config: GenerationConfig, *, left: bool) -> Any:
    """Return what transformers writes, as lists of ids, the end taken off."""
    out = reference.generate(
        **padded(texts, left=left),
        max_new_tokens=config.max_new_tokens,
        num_beams=config.beams,
        length_penalty=config.length_penalty,
        do_sample=False,
        eos_token_id=list(config.eos),
        pad_token_id=0,
    )
    new = out[:, max(map(len, texts)) :] if left else out[:, 1:]
    rows = []
    for row in new.tolist():
        end = [i for i, token in enumerate(row) if token in config.eos]
        rows.append(row[: end[0]] if end else row)
    return rows


BEAMS = [
    GenerationConfig(max_new_tokens=NEW),
    GenerationConfig(max_new_tokens=NEW, beams=4),
    GenerationConfig(max_new_tokens=NEW, beams=3, length_penalty=0.3, eos=(1, 50)),
]
every_search = pytest.mark.parametrize("search", BEAMS, ids=["greedy", "beams", "two ends"])


@every_decoder
@every_search
def test_decoders_write_what_transformers_writes(
    config: DecoderConfig, search: GenerationConfig
) -> None:
    arrays = spoken(config)
    texts = texts_of(*LENGTHS)
    ours = generate(from_arrays(config, arrays), texts, search)
    # transformers' padding to the left moves nothing but float noise
    expected = theirs(their_decoder(config, arrays), texts, search, left=True)
    assert [each.ids.tolist() for each in ours] == expected
    assert {each.ended for each in ours} == {True, False}


@every_pair
@every_search
def test_encoder_decoders_write_what_transformers_writes(
    config: EncoderDecoderConfig, search: GenerationConfig
) -> None:
    arrays = spoken(config)
    texts = texts_of(*LENGTHS)
    ours = generate(from_arrays(config, arrays), texts, search)
    expected = theirs(their_encoder_decoder(config, arrays), texts, search, left=False)
    assert [each.ids.tolist() for each in ours] == expected
    assert {each.ended for each in ours} == {True, False}


def log_probability(model: Decoder | EncoderDecoder, text: np.ndarray, ids: list[int]) -> float:
    """Return the log-probability of ids after a text, by the full forward pass."""
    with torch.inference_mode():
        if isinstance(model, EncoderDecoder):
            logits = model.logits(model(pack_pairs([text], [ids])))
        else:
            logits = model.logits(model(pack([np.concatenate([text, ids])])))[len(text) - 1 : -1]
    return float(logits.log_softmax(-1)[range(len(ids)), ids].sum())


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("config", [gemma3_like(), t5gemma_like()], ids=["decoder", "pair"])
def test_the_log_probability_is_that_of_the_full_forward_pass(config: Any, beams: int) -> None:
    model = from_arrays(config, spoken(config))
    texts = texts_of(*LENGTHS)
    search = GenerationConfig(max_new_tokens=NEW, beams=beams)
    for text, written in zip(texts, generate(model, texts, search), strict=True):
        ids = [*written.ids.tolist(), *([1] if written.ended else [])]
        assert len(ids) <= NEW
        assert written.log_probability == pytest.approx(log_probability(model, text, ids), abs=1e-3)


@pytest.mark.parametrize("beams", [1, 3])
def test_company_and_batch_size_do_not_matter(beams: int) -> None:
    config = t5gemma2_like()
    model = from_arrays(config, spoken(config))
    texts = texts_of(*LENGTHS)
    search = GenerationConfig(max_new_tokens=12, beams=beams)
    told: list[int] = []
    together = generate(model, texts, search)
    apart = generate(model, texts, replace(search, batch_size=2), done=told.append)
    assert [each.ids.tolist() for each in together] == [each.ids.tolist() for each in apart]
    assert told == [2, 2, 2]
    assert generate(model, [], search) == []


def test_what_is_read_of_a_source_is_computed_once() -> None:
    model = from_arrays(t5gemma_like(), loud_arrays(t5gemma_like()))
    cross = model.decoder.stack.blocks[0].cross
    calls: list[int] = []
    cross.key_value.register_forward_hook(lambda *_: calls.append(1))
    generate(model, texts_of(5, 6), GenerationConfig(max_new_tokens=9, beams=3, eos=()))
    assert len(calls) == 1


def test_texts_that_would_grow_too_long_are_refused() -> None:
    config = gemma3_like(max_length=20)
    model = from_arrays(config, loud_arrays(config))
    with pytest.raises(InputError, match="may come to 25, and the decoder was made for 20"):
        generate(model, texts_of(5), GenerationConfig(max_new_tokens=20))
    pair = t5gemma_like(max_length=20)
    both = from_arrays(pair, loud_arrays(pair))
    with pytest.raises(InputError, match="a source has 21 tokens, and the encoder was made for 20"):
        generate(both, texts_of(21), GenerationConfig(max_new_tokens=20))
    with pytest.raises(InputError, match="beams and batch_size must be at least 1, got 4, 0"):
        GenerationConfig(max_new_tokens=4, beams=0)
