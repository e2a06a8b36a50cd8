"""Language-model stages in two processes: what one process learns, to rounding."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from distributed_doubles import run
from language_doubles import token_stages, write_corpus, write_pair, write_teacher
from training_doubles import write_lines

from culet.checkpoints.embedding import read_embedding_model
from culet.checkpoints.gemma import read_decoder
from culet.checkpoints.t5gemma import read_encoder_decoder
from culet.train.log import read_log

STAGES = ("decoder", "lonely", "encoder", "pretrain", "seq2seq")
READERS = {"encoder": read_embedding_model, "pretrain": read_encoder_decoder}


@pytest.fixture(scope="module", params=["ddp", "fsdp"])
def trained(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The same stages by one process, by two, and begun by two and ended by one."""
    folder = tmp_path_factory.mktemp(f"tokens-{request.param}")
    write_corpus(folder / "data")
    told = [{"input": f"{i} ants", "target": f"{i} bees"} for i in range(8)]
    write_lines(folder / "data/told.jsonl", told)
    write_pair(folder / "pair")
    write_teacher(folder / "teacher", seed=5)
    (folder / "way.json").write_text(json.dumps(request.param))
    for code, said in run("tokens", folder):
        assert code == 0, said
    assert (folder / "two-then-one/pretrain/state/state.json").exists()
    assert not (folder / "two-then-one/pretrain/done.json").exists()
    token_stages(folder, folder / "two-then-one")
    token_stages(folder, folder / "one")
    return folder


def weights(folder: Path, stage: str) -> Mapping[str, np.ndarray]:
    """Return the weights a stage has left."""
    if stage == "seq2seq":
        return read_encoder_decoder(folder / stage / "checkpoint").arrays()
    return READERS.get(stage, read_decoder)(folder / stage / "checkpoint").arrays()


@pytest.mark.parametrize("way", ["two", "two-then-one"])
@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_learn_what_one_learns(trained: Path, stage: str, way: str) -> None:
    expected = read_log(trained / "one" / stage / "log.jsonl")
    found = read_log(trained / way / stage / "log.jsonl")
    for key in ("step", "source", "tokens", "texts_cut"):
        assert [line[key] for line in found] == [line[key] for line in expected], key
    for key in ("loss", "cross_entropy", "accuracy"):
        values = [[line[key] for line in log] for log in (expected, found)]
        assert np.allclose(*values, rtol=0, atol=2e-5), key
    right = weights(trained / "one", stage)
    for name, value in weights(trained / way, stage).items():
        assert np.allclose(value, right[name], rtol=0, atol=1e-5), name


def test_training_moved_the_weights_by_more_than_the_tolerance(trained: Path) -> None:
    for stage, start in (("pretrain", "pair"), ("lonely", "teacher")):
        read = read_encoder_decoder if start == "pair" else read_decoder
        before, after = read(trained / start).arrays(), weights(trained / "one", stage)
        assert max(np.abs(after[name] - before[name]).max() for name in before) > 1e-2


def test_the_first_process_answers_and_leaves_the_papers(trained: Path) -> None:
    assert len((trained / "two/seq2seq/answers.jsonl").read_text().splitlines()) == 8
    for stage in STAGES:
        folder = trained / "two" / stage
        assert (folder / "done.json").exists()
        assert (folder / "checkpoint/ledger.json").exists()
        assert not [path.name for path in folder.iterdir() if path.name[0] == "."]
