"""Denoisers take out what they say they take out, and nothing is lost."""

from __future__ import annotations

import math

import numpy as np
import pytest
from denoise_double import restore

from culet.data.batches.denoise import (
    Denoiser,
    Markers,
    denoise,
    max_spans,
    noise_counts,
    noise_mask,
    pick,
    prefix_lm,
    t5gemma2,
    ul2,
    used_modes,
)
from culet.errors import InputError

MARKERS = Markers(tuple(range(9000, 9200)), {"R": 9300, "S": 9301, "X": 9302})
EVERY = {
    **{f"t5gemma2.{i}": d for i, d in enumerate(t5gemma2())},
    **{f"ul2.{i}": d for i, d in enumerate(ul2())},
    "halves": prefix_lm()[0],
    "random prefix": prefix_lm(random_prefix=True)[0],
}


def spans_of(mask: np.ndarray) -> list[int]:
    """Return the lengths of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return list(edges[1::2] - edges[::2])


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("length", [2, 3, 5, 17, 64, 511, 512])
def test_what_was_taken_out_can_be_put_back(name: str, length: int) -> None:
    rng = np.random.default_rng(length)
    for _ in range(20):
        window = rng.integers(0, 8000, length)
        example = denoise(window, EVERY[name], MARKERS, rng)
        assert np.array_equal(restore(example, MARKERS), window)


@pytest.mark.parametrize("name", EVERY)
def test_the_place_of_each_target_token_is_known_and_sentinels_have_none(name: str) -> None:
    rng = np.random.default_rng(1)
    window = rng.permutation(512)
    example = denoise(window, EVERY[name], MARKERS, rng)
    real = example.places >= 0
    assert np.array_equal(window[example.places[real]], example.target[real])
    assert set(example.target[~real]) == set(example.target) & set(MARKERS.sentinels)


def window_for(inputs_length: int, rate: float, mean_span: float) -> tuple[int, int]:
    """Return the longest window whose source has `inputs_length` tokens, and its target length.

    Both count one EOS. As in the published preprocessors, at a rate of one half a target that
    would be longer than the source is made one token shorter together with the window; the
    target length is then an upper bound.
    """

    def lengths(window: int) -> tuple[int, int]:
        tokens = round(window * rate)
        spans = round(tokens / mean_span)
        return window - tokens + spans + 1, tokens + spans + 1

    window = inputs_length
    while lengths(window + 1)[0] <= inputs_length:
        window += 1
    source, target = lengths(window)
    return (window - 1, target - 1) if rate == 0.5 and target > source else (window, target)


@pytest.mark.parametrize(
    ("rate", "mean_span", "window", "target"),
    [(0.15, 3, 568, 114), (0.5, 12, 944, 512), (0.15, 32, 598, 94), (0.5, 32, 990, 512)],
)
def test_the_published_lengths_for_512_inputs(
    rate: float, mean_span: float, window: int, target: int
) -> None:
    assert window_for(512, rate, mean_span) == (window, target)
    tokens, spans = noise_counts(window, rate, mean_span)
    # with their EOS; at (0.5, 32) both sides come out one short of what was planned
    assert 511 <= window - tokens + spans + 1 <= 512
    assert target - 1 <= tokens + spans + 1 <= target


@pytest.mark.parametrize(
    ("denoiser", "counts"),
    list(zip(t5gemma2(), [(77, 26), (256, 21), (77, 2), (256, 8), (384, 1)], strict=True)),
)
def test_the_published_counts_of_a_window_of_512(
    denoiser: Denoiser, counts: tuple[int, int]
) -> None:
    assert noise_counts(512, denoiser.rate, denoiser.mean_span) == counts
    mask = noise_mask(512, denoiser.rate, denoiser.mean_span, np.random.default_rng(0))
    assert (int(mask.sum()), len(spans_of(mask))) == counts
    example = denoise(np.arange(512), denoiser, MARKERS, np.random.default_rng(0))
    assert len(example.source) == 512 - counts[0] + counts[1]
    assert len(example.target) == counts[0] + counts[1]


def test_halves_are_rounded_to_even_as_in_the_published_sampler() -> None:
    assert noise_counts(991, 0.5, 32) == (496, 16)  # 495.5 and 15.5
    assert noise_counts(5, 0.5, 1) == (2, 2)  # 2.5
    assert noise_counts(2, 0.01, 3) == (1, 1)
    assert noise_counts(2, 0.99, 3) == (1, 1)


def test_spans_never_outnumber_the_tokens_between_them() -> None:
    assert noise_counts(10, 0.9, 1) == (9, 1)
    mask = noise_mask(10, 0.9, 1, np.random.default_rng(0))
    assert mask.tolist() == [False] + 9 * [True]


def test_one_span_is_the_end_of_the_window() -> None:
    rng = np.random.default_rng(0)
    example = denoise(np.arange(8), t5gemma2()[-1], MARKERS, rng)
    assert example.source.tolist() == [0, 1, 9000]
    assert example.target.tolist() == [9000, 2, 3, 4, 5, 6, 7]
    example = denoise(np.arange(8), prefix_lm()[0], MARKERS, rng)
    assert (example.source.tolist(), example.target.tolist()) == ([0, 1, 2, 3], [4, 5, 6, 7])


def test_a_window_worked_out_by_hand() -> None:
    class Fixed:
        """Cuts two noise tokens into 1 + 1, and three kept ones into 2 + 1."""

        def choice(self, items: int, parts: int, replace: bool) -> np.ndarray:
            return np.array([items - 1])

    example = denoise(np.array([7, 8, 9, 10, 11]), Denoiser(0.4, 1), MARKERS, Fixed())  # type: ignore[arg-type]
    assert example.source.tolist() == [7, 8, 9000, 10, 9001]
    assert example.target.tolist() == [9000, 9, 9001, 11]
    assert example.places.tolist() == [-1, 2, -1, 4]


def test_a_mode_token_stands_in_front_of_the_source_only() -> None:
    rng = np.random.default_rng(0)
    for denoiser, mode in zip(ul2(), "RRXXXXS", strict=True):
        example = denoise(np.arange(512), denoiser, MARKERS, rng)
        assert example.source[0] == MARKERS.modes[mode]
        assert not {*example.target, *example.source[1:]} & set(MARKERS.modes.values())
    assert used_modes(ul2()) == ("R", "S", "X")
    assert used_modes(t5gemma2()) == ()


@pytest.mark.parametrize("denoiser", [d for d in EVERY.values() if not d.random_prefix])
def test_the_share_taken_out_is_the_rate_to_a_token(denoiser: Denoiser) -> None:
    rng = np.random.default_rng(0)
    for length in (100, 333, 512):
        mask = noise_mask(length, denoiser.rate, denoiser.mean_span, rng)
        assert abs(mask.sum() - length * denoiser.rate) <= 1


def test_spans_have_the_mean_length_and_every_composition_is_as_likely() -> None:
    rng = np.random.default_rng(0)
    lengths = [n for _ in range(300) for n in spans_of(noise_mask(512, 0.15, 3, rng))]
    assert np.mean(lengths) == pytest.approx(77 / 26)
    # 6 noise tokens in 2 spans: (1,5) to (5,1), each with a chance of 1/5
    first = np.bincount([spans_of(noise_mask(12, 0.5, 3, rng))[0] for _ in range(5000)])[1:]
    sigma = math.sqrt(5000 * 0.2 * 0.8)
    assert len(first) == 5
    assert (abs(first - 1000) < 4 * sigma).all()


def test_a_random_prefix_is_cut_anywhere_and_leaves_neither_side_empty() -> None:
    rng = np.random.default_rng(0)
    cuts = [
        len(denoise(np.arange(5), EVERY["random prefix"], MARKERS, rng).source) for _ in "x" * 400
    ]
    counts = np.bincount(cuts, minlength=6)
    assert counts[[0, 5]].tolist() == [0, 0]
    assert (abs(counts[1:5] - 100) < 4 * math.sqrt(75)).all()


def test_denoisers_are_drawn_by_weight() -> None:
    rng, draws = np.random.default_rng(0), 8000
    mixture = t5gemma2()
    drawn = [mixture.index(pick(mixture, rng)) for _ in range(draws)]
    for i, share in enumerate([1 / 8, 1 / 8, 1 / 8, 1 / 8, 1 / 2]):
        sigma = math.sqrt(draws * share * (1 - share))
        assert abs(drawn.count(i) - draws * share) < 3 * sigma
    shares = [(d.rate, d.weight / 8) for d in mixture]
    assert sum(rate * share for rate, share in shares) == pytest.approx(0.5375)


def test_the_number_of_sentinels_is_known_in_advance_and_too_few_are_refused() -> None:
    assert max_spans(t5gemma2(), 512) == 26
    assert max_spans(prefix_lm(), 512) == 0
    few = Markers((9000, 9001), {})
    with pytest.raises(InputError, match="has 26 spans and there are only 2 sentinels"):
        denoise(np.arange(512), t5gemma2()[0], few, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 0.0}, "rate between 0 and 1"),
        ({"rate": 1.0}, "rate between 0 and 1"),
        ({"rate": 0.5, "weight": 0.0}, "weight above 0"),
        ({"rate": 0.5, "weight": math.inf}, "a finite weight above 0, got rate 0.5 and weight inf"),
        ({"rate": 0.5, "mean_span": 0.5}, "at least 1 token"),
        ({"rate": 0.5, "mean_span": math.nan}, "at least 1 token and finite, .*got nan"),
        ({"rate": 0.5, "mean_span": math.inf}, "at least 1 token and finite, .*got inf"),
        ({"rate": 0.5, "mean_span": 3.0, "sentinels": False}, "several spans need sentinels"),
        ({"rate": 0.5, "mean_span": 3.0, "random_prefix": True}, "several spans need sentinels"),
    ],
)
def test_what_cannot_be_a_denoiser_is_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Denoiser(**settings)  # type: ignore[arg-type]


def test_a_window_of_one_token_is_refused() -> None:
    with pytest.raises(InputError, match="at least 2 tokens"):
        denoise(np.array([5]), t5gemma2()[0], MARKERS, np.random.default_rng(0))
