"""Batches for pretraining: windows of text to denoise, facts with an end to tell, both mixed.

Shares are shares of examples: with text and triples at equal weights, half of the examples of every
batch are facts (SKILL, arXiv 2205.08184, section 3, mixes so), which are far shorter than windows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from culet.data.batches.denoise import Denoiser, Markers, denoise, pick
from culet.data.batches.shuffle import part_of
from culet.data.batches.slots import Slot, Slots
from culet.data.token_stream import RawText, TokenStream, read_pair_texts, read_raw_texts, tokenize
from culet.data.triples import Fact, draw_end, masked_tokens, read_triples
from culet.errors import RecipeError
from culet.text.tokenizer import TextTokenizer

# Salts of the random draws, so that no two uses share their numbers.
_START, _EXAMPLE = 3, 4


@dataclass(frozen=True)
class TextSourceConfig:
    """One source of raw text or of facts.

    Attributes:
        path: A file or a folder of files.
        kind: "text", rows {"text": …}; "pairs", training pairs, each one text; "triples", facts,
            rows {"s", "r", "o"}.
        weight: Share of the examples, on any positive scale.
        name: What messages call it; the file's name if empty.
    """

    path: Path
    kind: Literal["text", "pairs", "triples"] = "text"
    weight: float = 1.0
    name: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise RecipeError(f"weight must be above 0 and finite, got {self.weight}")

    def texts(self) -> Iterator[RawText]:
        """Yield the texts of a source that is not of facts."""
        read = read_pair_texts if self.kind == "pairs" else read_raw_texts
        return read([self.path])


@dataclass(frozen=True)
class TokenPairs:
    """B sources for an encoder, and the targets its decoder writes.

    Attributes:
        sources: Token ids, BOS and EOS in place.
        targets: Token ids with EOS at the end and no BOS.
        windows: For each pair the text it was made of, BOS in front, for a teacher to read; or
            empty.
        places: For each target token the token of the window whose state should predict it; −1
            where there is none, as for sentinels. Empty with `windows`.
        source: Names of the sources.
        origin: "file:line" of each pair.
        truncated: Texts that were cut.
    """

    sources: list[np.ndarray]
    targets: list[np.ndarray]
    windows: list[np.ndarray] = field(default_factory=list)
    places: list[np.ndarray] = field(default_factory=list)
    source: str = ""
    origin: tuple[str, ...] = ()
    truncated: int = 0

    @property
    def num_tokens(self) -> int:
        """Return the tokens of both sides."""
        return sum(map(len, self.sources)) + sum(map(len, self.targets))

    @property
    def num_labels(self) -> int:
        """Return the target tokens."""
        return sum(map(len, self.targets))


@dataclass(frozen=True)
class TextSource:
    """A source that has been read.

    Attributes:
        config: What was asked for.
        stream: Its tokens, of a text source.
        triples: Its facts, of a source of triples.
    """

    config: TextSourceConfig
    stream: TokenStream | None = None
    triples: Sequence[Fact] = ()

    @property
    def name(self) -> str:
        """Return what messages call it."""
        return self.config.name or self.config.path.name

    def size(self, window: int) -> int:
        """Return how many examples an epoch has: facts, or windows of `window` tokens."""
        return len(self.triples) if self.stream is None else self.stream.num_windows(window)


def read_text_sources(
    configs: Sequence[TextSourceConfig], tokenizer: TextTokenizer, folder: Path
) -> list[TextSource]:
    """Return the sources; the tokens of texts are written below `folder` once.

    Raises:
        InputError: At the first bad row, with file and line.
    """
    sources = []
    for number, config in enumerate(configs):
        if config.kind == "triples":
            sources.append(TextSource(config, triples=read_triples([config.path])))
            continue
        stream = tokenize(
            config.texts,
            tokenizer,
            folder / str(number),
            what=f"tokenizing {config.path.name}",
        )
        sources.append(TextSource(config, stream=stream))
    return sources


class WindowPlan:
    """Which windows and facts make up the batch of any step.

    Args:
        sources: What has been read.
        window: Tokens of a window.
        batch_size: Examples in a batch, of all processes together.
        seed: Decides orders, windows and what is done to them.
        rank: Which process of `world_size` this is, from 0; it gets its part of every batch.
        world_size: Processes that share each batch; their parts in order are the batch of one.
    """

    def __init__(
        self,
        sources: Sequence[TextSource],
        *,
        window: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.sources = sources
        self._part = part_of(batch_size, rank, world_size)
        self.window = window
        self._seed = seed
        sizes = [source.size(window) for source in sources]
        weights = [source.config.weight for source in sources]
        self.slots = Slots(sizes, weights, batch_size=batch_size, seed=seed)

    def draw(self, step: int) -> tuple[list[Slot], str]:
        """Return this process's places of the batch of a step (from 0), and its sources' names."""
        slots = self.slots.draw(step)
        names = ", ".join(self.sources[i].name for i in sorted({slot.source for slot in slots}))
        return slots[self._part], names

    def rng(self, slot: Slot) -> np.random.Generator:
        """Return the random numbers of one example; another epoch has others."""
        return np.random.default_rng([self._seed, _EXAMPLE, slot.source, slot.epoch, slot.index])

    def cut(self, slot: Slot) -> tuple[np.ndarray, str]:
        """Return a window of a text source, and "file:line" where it begins."""
        stream = self.sources[slot.source].stream
        assert stream is not None
        draw = np.random.default_rng([self._seed, _START, slot.source, slot.epoch])
        start = int(draw.integers(len(stream)))
        tokens = stream.window(slot.index, self.window, start=start)
        return tokens, stream.origin(slot.index, self.window, start=start)


class DenoisingBatcher:
    """Makes the batch of any step; what it gives follows from seed and step alone.

    Args:
        plan: Windows and facts.
        denoisers: What is done to windows, drawn by weight for each.
        markers: Sentinels and mode tokens; facts are masked by the first sentinel.
        tokenizer: For facts, and for the ids of BOS and EOS.
        windows: Give the windows, for a teacher.
    """

    def __init__(
        self,
        plan: WindowPlan,
        denoisers: Sequence[Denoiser],
        markers: Markers,
        tokenizer: TextTokenizer,
        *,
        windows: bool = False,
    ) -> None:
        self._plan = plan
        self._denoisers = denoisers
        self._markers = markers
        self._tokenizer = tokenizer
        self._windows = windows

    def __call__(self, step: int) -> TokenPairs:
        """Return the batch of a step (from 0), or this process's part of it."""
        slots, names = self._plan.draw(step)
        made = [self._example(slot) for slot in slots]
        columns = [list(column) for column in zip(*made, strict=True)]
        sources, targets, windows, places, origin = columns or ([] for _ in range(5))
        return TokenPairs(
            sources=sources,
            targets=targets,
            windows=windows if self._windows else [],
            places=places if self._windows else [],
            source=names,
            origin=tuple(origin),
        )

    def _example(self, slot: Slot) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, str]:
        bos, eos = [self._tokenizer.bos_id], [self._tokenizer.eos_id]
        triples = self._plan.sources[slot.source].triples
        if triples:
            triple = triples[slot.index]
            end = draw_end(self._plan.rng(slot))
            source, target = masked_tokens(triple, end, self._tokenizer, self._markers.sentinels[0])
            window, places = np.empty(0, dtype=np.int64), np.full(len(target), -1)
            origin = triple.origin
        else:
            window, origin = self._plan.cut(slot)
            rng = self._plan.rng(slot)
            made = denoise(window, pick(self._denoisers, rng), self._markers, rng)
            source, target, places = made.source, made.target, made.places
        return (
            np.concatenate([bos, source, eos]),
            np.concatenate([target, eos]),
            np.concatenate([bos, window]),
            np.concatenate([places, [-1]]),
            origin,
        )


