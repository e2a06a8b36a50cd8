"""What is known about a token before any training: how rare it is, and how it is spelt.

A model that starts from these two is already a search engine, a random projection of TF-IDF over
subwords, and training starts there instead of at noise (LOG.md has the measurement).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from zlib import crc32

import numpy as np
from tokenizers import Tokenizer

from culet.terminal.progress import Progress
from culet.text.tokenizer_training import SPACE

_NGRAMS = (2, 3, 4)
_WHOLE = 0.5  # weight of the whole piece beside its n-grams


def token_information(tokenizer: Tokenizer, texts: Iterable[str]) -> np.ndarray:
    """Return each token's inverse document frequency over the largest, float32 [V], from 0 to 1.

    Special tokens and prompts, which occur in every text or in none, carry no information; a
    token that no text has carries the most.
    """
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    frequency, count, texts = np.zeros(size), 0, iter(texts)
    while block := list(islice(texts, 4096)):
        for encoding in tokenizer.encode_batch_fast(block, add_special_tokens=False):
            frequency[np.unique(encoding.ids)] += 1
        count += len(block)
    information = np.log((1 + count) / (1 + frequency)) / np.log(1 + count)
    for token_id in _wordless(tokenizer):
        information[token_id] = 0.0
    return np.asarray(information, dtype=np.float32)


def token_directions(tokenizer: Tokenizer, dim: int, *, seed: int) -> np.ndarray:
    """Return a unit vector for each token, float32 [V, D], similar for similar spellings.

    The vector is the sum of random vectors of the token's n-grams of characters, ignoring case and
    leading space, each weighted by its rarity in the vocabulary, and of the whole piece; so
    " Application", "application" and "applications" start close together. A token without letters
    gets a random direction.
    """
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    wordless = _wordless(tokenizer)
    pieces = [
        "" if i in wordless else (tokenizer.id_to_token(i) or "").replace(SPACE, "").lower()
        for i in range(size)
    ]
    grams = [sorted(_grams(piece)) for piece in pieces]
    frequency: dict[str, int] = {}
    for own in grams:
        for gram in own:
            frequency[gram] = frequency.get(gram, 0) + 1
    table: dict[str, np.ndarray] = {}
    directions = np.empty((size, dim), dtype=np.float32)
    with Progress("spelling tokens", total=size, unit="tokens", show=None) as progress:
        for i, (piece, own) in enumerate(zip(pieces, grams, strict=True)):
            vector = _WHOLE * np.log(size) * _random(piece or f"\0{i}", dim, seed)
            for gram in own:
                if gram not in table:
                    table[gram] = _random("\1" + gram, dim, seed)
                vector += np.log(size / frequency[gram]) * table[gram]
            directions[i] = vector / np.linalg.norm(vector)
            progress.advance()
    return directions


def token_table(information: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Return a first token table, float32 [V, D], of unit rows, with which a mean is a TF-IDF sum.

    A model's last norm gives every token the same size, so a token's weight cannot be the
    length of its row. It is in its direction: what a token lacks in information goes into
    dimension 0, which the head of an embedding model then should not read.

    Args:
        information: Of each token, [V], from 0 to 1, as from `token_information`.
        directions: Of each token, [V, D]; dimension 0 is not used.
    """
    weight = np.clip(information, 0, 1)[:, None]
    rest = directions[:, 1:]
    rest = weight * (rest / np.linalg.norm(rest, axis=1, keepdims=True))
    return np.concatenate([np.sqrt(1 - weight**2), rest], axis=1).astype(np.float32)


def _grams(piece: str) -> Iterator[str]:
    for n in _NGRAMS:
        for start in range(len(piece) - n + 1):
            yield piece[start : start + n]


def _random(text: str, dim: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, crc32(text.encode())]).standard_normal(dim)


def _wordless(tokenizer: Tokenizer) -> set[int]:
    """Return the ids of special tokens and prompts; single bytes are parts of words."""
    return {
        token_id
        for token_id, token in tokenizer.get_added_tokens_decoder().items()
        if not token.content.startswith("<0x")
    }
