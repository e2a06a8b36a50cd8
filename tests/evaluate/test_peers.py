from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from random_checkpoint import write_random

import culet
from culet.errors import CheckpointError, InputError
from culet.evaluate.peers import SentenceTransformerModel

TEXTS = ["a garnet", "a topaz is blue", "ein Smaragd"]


def test_a_sentence_transformers_folder_gives_its_own_vectors_and_prompts(tmp_path: Path) -> None:
    folder = write_random(tmp_path / "m")
    peer = SentenceTransformerModel(folder)
    embedder = culet.load(folder, precision="float32")
    assert peer.name == "m"
    ours = embedder.encode_document(TEXTS)
    assert np.allclose(peer.encode_document(TEXTS), ours, atol=1e-4)
    queries = peer.encode_query(TEXTS)
    assert np.allclose(queries, embedder.encode_query(TEXTS, task="search"), atol=1e-4)
    assert not np.allclose(queries, ours, atol=1e-3)  # the prompts differ
    own = embedder.encode_query(TEXTS, instruction="find gems")
    assert own.shape == queries.shape


def test_what_is_no_such_folder_or_has_no_place_for_titles_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no modules\.json; expected a sentence-tr"):
        SentenceTransformerModel(tmp_path)
    peer = SentenceTransformerModel(write_random(tmp_path / "m"))
    with pytest.raises(InputError, match="takes no separate titles; join them to texts"):
        peer.encode_document(["a"], titles=["b"])
