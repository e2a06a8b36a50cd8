"""Embedders in other processes: forked, pickled, copied."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from random_checkpoint import write_random

import culet
from culet.checkpoints.embedding import read_embedding_model
from culet.embedder import Embedder
from culet.errors import CheckpointError, InputError

TEXTS = [f"text {i} " + "word " * (i % 30) for i in range(150)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random(tmp_path_factory.mktemp("processes") / "m")


# Through several streams, whose threads a child does not have. A process of its own, since torch
# and OpenVINO in one process may not be forked, and since the time limit has to kill it.
FORKED = """
import multiprocessing, os, signal, sys
import numpy as np
import culet
from culet.runtime.openvino import engine

engine._BULK_TOKENS = 500
folder, precision, texts = sys.argv[1], sys.argv[2], eval(sys.argv[3])
embedder = culet.load(folder, precision=precision, threads=2)
expected = embedder.encode_document(texts)
single = embedder.encode_query("one")

def same(_=0):
    signal.alarm(100)  # kills a child that hangs
    alike = np.allclose(embedder.encode_document(texts), expected, atol=1e-5)
    return bool(alike and np.allclose(embedder.encode_query("one"), single, atol=1e-5))

def child(work):
    pid = os.fork()
    if pid == 0:
        signal.alarm(100)
        sys.exit(work())  # by the interpreter's own end, which frees what it holds
    return os.waitpid(pid, 0)[1]

print("embeds", child(lambda: 3 if same() else 4))
print("only ends", child(lambda: 5))
with multiprocessing.get_context("fork").Pool(1) as pool:
    print("pool", pool.map(same, [0]))
print("parent", same())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("precision", ["float32", "int4"])
def test_a_forked_child_embeds_and_ends(folder: Path, precision: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", FORKED, str(folder), precision, repr(TEXTS)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"TOKENIZERS_PARALLELISM": "false"},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [
        f"embeds {3 << 8}",
        f"only ends {5 << 8}",
        "pool [True]",
        "parent True",
    ]


def test_with_pytorch_a_child_says_that_it_cannot(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = culet.load(folder, backend="torch", device="cpu")
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    message = r"this embedder \(torch cpu float32\) was loaded before a fork; load it in the child"
    with pytest.raises(InputError, match=message):
        embedder.encode_query("a")


def test_a_pickled_or_copied_embedder_gives_the_same_vectors(folder: Path) -> None:
    embedder = culet.load(folder, precision="int8", threads=1)
    expected = embedder.encode_document(TEXTS[:5])
    for again in (pickle.loads(pickle.dumps(embedder)), copy.deepcopy(embedder)):
        assert repr(again) == repr(embedder)
        assert (again.precision, again.backend, again.name) == ("int8", "openvino", str(folder))
        np.testing.assert_array_equal(again.encode_document(TEXTS[:5]), expected)
    torch = pickle.loads(pickle.dumps(culet.load(folder, backend="torch", device="cpu")))
    assert "torch cpu float32" in repr(torch)


def test_a_pickled_embedder_finds_its_folder_from_elsewhere(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    kept = pickle.dumps(culet.load(folder.name))
    monkeypatch.chdir(tmp_path)
    again = pickle.loads(kept)
    assert again.name == folder.name
    assert again.fingerprint == read_embedding_model(folder).fingerprint


def test_an_embedder_whose_folder_has_changed_is_not_taken_for_it(tmp_path: Path) -> None:
    kept = pickle.dumps(culet.load(write_random(tmp_path / "m")))
    (tmp_path / "m").rename(tmp_path / "old")
    write_random(tmp_path / "m", prompts={})
    with pytest.raises(CheckpointError, match=r"m holds another model .* than when the embedder"):
        pickle.loads(kept)


def test_an_embedder_from_no_folder_cannot_be_pickled(folder: Path) -> None:
    loaded = culet.load(folder)
    embedder = Embedder(loaded.checkpoint, loaded._engine, name="in training")
    message = "'in training' was not loaded from a folder, so it cannot be pickled or copied; write"
    for attempt in (pickle.dumps, copy.deepcopy):
        with pytest.raises(InputError, match=message):
            attempt(embedder)
