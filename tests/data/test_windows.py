"""Batches of windows and facts: what they hold, in which shares, and the same at every start."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from denoise_double import restore
from training_doubles import write_lines

from culet.data.batches.denoise import Denoised, Markers, prefix_lm, t5gemma2
from culet.data.batches.windows import (
    DenoisingBatcher,
    TextSource,
    TextSourceConfig,
    TokenPairs,
    WindowBatcher,
    WindowPlan,
    masked_token,
    next_token,
    read_text_sources,
)
from culet.data.seq2seq import InputTarget, PairBatcher, read_pairs
from culet.errors import InputError, RecipeError
from culet.text.tokenizer import TextTokenizer
from culet.text.tokenizer_training import byte_tokenizer

BOS, EOS, MASK = 2, 1, 4
MARKERS = Markers(tuple(range(5, 13)), {"R": 13, "S": 14, "X": 15})
TOKENIZER = TextTokenizer(byte_tokenizer(), 1000, bos_id=BOS, eos_id=EOS)
IGNORED = -100


@pytest.fixture
def sources(tmp_path: Path) -> list[TextSource]:
    texts = [{"text": f"text number {i}: " + "abcdefghij"[i % 10] * i} for i in range(60)]
    facts = [{"s": f"s{i}", "r": "of", "o": f"o{i}"} for i in range(9)]
    configs = [
        TextSourceConfig(write_lines(tmp_path / "prose.jsonl", texts), name="prose"),
        TextSourceConfig(write_lines(tmp_path / "facts.jsonl", facts), kind="triples"),
    ]
    return read_text_sources(configs, TOKENIZER, tmp_path / "tokens")


def denoising(sources: list[TextSource], **changes: Any) -> DenoisingBatcher:
    plan = WindowPlan(sources, window=32, batch_size=6, seed=changes.pop("seed", 0))
    return DenoisingBatcher(
        plan, changes.pop("denoisers", t5gemma2()), MARKERS, TOKENIZER, **changes
    )


def same(first: TokenPairs, second: TokenPairs) -> bool:
    return all(
        np.array_equal(a, b)
        for a, b in zip(first.sources + first.targets, second.sources + second.targets, strict=True)
    )


def test_half_of_every_batch_is_text_and_half_is_facts(sources: list[TextSource]) -> None:
    batch = denoising(sources)(0)
    assert len(batch.sources) == 6
    assert [origin.split("/")[-1].split(":")[0] for origin in batch.origin] == [
        *["prose.jsonl"] * 3,
        *["facts.jsonl"] * 3,
    ]
    assert batch.source == "prose, facts.jsonl"
    assert batch.num_tokens == sum(map(len, [*batch.sources, *batch.targets]))


def test_windows_are_denoised_between_bos_and_eos_and_can_be_restored(
    sources: list[TextSource],
) -> None:
    stream = sources[0].stream
    assert stream is not None
    doubled = [*stream.window(0, len(stream)), *stream.window(0, len(stream))]
    row = "".join(map(chr, doubled))
    for batch in map(denoising(sources[:1]), range(5)):
        for source, target in zip(batch.sources, batch.targets, strict=True):
            assert (source[0], source[-1], target[-1]) == (BOS, EOS, EOS)
            window = restore(Denoised(source[1:-1], target[:-1], np.empty(0)), MARKERS)
            assert len(window) == 32
            assert "".join(map(chr, window)) in row


def test_facts_hide_an_end_behind_the_first_sentinel(sources: list[TextSource]) -> None:
    batch = denoising(sources[1:])(0)
    raw = byte_tokenizer()
    for source, target in zip(batch.sources, batch.targets, strict=True):
        shown, told = raw.decode(source.tolist()), raw.decode(target.tolist())
        assert (source == 5).sum() == 1
        assert ", of" in shown
        assert told[0] in "so"
        assert told not in shown


def test_a_teacher_is_told_which_of_its_states_speaks_for_which_target(
    sources: list[TextSource],
) -> None:
    for denoisers in (t5gemma2(), prefix_lm()):
        batch = denoising(sources, windows=True, denoisers=denoisers)(1)
        spoken = 0
        for window, places, target in zip(batch.windows, batch.places, batch.targets, strict=True):
            assert window[0] == BOS
            assert len(places) == len(target)
            real = places >= 0
            # the state of token i of "BOS, window" is asked about token i + 1
            assert np.array_equal(window[places[real] + 1], target[real])
            assert not set(target[real]) & MARKERS.ids
            assert not real[-1]  # EOS is not the text's
            spoken += int(real.sum())
        assert spoken
    assert denoising(sources)(1).windows == []


def test_a_batch_follows_from_seed_and_step_alone(sources: list[TextSource]) -> None:
    whole = denoising(sources)
    batches = [whole(step) for step in range(12)]
    for step in (11, 3, 0):
        assert same(denoising(sources)(step), batches[step])
    assert not same(denoising(sources, seed=1)(3), batches[3])
    assert not same(batches[0], batches[1])


def test_another_epoch_cuts_and_masks_elsewhere(sources: list[TextSource]) -> None:
    plan = WindowPlan(sources[:1], window=32, batch_size=1, seed=0)
    epoch = sources[0].size(32)
    cuts = {plan.cut(plan.slots.draw(step)[0])[0].tobytes() for step in range(2 * epoch)}
    assert len(cuts) > 1.8 * epoch


# --- one stack


def test_a_decoder_predicts_the_window_from_bos(sources: list[TextSource]) -> None:
    plan = WindowPlan(sources[:1], window=16, batch_size=4, seed=0)
    batch = WindowBatcher(plan, next_token(TOKENIZER))(2)
    for text, labels in zip(batch.texts, batch.labels, strict=True):
        assert text[0] == BOS
        assert np.array_equal(text[1:], labels[:-1])
        assert len(labels) == 16
    assert batch.num_tokens == 64


@pytest.mark.parametrize("shifted", [False, True])
def test_hidden_tokens_are_told_by_their_own_state_or_the_one_before(
    sources: list[TextSource], shifted: bool
) -> None:
    plan = WindowPlan(sources[:1], window=30, batch_size=4, seed=0)
    objective = masked_token(TOKENIZER, MASK, rate=0.2, shifted=shifted, ignored=IGNORED)
    told = 0
    for batch in map(WindowBatcher(plan, objective), range(30)):
        for text, labels in zip(batch.texts, batch.labels, strict=True):
            assert len(text) == len(labels) == 32
            assert (text[0], text[-1]) == (BOS, EOS)
            where = np.flatnonzero(labels != IGNORED)
            assert np.array_equal(where + shifted, np.flatnonzero(text == MASK))
            told += len(where)
    assert told == pytest.approx(0.2 * 30 * 120, rel=0.1)


def test_at_least_one_token_is_hidden() -> None:
    make = masked_token(TOKENIZER, MASK, rate=1e-9, shifted=False, ignored=IGNORED)
    text, labels = make(np.array([50, 51, 52]), np.random.default_rng(0))
    assert (labels != IGNORED).sum() == 1
    assert (text == MASK).sum() == 1


def test_facts_have_no_place_in_a_single_stack(sources: list[TextSource]) -> None:
    plan = WindowPlan(sources, window=16, batch_size=4, seed=0)
    with pytest.raises(RecipeError, match=r"reads text only, and facts\.jsonl holds triples"):
        WindowBatcher(plan, next_token(TOKENIZER))


def test_a_weight_of_nothing_is_refused() -> None:
    for weight in (0, math.inf):
        with pytest.raises(RecipeError, match=f"weight must be above 0 and finite, got {weight}"):
            TextSourceConfig(Path("x.jsonl"), weight=weight)


# --- input and target


def test_pairs_are_read_with_their_answers(tmp_path: Path) -> None:
    rows = [
        {"input": "a?", "target": "b"},
        {"input": "c?", "target": "d", "answers": ["e", "d"]},
    ]
    path = write_lines(tmp_path / "qa.jsonl", rows)
    assert read_pairs([path]) == [
        InputTarget("a?", "b", ("b",), f"{path}:1"),
        InputTarget("c?", "d", ("d", "e"), f"{path}:2"),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"input": "a"}', "expected a text .* under 'target'"),
        ('{"input": "", "target": "b"}', "expected a text .* under 'input'"),
        (
            '{"input": "a", "target": "b", "answers": "c"}',
            "expected a list of texts under 'answers'",
        ),
        ('{"input": "a", "target": "b", "answers": [""]}', "expected a text .* under 'answers'"),
        ("5", "expected a JSON object, got 5"),
    ],
)
def test_a_bad_record_is_named(tmp_path: Path, row: str, message: str) -> None:
    path = write_lines(tmp_path / "qa.jsonl", [{"input": "a", "target": "b"}, row])
    with pytest.raises(InputError, match=rf"qa\.jsonl:2: .*{message}"):
        read_pairs([path])


def test_pairs_become_tokens_and_what_is_too_long_is_cut_and_counted() -> None:
    pairs = [InputTarget("ab", "c" * n, origin=f"q:{n}") for n in (1, 3, 9)]
    batcher = PairBatcher(pairs, TOKENIZER, batch_size=3, max_target_tokens=4, seed=0, name="qa")
    batch = batcher(0)
    lengths = dict(zip(batch.origin, map(len, batch.targets), strict=True))
    assert lengths == {"q:1": 2, "q:3": 4, "q:9": 4}
    assert all(target[-1] == EOS for target in batch.targets)
    assert all(source[0] == BOS and source[-1] == EOS for source in batch.sources)
    assert batch.truncated == 1
