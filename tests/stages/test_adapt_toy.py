"""The toy of T5Gemma's adaptation: digits, then the operation that says what to do with them.

A causal encoder reads the digits before it knows the operation; a bidirectional one does not. Both
begin as the same pretrained decoder. What others have measured to fail at this scale (adaptation
before training from nothing, a first phase of cross-attention alone) is not asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from culet.architecture.encoder_config import EncoderConfig
from culet.architecture.generating_config import DecoderConfig, EncoderDecoderConfig
from culet.model.adapt import adapt, adapted_config
from culet.model.batch import pack, pack_pairs
from culet.model.decoder import Decoder
from culet.model.encoder_decoder import EncoderDecoder
from culet.model.weights import from_arrays, to_arrays

DIGITS, SHIFTS, BATCH, WIDTH = 4, 5, 64, 32
EOS, BOS, FIRST_DIGIT, FIRST_OPERATION = 1, 2, 3, 13
DECODER = DecoderConfig(
    EncoderConfig(
        vocab_size=FIRST_OPERATION + 2 * SHIFTS,
        num_layers=2,
        model_dim=WIDTH,
        ffn_dim=2 * WIDTH,
        num_heads=4,
        num_kv_heads=4,
        head_dim=WIDTH // 4,
        window=64,
        global_layers=(0, 1),
        max_length=64,
        global_rope_base=10_000.0,
        causal=True,
    )
)
Examples = tuple[np.ndarray, np.ndarray]


def examples(rng: np.random.Generator, count: int) -> Examples:
    """Return digits with an operation, and answers: k is added to each; half are reversed."""
    digits = rng.integers(0, 10, (count, DIGITS))
    operation = rng.integers(0, 2 * SHIFTS, count)
    answer = (digits + (operation % SHIFTS)[:, None]) % 10
    answer = np.where((operation >= SHIFTS)[:, None], answer[:, ::-1], answer)
    question = [digits + FIRST_DIGIT, operation[:, None] + FIRST_OPERATION]
    return (
        np.concatenate(question, axis=1),
        np.concatenate([answer + FIRST_DIGIT, np.full((count, 1), EOS)], axis=1),
    )


def decoder_loss(model: Decoder, questions: np.ndarray, answers: np.ndarray) -> Tensor:
    start = np.full((len(questions), 1), BOS)
    texts = np.concatenate([start, questions, answers[:, :-1]], axis=1)
    hidden = model(pack(list(texts))).view(len(texts), -1, WIDTH)[:, DIGITS + 1 :]
    return F.cross_entropy(model.logits(hidden).flatten(0, 1), torch.from_numpy(answers).flatten())


def pair_loss(model: EncoderDecoder, questions: np.ndarray, answers: np.ndarray) -> Tensor:
    batch = pack_pairs(list(questions), list(answers))
    return F.cross_entropy(model.logits(model(batch)), batch.labels)


def exact_match(model: EncoderDecoder) -> float:
    """Return the share of 256 answers that greedy decoding would write without a mistake."""
    batch = pack_pairs(*map(list, examples(np.random.default_rng(99), 256)))
    with torch.no_grad():
        right = model.logits(model(batch)).argmax(-1) == batch.labels
    return float(right.view(256, -1).all(1).float().mean())


def train(
    model: nn.Module,
    loss: Callable[..., Tensor],
    *,
    steps: int,
    seed: int,
    until: Callable[[int], bool] = lambda step: False,
) -> int:
    """Train and return the step after which `until` was true, or `steps`."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    rng = np.random.default_rng(seed)
    for step in range(steps):
        cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = 4e-3 * min(1, (step + 1) / 50) * cosine
        optimizer.zero_grad()
        loss(model, *examples(rng, BATCH)).backward()
        optimizer.step()
        if (step + 1) % 25 == 0 and until(step + 1):
            return step + 1
    return steps


def random_decoder() -> Decoder:
    rng = np.random.default_rng(0)
    arrays = {}
    for name, shape in DECODER.weight_shapes().items():
        is_norm = len(shape) == 1
        array = np.zeros(shape) if is_norm else rng.standard_normal(shape) * shape[-1] ** -0.5
        arrays[name] = array.astype(np.float32)
    return from_arrays(DECODER, arrays)


def test_a_bidirectional_encoder_learns_before_a_causal_one() -> None:
    decoder = random_decoder()
    train(decoder, decoder_loss, steps=150, seed=0)
    both = adapted_config(DECODER, encoder_window="whole")
    arrays = adapt(both, {name: array.copy() for name, array in to_arrays(decoder).items()})
    blind = replace(both.encoder, causal=True)

    def adapted(config: EncoderDecoderConfig) -> EncoderDecoder:
        return from_arrays(config, arrays)

    model = adapted(both)
    options = {"steps": 1000, "seed": 1}
    step = train(model, pair_loss, **options, until=lambda _: exact_match(model) >= 0.9)  # type: ignore[arg-type]
    assert step < 1000
    causal = adapted(replace(both, encoder=blind))
    train(causal, pair_loss, **options, until=lambda done: done == step)  # type: ignore[arg-type]
    assert exact_match(causal) < 0.9
