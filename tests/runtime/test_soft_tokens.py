"""Vectors in place of token ids, as of an image: rows of the table give what their ids give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from random_checkpoint import write_random
from runtime_doubles import BFLOAT16, texts

from culet.architecture.multimodal import SoftTokens
from culet.checkpoints.checkpoint import EmbeddingCheckpoint
from culet.checkpoints.embedding import read_embedding_model
from culet.embedder import Engine
from culet.errors import InputError
from culet.model.batch import TokenVectors, pack
from culet.model.weights import from_arrays
from culet.runtime.openvino import engine as engine_module
from culet.runtime.openvino.engine import OpenVinoEngine
from culet.runtime.pytorch import torch_engine


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingCheckpoint:
    return read_embedding_model(write_random(tmp_path_factory.mktemp("soft") / "m"))


def engine_of(name: str, checkpoint: EmbeddingCheckpoint, cache: Path) -> Engine:
    if name == "torch":
        return torch_engine(checkpoint, "float32", device="cpu")
    return OpenVinoEngine(checkpoint, name, threads=2, cache=cache)


def vectors_of(engine: Engine, ids: list[np.ndarray], soft: dict[int, SoftTokens]) -> np.ndarray:
    found = dict[int, np.ndarray]()
    for index, vectors in engine.embed(ids, soft=soft):
        found |= dict(zip(index.tolist(), vectors, strict=True))
    return np.stack([found[i] for i in range(len(ids))])


@pytest.mark.parametrize("name", ["torch", "float32", BFLOAT16, "int8", "int4"])
@pytest.mark.parametrize("bulk", [False, True])
def test_rows_of_the_table_given_as_vectors_are_their_tokens(
    checkpoint: EmbeddingCheckpoint,
    name: str,
    bulk: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_module, "_BULK_TOKENS", 100 if bulk else 10_000)
    engine = engine_of(name, checkpoint, tmp_path)
    ids = texts((9, 3, 70, 40, 9, 500))
    expected = vectors_of(engine, ids, {})
    table = (
        engine._table.rows(np.arange(272))
        if isinstance(engine, OpenVinoEngine)
        else checkpoint.arrays()["embed"]
    )
    rng = np.random.default_rng(1)
    soft, hidden = {}, [text.copy() for text in ids]
    for i in (0, 2, 3, 5):
        places = rng.permutation(len(ids[i]))[: len(ids[i]) // 2]
        soft[i] = SoftTokens(places, table[ids[i][places]])
        hidden[i][places] = 0  # whatever id stands there
    found = vectors_of(engine, hidden, soft)
    assert np.array_equal(found, expected)
    soft[2] = replace(soft[2], vectors=soft[2].vectors + 1)
    moved = np.abs(vectors_of(engine, hidden, soft) - expected).max(axis=1) > 1e-3
    assert moved.tolist() == [False, False, True, False, False, False]


def test_gradients_reach_the_vectors(checkpoint: EmbeddingCheckpoint) -> None:
    model = from_arrays(checkpoint.config, checkpoint.arrays())
    ids = texts((9, 3, 7))
    batch = pack(ids)
    where, positions = torch.tensor([0, 2, 2]), torch.tensor([4, 0, 6])
    places = batch.places(where, positions)
    assert batch.ids[places].tolist() == [ids[0][4], ids[2][0], ids[2][6]]
    vectors = model.encoder.embed[batch.ids[places]].detach().requires_grad_()
    found = model(batch, soft=TokenVectors(places, vectors))
    assert torch.equal(found, model(batch))
    found[:, 0].sum().backward()
    assert vectors.grad is not None
    assert (vectors.grad.abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("name", ["torch", "float32"])
@pytest.mark.parametrize(
    ("places", "shape", "words"),
    [
        ([0, 1], (2, 31), r"need vectors of shape \(2, 32\), got \(2, 31\)"),
        ([0], (2, 32), r"at 1 places need vectors of shape \(1, 32\), got \(2, 32\)"),
        ([0, 3], (2, 32), r"from 0 to 2, none twice, got \[0, 3\]"),
        ([-1], (1, 32), "from 0 to 2"),
        ([1, 1], (2, 32), "none twice"),
    ],
)
def test_soft_tokens_that_do_not_fit_are_refused(
    checkpoint: EmbeddingCheckpoint,
    name: str,
    places: list[int],
    shape: tuple[int, int],
    words: str,
    tmp_path: Path,
) -> None:
    soft = {0: SoftTokens(np.array(places), np.zeros(shape, dtype=np.float32))}
    with pytest.raises(InputError, match=words):
        list(engine_of(name, checkpoint, tmp_path).embed(texts((3,)), soft=soft))
