"""UL2: a window of tokens becomes what the encoder reads and what the decoder must write.

Spans of the window are taken out; the encoder sees a sentinel in the place of each, the decoder
writes each sentinel and what stood there. The sampler is T5's (arXiv 1910.10683, appendix and
its published preprocessors): the numbers of noise tokens and of spans follow from the length, the
lengths of spans are random compositions of them, and a window begins with what is kept. So a
denoiser of one span takes the end of the window, and is a prefix language model.

Tables: `t5gemma2()` (arXiv 2512.14856, section 3.1), `ul2()` (arXiv 2205.05131, table 1),
`prefix_lm()` (arXiv 2504.06225, section 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from culet.errors import InputError

Mode = Literal["", "R", "S", "X"]
MODES: tuple[Mode, ...] = ("R", "S", "X")


@dataclass(frozen=True)
class Denoiser:
    """One way to corrupt a window.

    Attributes:
        rate: Share of the tokens that are taken out, above 0 and below 1.
        mean_span: Mean length of a span in tokens; 0 makes one span of all noise, at the end.
        weight: Share of the windows, on any positive scale.
        mode: Which mode token goes in front of the encoder's text; none if empty.
        sentinels: Without them (one span only) the end is simply what the decoder writes.
        random_prefix: One span only: the cut is anywhere, uniformly, and `rate` does not matter.
    """

    rate: float
    mean_span: float = 0.0
    weight: float = 1.0
    mode: Mode = ""
    sentinels: bool = True
    random_prefix: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1 or not 0 < self.weight < math.inf:
            raise InputError(
                "a denoiser needs a rate between 0 and 1 and a finite weight above 0, got rate "
                f"{self.rate} and weight {self.weight}"
            )
        if self.mean_span and not 1 <= self.mean_span < math.inf:
            raise InputError(
                "mean_span must be at least 1 token and finite, or 0 for one span at the end, got "
                f"{self.mean_span}"
            )
        if self.mean_span and (not self.sentinels or self.random_prefix):
            raise InputError(
                "several spans need sentinels and have no prefix: leave sentinels and "
                "random_prefix alone, or set mean_span = 0"
            )


def t5gemma2() -> tuple[Denoiser, ...]:
    """Return T5Gemma 2's five denoisers, 1:1:1:1:4; the last writes 3/4 of the window.

    Half of the windows are the last one's, and 0.5375 of all tokens are taken out.
    """
    return (
        Denoiser(0.15, 3),
        Denoiser(0.5, 12),
        Denoiser(0.15, 32),
        Denoiser(0.5, 32),
        Denoiser(0.75, weight=4),
    )


def ul2() -> tuple[Denoiser, ...]:
    """Return the seven denoisers of the original UL2 in equal parts, with their mode tokens."""
    return (
        Denoiser(0.15, 3, mode="R"),
        Denoiser(0.15, 8, mode="R"),
        Denoiser(0.5, 3, mode="X"),
        Denoiser(0.5, 8, mode="X"),
        Denoiser(0.15, 64, mode="X"),
        Denoiser(0.5, 64, mode="X"),
        Denoiser(0.25, mode="S"),
    )


def prefix_lm(*, random_prefix: bool = False) -> tuple[Denoiser, ...]:
    """Return the one denoiser of PrefixLM: two equal halves, or a cut anywhere; no sentinels."""
    return (Denoiser(0.5, sentinels=False, random_prefix=random_prefix),)


@dataclass(frozen=True)
class Markers:
    """The ids that mark spans and modes; a tokenizer's unused ones.

    Attributes:
        sentinels: One for each span of a window, in order.
        modes: Mode to id.
    """

    sentinels: tuple[int, ...]
    modes: dict[str, int]

    @property
    def ids(self) -> frozenset[int]:
        """Return all of them."""
        return frozenset({*self.sentinels, *self.modes.values()})


@dataclass(frozen=True)
class Denoised:
    """One example: what the encoder reads and the decoder writes, without BOS and EOS.

    Attributes:
        source: Mode token if any, kept tokens, sentinels.
        target: Sentinels and what they stand for.
        places: For each target token its place in the window; −1 for sentinels.
    """

    source: np.ndarray
    target: np.ndarray
    places: np.ndarray


def noise_counts(length: int, rate: float, mean_span: float) -> tuple[int, int]:
    """Return the tokens and the spans that are taken out of a window.

    round(length · rate) tokens, at least one and not all; round(tokens / mean_span) spans, at
    least one. Halves are rounded to even, as in the published sampler. There are never more spans
    than tokens between them, which the published sampler leaves to its caller.
    """
    if length < 2:
        raise InputError(f"a window needs at least 2 tokens to take one out, got {length}")
    tokens = min(max(round(length * rate), 1), length - 1)
    spans = max(round(tokens / mean_span), 1) if mean_span else 1
    return tokens, min(spans, length - tokens)


def noise_mask(length: int, rate: float, mean_span: float, rng: np.random.Generator) -> np.ndarray:
    """Return which tokens of a window are taken out [length], bool; the first never is."""
    tokens, spans = noise_counts(length, rate, mean_span)
    noise = _composition(tokens, spans, rng)
    kept = _composition(length - tokens, spans, rng)
    alternating = np.stack([kept, noise], axis=1).reshape(-1)
    return np.repeat(np.arange(2 * spans) % 2 == 1, alternating)


def denoise(
    window: np.ndarray, denoiser: Denoiser, markers: Markers, rng: np.random.Generator
) -> Denoised:
    """Return the example that a denoiser makes of a window.

    Raises:
        InputError: If the window is shorter than 2 tokens, or has more spans than there are
            sentinels.
    """
    window = np.asarray(window)
    length = len(window)
    if denoiser.random_prefix:
        cut = int(rng.integers(1, max(length, 2)))
        mask = np.arange(length) >= cut
    else:
        mask = noise_mask(length, denoiser.rate, denoiser.mean_span, rng)
    mode = [markers.modes[denoiser.mode]] if denoiser.mode else []
    if not denoiser.sentinels:
        source, places = window[~mask], np.flatnonzero(mask)
        return Denoised(_joined(mode, source), window[mask], places)
    begins = mask & ~np.concatenate([[False], mask[:-1]])
    spans = int(begins.sum())
    if spans > len(markers.sentinels):
        raise InputError(
            f"a window of {length} tokens has {spans} spans and there are only "
            f"{len(markers.sentinels)} sentinels; use shorter windows or a tokenizer with more "
            "unused tokens"
        )
    sentinels = np.array(markers.sentinels[:spans], dtype=np.int64)
    starts = np.flatnonzero(begins)
    # one sentinel stands for its span on one side, and in front of it on the other
    marked = window.astype(np.int64)
    marked[starts] = sentinels
    source = marked[~mask | begins]
    inside = np.flatnonzero(mask)
    first = np.searchsorted(inside, starts)
    target = np.insert(window[inside].astype(np.int64), first, sentinels)
    places = np.insert(inside, first, -1)
    return Denoised(_joined(mode, source), target, places)


def max_spans(denoisers: Sequence[Denoiser], window: int) -> int:
    """Return how many sentinels windows of this length need at most."""
    counts = (noise_counts(window, d.rate, d.mean_span)[1] for d in denoisers if d.sentinels)
    return max(counts, default=0)


def used_modes(denoisers: Sequence[Denoiser]) -> tuple[str, ...]:
    """Return the modes that some denoisers name, in a fixed order."""
    return tuple(mode for mode in MODES if any(d.mode == mode for d in denoisers))


def pick(denoisers: Sequence[Denoiser], rng: np.random.Generator) -> Denoiser:
    """Return one of the denoisers, drawn by weight."""
    weights = np.array([denoiser.weight for denoiser in denoisers])
    return denoisers[int(rng.choice(len(denoisers), p=weights / weights.sum()))]


def _composition(items: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """Return a uniformly random way to write `items` as an ordered sum of positive parts."""
    cuts = np.sort(rng.choice(items - 1, parts - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [items]]))


def _joined(mode: list[int], source: np.ndarray) -> np.ndarray:
    return np.concatenate([np.array(mode, dtype=np.int64), source.astype(np.int64)])
