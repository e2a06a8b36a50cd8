"""What the tests of language-model training share: tiny random decoders and encoder-decoders."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from random_checkpoint import random_arrays
from training_doubles import small

from culet.model.decoder import Decoder
from culet.model.decoder_config import DecoderConfig, EncoderDecoderConfig
from culet.model.encoder_decoder import EncoderDecoder
from culet.model.weights import from_arrays


def decoder_config(**changes: Any) -> DecoderConfig:
    return DecoderConfig(replace(small().encoder, causal=True), **changes)


def pair_config(**changes: Any) -> EncoderDecoderConfig:
    return EncoderDecoderConfig(small().encoder, decoder_config(), **changes)


def decoder(*, seed: int = 0, **changes: Any) -> Decoder:
    config = decoder_config(**changes)
    return from_arrays(config, random_arrays(config, seed=seed)).train()


def encoder_decoder(*, seed: int = 0, **changes: Any) -> EncoderDecoder:
    config = pair_config(**changes)
    return from_arrays(config, random_arrays(config, seed=seed)).train()


def prose(number: int = 40, *, seed: int = 0) -> list[dict[str, str]]:
    """Texts of few words, so that there is something to learn."""
    words = ["the", "ant", "bee", "sees", "a", "cat", "and", "dog", "runs", "to", "barn"]
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(number):
        chosen = rng.choice(words, int(rng.integers(4, 12)))
        rows.append({"text": " ".join(map(str, chosen)), "lang": "en"})
    return rows
