"""The decoder against transformers, and what its mask lets through."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from attention_doubles import heads
from decoder_doubles import gemma2_like, gemma3_like, loud_arrays, texts_of, their_decoder

from culet.architecture.generating_config import DecoderConfig
from culet.model.attention import attend, window_mask
from culet.model.batch import pack
from culet.model.decoder import Decoder
from culet.model.weights import from_arrays, to_arrays

LENGTHS = (1, 2, 7, 8, 9, 10, 17, 18, 40, 300)  # the window is 8; bands are 256

DECODERS = {
    "gemma 3": gemma3_like(),
    "gemma 3, scaled rope": gemma3_like(global_rope_scaling=8.0),
    "gemma 3, own head": replace(gemma3_like(), tied_head=False),
    "gemma 2": gemma2_like(),
    "gemma 2, wide window": gemma2_like(window=290),
}


def logits(model: Decoder, text: np.ndarray) -> torch.Tensor:
    with torch.inference_mode():
        return model.logits(model(pack([text])))


@pytest.mark.parametrize("config", DECODERS.values(), ids=DECODERS)
def test_logits_equal_transformers_at_every_length(config: DecoderConfig) -> None:
    arrays = loud_arrays(config)
    model, reference = from_arrays(config, arrays), their_decoder(config, arrays)
    texts = texts_of(*LENGTHS)
    with torch.inference_mode():
        packed = model.logits(model(pack(texts)))
    pieces = dict(zip(LENGTHS, packed.split(list(LENGTHS)), strict=True))  # shortest first
    for text in texts:
        with torch.inference_mode():
            theirs = reference(torch.from_numpy(text)[None]).logits[0]
        torch.testing.assert_close(pieces[len(text)], theirs, rtol=0, atol=1e-4)
        torch.testing.assert_close(logits(model, text), theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("config", [gemma3_like(), gemma2_like()], ids=["gemma 3", "gemma 2"])
def test_a_token_changes_nothing_before_it(config: DecoderConfig) -> None:
    model = from_arrays(config, loud_arrays(config))
    (text,) = texts_of(30)
    changed = text.copy()
    changed[20] += 1
    difference = (logits(model, text) - logits(model, changed)).abs().amax(dim=1)
    assert difference[:20].max() == 0
    assert difference[20] > 1e-3


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize(("window", "after"), [(None, 0), (1, 0), (4, 0), (3, 4), (4, 2), (3, 0)])
@pytest.mark.parametrize("length", [1, 2, 4, 5, 6, 9, 19])
def test_every_mask_equals_the_full_matrix(
    length: int, window: int | None, after: int, prefix: int, softcap: float | None
) -> None:
    query, key, value = heads(length)
    far_key, far_value = heads(prefix, seed=1)[1:]
    key, value = torch.cat([far_key, key], dim=2), torch.cat([far_value, value], dim=2)
    scores = 0.3 * query @ key.transpose(-1, -2)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    mask = window_mask(length, length, window=length if window is None else window, after=after)
    scores[..., prefix:].masked_fill_(~mask, -torch.inf)
    whole = scores.softmax(-1) @ value
    ours = attend(
        query, key, value, scale=0.3, window=window, after=after, prefix=prefix, softcap=softcap
    )
    torch.testing.assert_close(ours, whole, rtol=0, atol=2e-6)


def test_key_heads_serve_their_neighbours_with_and_without_a_cap() -> None:
    query, key, value = heads(300)
    few = (key[:, :1], value[:, :1])
    many = [x.expand(-1, 3, -1, -1) for x in few]
    for softcap in (None, 2.0):
        for window in (None, 7):
            masks = {"scale": 0.3, "window": window, "after": 0, "softcap": softcap}
            ours = attend(query, *few, **masks)  # type: ignore[arg-type]
            theirs = attend(query, *many, **masks)  # type: ignore[arg-type]
            torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("window", [None, 7])
def test_the_gradients_under_a_cap_are_those_of_its_definition(
    groups: int, window: int | None
) -> None:
    gradients = []
    for written_out in (False, True):
        query, key, value = (x.double().requires_grad_() for x in heads(30))
        few, many = key[:, :groups], key[:, :groups].expand(-1, 3, -1, -1)
        if written_out:
            scores = 1.5 * torch.tanh(query @ many.transpose(-1, -2) * 0.3 / 1.5)
            mask = window_mask(30, 30, window=30 if window is None else window, after=0)
            shares = scores.masked_fill(~mask, -torch.inf).softmax(-1)
            out = shares @ value[:, :groups].expand(-1, 3, -1, -1)
        else:
            out = attend(
                query, few, value[:, :groups], scale=0.3, window=window, after=0, softcap=1.5
            )
        (out.sin() * torch.arange(8)).sum().backward()
        gradients.append([query.grad, key.grad, value.grad])
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", DECODERS.values(), ids=DECODERS)
def test_weights_come_back_as_they_went_in(config: DecoderConfig) -> None:
    arrays = loud_arrays(config)
    back = to_arrays(from_arrays(config, arrays))
    assert list(back) == list(config.weight_shapes())
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
