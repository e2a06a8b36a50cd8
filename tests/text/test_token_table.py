"""What a token is known to say before training: its rarity and its spelling."""

from __future__ import annotations

import numpy as np
import torch
from tokenizers import Tokenizer

from culet.architecture.embedding_config import tiny
from culet.model.batch import pack
from culet.model.embedding_model import EmbeddingModel, initialize
from culet.text.token_table import token_directions, token_information, token_table
from culet.text.tokenizer_training import byte_tokenizer, train_tokenizer

TEXTS = ["the cat", "the dog", "the bird", "the application", "the applications", "Application"] * 9


def _tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, 420)


def test_a_token_in_every_text_says_less_than_a_rare_one() -> None:
    tokenizer = byte_tokenizer()
    information = token_information(tokenizer, ["ab", "ac", "ad"])
    a, b, z = (information[tokenizer.token_to_id(f"<0x{ord(c):02X}>")] for c in "abz")
    # three texts: log(4/4), log(4/2) and log(4/1), over log 4
    np.testing.assert_allclose([a, b, z], [0.0, 0.5, 1.0], atol=1e-6)


def test_special_tokens_and_prompts_say_nothing() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["task: search result | query:"])
    information = token_information(tokenizer, ["a"])
    assert information[tokenizer.token_to_id("<bos>")] == 0
    assert information[tokenizer.token_to_id("task: search result | query:")] == 0


def test_tokens_spelt_alike_point_alike() -> None:
    tokenizer = _tokenizer()
    directions = token_directions(tokenizer, 256, seed=0)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-5)
    vocabulary = tokenizer.get_vocab()
    spelt = {piece: directions[i] for piece, i in vocabulary.items()}
    near = spelt["▁application"] @ spelt["Application"]
    far = spelt["▁application"] @ spelt["▁bird"]
    assert near > 0.99  # only case and the leading space differ
    assert abs(far) < 0.3


def test_directions_follow_the_seed_and_nothing_else() -> None:
    tokenizer = _tokenizer()
    first = token_directions(tokenizer, 16, seed=1)
    np.testing.assert_array_equal(first, token_directions(tokenizer, 16, seed=1))
    assert not np.allclose(first, token_directions(tokenizer, 16, seed=2))


def test_an_untrained_model_weighs_tokens_by_their_information() -> None:
    config = tiny()
    vocab = config.encoder.vocab_size
    information = np.ones(vocab)
    information[10] = 0.0  # says nothing
    directions = np.random.default_rng(0).standard_normal((vocab, config.encoder.model_dim))
    table = token_table(information, directions)
    np.testing.assert_allclose(np.linalg.norm(table, axis=1), 1, atol=1e-6)
    model = initialize(EmbeddingModel(config), seed=0, table=torch.from_numpy(table)).eval()
    plain = initialize(EmbeddingModel(config), seed=0).eval()
    texts = [[20, 21], [20, 21, 10, 10, 10, 10]]
    with torch.no_grad():
        weighed, unweighed = model(pack(texts)), plain(pack(texts))
    assert float(weighed[0] @ weighed[1]) > 0.95
    assert float(unweighed[0] @ unweighed[1]) < 0.9