@dataclass(frozen=True)
class TokenWindows:
    """B texts for one stack, and what each of their states should predict.

    Attributes:
        texts: Token ids.
        labels: As long as the texts; `ignored` where nothing counts.
        source: Names of the sources.
        origin: "file:line" of each text.
        truncated: Texts that were cut.
    """

    texts: list[np.ndarray]
    labels: list[np.ndarray]
    source: str = ""
    origin: tuple[str, ...] = ()
    truncated: int = 0

    @property
    def num_tokens(self) -> int:
        """Return the tokens of the texts."""
        return sum(map(len, self.texts))


# (window, random numbers) → text and labels
Objective = Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]


class WindowBatcher:
    """Makes the batch of any step for a single stack.

    Args:
        plan: Windows; facts have no place here.
        objective: Makes a text and its labels of a window.

    Raises:
        RecipeError: If a source holds triples.
    """

    def __init__(self, plan: WindowPlan, objective: Objective) -> None:
        if facts := [source.name for source in plan.sources if source.triples]:
            raise RecipeError(f"this stage reads text only, and {facts[0]} holds triples")
        self._plan = plan
        self._objective = objective

    def __call__(self, step: int) -> TokenWindows:
        """Return the batch of a step (from 0), or this process's part of it."""
        slots, names = self._plan.draw(step)
        cut = [self._plan.cut(slot) for slot in slots]
        made = [
            self._objective(window, self._plan.rng(slot))
            for slot, (window, _) in zip(slots, cut, strict=True)
        ]
        return TokenWindows(
            texts=[text for text, _ in made],
            labels=[labels for _, labels in made],
            source=names,
            origin=tuple(origin for _, origin in cut),
        )


def next_token(tokenizer: TextTokenizer) -> Objective:
    """Return the objective of a decoder: BOS and the window predict the window."""

    def make(window: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return np.concatenate([[tokenizer.bos_id], window[:-1]]), window

    return make


def masked_token(
    tokenizer: TextTokenizer, mask_id: int, *, rate: float, shifted: bool, ignored: int
) -> Objective:
    """Return the objective of an encoder: some tokens hidden, to be predicted.

    Args:
        tokenizer: For the ids of BOS and EOS.
        mask_id: What stands in the place of a hidden token.
        rate: Share of the tokens that are hidden; at least one is.
        shifted: The state before a hidden token tells it, as a decoder's would (masked next-token
            prediction, LLM2Vec, arXiv 2404.05961, section 2.2), and not its own.
        ignored: Label of everything else.
    """

    def make(window: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        hidden = rng.random(len(window)) < rate
        hidden[rng.integers(len(window))] |= not hidden.any()
        shown = np.where(hidden, mask_id, window)
        text = np.concatenate([[tokenizer.bos_id], shown, [tokenizer.eos_id]])
        wanted = np.where(hidden, window, ignored)
        after = [ignored, ignored] if shifted else [ignored]
        before = [] if shifted else [ignored]
        return text, np.concatenate([before, wanted, after]).astype(np.int64)

    return make
