"""How much a token tells: from its probability in the vocabulary and its rarity in the texts."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer
from unigram import RESERVED

_LEAST = 0.05
_COMMON, _RANGE = 4.0, 12.0  # -log probabilities that count as 0, and how far it is to 1


def rarity(ids: Sequence[np.ndarray], vocab: int) -> np.ndarray:
    """Return log(N / texts with the token) / log N, from 0 to 1 [V]."""
    seen = np.zeros(vocab)
    for own in ids:
        seen[np.unique(own)] += 1
    rare: np.ndarray = np.log((len(ids) + 1) / (seen + 1)) / np.log(len(ids) + 1)
    return rare


def information(tokenizer: Tokenizer, ids: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean of both, from 0 to 1 [V]; 0 for reserved tokens and prompts."""
    scores = np.array([score for _, score in json.loads(tokenizer.to_str())["model"]["vocab"]])
    vocab = tokenizer.get_vocab_size()
    likely = np.clip((-scores - _COMMON) / _RANGE, _LEAST, 1)
    weights = (rarity(ids, vocab) + np.pad(likely, (0, vocab - len(likely)))) / 2
    weights[: len(RESERVED)] = 0
    weights[len(scores) :] = 0
    return weights.astype(np.float32)
