"""The steps of language-model training add the gradients of the plain computation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from language_doubles import decoder, encoder_decoder
from plain_losses import token_cross_entropy
from training_doubles import gradients, model

from culet.data.batches.windows import TokenPairs, TokenWindows
from culet.losses.tokens import IGNORED
from culet.model.batch import pack, pack_pairs
from culet.train.language_steps import StepConfig, head_table, pairs_step, windows_step

BOS = 2
WHOLE = StepConfig(chunk_tokens=100_000)


def pairs(*, teacher: bool = False, seed: int = 0) -> TokenPairs:
    rng = np.random.default_rng(seed)
    lengths = [(9, 4), (5, 12), (9, 4), (3, 2), (14, 7)]
    sources = [rng.integers(16, 272, source) for source, _ in lengths]
    targets = [rng.integers(16, 272, target) for _, target in lengths]
    if not teacher:
        return TokenPairs(sources, targets)
    windows = [np.concatenate([[BOS], rng.integers(16, 272, 20)]) for _ in lengths]
    places = [np.full(target, -1) for _, target in lengths]
    places[0][1:3] = [4, 5]
    places[1][2:11] = np.arange(9)
    return TokenPairs(sources, targets, windows, places)


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[name], atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("changes", [{}, {"tied_embeddings": True, "cross": "merged"}])
@pytest.mark.parametrize("chunk_tokens", [1, 30, 100_000])
def test_pairs_in_parts_give_the_gradients_of_the_whole(
    changes: dict[str, Any], chunk_tokens: int
) -> None:
    both = encoder_decoder(**changes)
    batch = pairs()
    packed = pack_pairs(batch.sources, batch.targets)
    plain = token_cross_entropy(both.logits(both(packed)), packed.labels)
    plain.backward()
    wanted = gradients(both)
    parts = pairs_step(both, batch, replace(WHOLE, chunk_tokens=chunk_tokens), bos=BOS)
    assert parts["loss"] == pytest.approx(plain.item(), rel=1e-5)
    assert parts["cross_entropy"] == pytest.approx(plain.item(), rel=1e-5)
    assert_same(gradients(both), wanted)


@pytest.mark.parametrize("chunk_tokens", [1, 100_000])
def test_the_teacher_is_asked_about_real_tokens_at_their_own_places(chunk_tokens: int) -> None:
    both, teacher = encoder_decoder(), decoder(seed=7).eval()
    batch = pairs(teacher=True)
    total = 0.0
    for source, target, window, places in zip(
        batch.sources, batch.targets, batch.windows, batch.places, strict=True
    ):
        packed = pack_pairs([source], [target])
        log = both.logits(both(packed)).log_softmax(1)
        aim = torch.nn.functional.one_hot(packed.labels, 272).float()
        said = teacher.logits(teacher(pack([window]))).softmax(1).detach()
        for row, place in enumerate(places):
            if place >= 0:
                aim[row] = 0.3 * said[place] + 0.7 * aim[row]
        total = total - (aim * log).sum()
    plain = total / batch.num_labels
    assert isinstance(plain, torch.Tensor)
    plain.backward()
    wanted = gradients(both)
    config = replace(WHOLE, chunk_tokens=chunk_tokens, distill=0.3)
    parts = pairs_step(both, batch, config, bos=BOS, teacher=teacher)
    assert parts["loss"] == pytest.approx(plain.item(), rel=1e-5)
    assert parts["loss"] != pytest.approx(parts["cross_entropy"], rel=1e-4)
    assert_same(gradients(both), wanted)
    assert not gradients(teacher)


@pytest.mark.parametrize("changes", [{}, {"tied_head": False}, {"logit_softcap": 2.0}])
@pytest.mark.parametrize("chunk_tokens", [1, 25, 100_000])
def test_windows_in_parts_give_the_gradients_of_the_whole(
    changes: dict[str, Any], chunk_tokens: int
) -> None:
    made = decoder(**changes)
    rng = np.random.default_rng(0)
    texts = [rng.integers(16, 272, n) for n in (12, 5, 12, 20)]
    labels = [rng.integers(16, 272, len(text)) for text in texts]
    labels[1][:] = IGNORED
    labels[2][3:] = IGNORED
    losses = [
        token_cross_entropy(made.logits(made(pack([text]))), torch.from_numpy(wanted))
        * (wanted != IGNORED).sum()
        for text, wanted in zip(texts, labels, strict=True)
    ]
    plain = sum(losses) / sum((wanted != IGNORED).sum() for wanted in labels)
    assert isinstance(plain, torch.Tensor)
    plain.backward()
    wanted = gradients(made)
    parts = windows_step(
        made.stack,
        head_table(made),
        TokenWindows(texts, labels),
        replace(WHOLE, chunk_tokens=chunk_tokens),
        softcap=made.head.softcap,
    )
    assert parts["loss"] == pytest.approx(plain.item(), rel=1e-5)
    assert_same(gradients(made), wanted)


def test_an_encoder_learns_to_tell_hidden_tokens() -> None:
    encoder = model().encoder
    rng = np.random.default_rng(0)
    texts = [np.concatenate([[BOS], rng.integers(16, 20, 8), [1]]) for _ in range(8)]
    labels = [np.where(np.arange(10) == 4, text, IGNORED) for text in texts]
    shown = [np.where(np.arange(10) == 4, 4, text) for text in texts]
    optimizer = torch.optim.Adam(encoder.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        batch = TokenWindows(shown, labels)
        losses.append(windows_step(encoder, encoder.embed, batch, WHOLE)["loss"])
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.2 * losses[0]
