"""An encoder gets a head, and stays what it was."""

from __future__ import annotations

import numpy as np
import torch
from training_doubles import model

from culet.model.batch import pack
from culet.model.heads import quieted, whitening, with_head
from culet.model.weights import from_arrays, to_arrays
from culet.stages.new_head import HeadConfig, embedding_config


def test_the_head_keeps_lengths_and_the_encoder_is_untouched() -> None:
    before = model()
    encoder = before.config.encoder
    config = embedding_config(encoder, HeadConfig())
    arrays = with_head(config, to_arrays(before), seed=0)
    after = from_arrays(config, arrays)
    batch = pack([[2, 50, 60, 1], [2, 70, 1]])
    hidden = [m.encoder(batch, compute_dtype=torch.float32).hidden for m in (before.eval(), after)]
    assert torch.equal(*hidden)
    x = torch.randn(7, 16)
    assert torch.allclose(after.down(after.up(x)).norm(dim=1), x.norm(dim=1), rtol=1e-4)


def test_the_head_follows_its_seed() -> None:
    encoder = model().config.encoder
    config = embedding_config(encoder, HeadConfig(embedding_dim=8))
    arrays = to_arrays(model())
    one, same, other = (with_head(config, arrays, seed=seed)["down"] for seed in (0, 0, 1))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def shared(texts: int) -> np.ndarray:
    """Vectors with a large common part, and one direction that outweighs the others."""
    drawn = np.random.default_rng(0).standard_normal((texts, 16)) * np.array([8, *[1] * 15])
    drawn[:, 1] = 30
    return drawn


def test_whitening_takes_out_the_mean_and_evens_out_the_rest() -> None:
    vectors = shared(500)
    spread = {}
    for power in (0.25, 0.5):
        after = vectors @ whitening(vectors, power).T
        mean = vectors.mean(0)
        assert abs(whitening(vectors, power) @ mean).max() < 1e-3 * abs(mean).max()
        variances = np.sort(np.linalg.eigvalsh(after.T @ after))[1:]  # without the mean's
        spread[power] = variances[-1] / variances[0]
    before = np.sort(np.var(vectors, axis=0))[1:]
    assert spread[0.5] < 5 < spread[0.25] < before[-1] / before[0] / 2


def test_a_head_that_whitens_tells_texts_apart_at_once() -> None:
    vectors, other = shared(500), shared(500)[::-1] * np.array([1, 1, *[-1] * 14])
    config = embedding_config(model().config.encoder, HeadConfig())
    cosines = {}
    for whiten in (0.0, 0.25):
        arrays = with_head(config, to_arrays(model()), seed=0, whiten=whiten, pooled=vectors)
        seen = [part @ arrays["up"].T @ arrays["down"].T for part in (vectors, other)]
        unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in seen]
        cosines[whiten] = float((unit[0] * unit[1]).sum(1).mean())
    assert cosines[0.0] > 0.8
    assert abs(cosines[0.25]) < 0.1


def test_quieted_sub_layers_add_a_share_of_what_they_added() -> None:
    before = model().eval()
    after = from_arrays(before.config, quieted(to_arrays(before), 0.25))
    batch = pack([[2, 50, 60, 70, 1]])
    first = before.encoder.blocks[0], after.encoder.blocks[0]
    x = torch.randn(5, 16)
    added = [
        block.attend(x, lambda normed: normed.roll(1, 0)) - x  # any attention
        for block in first
    ]
    torch.testing.assert_close(added[1], 0.25 * added[0])
    assert after(batch).shape == before(batch).shape
