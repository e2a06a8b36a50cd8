"""The cached file of a compiled model: the same vectors, and what happens when it is no good."""

from __future__ import annotations

import os
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from random_checkpoint import write_random
from runtime_doubles import BFLOAT16, LENGTHS, embed, texts

from culet.architecture.embedding_config import EmbeddingConfig, tiny
from culet.architecture.encoder_config import every_sixth
from culet.checkpoints.checkpoint import EmbeddingCheckpoint
from culet.checkpoints.embedding import read_embedding_model
from culet.runtime.openvino import compiled
from culet.runtime.openvino.engine import OpenVinoEngine

SHORT = (5, 40)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingCheckpoint:
    return read_embedding_model(write_random(tmp_path_factory.mktemp("compiled") / "m"))


def start(
    checkpoint: EmbeddingCheckpoint, folder: Path, precision: str = "float32"
) -> OpenVinoEngine:
    return OpenVinoEngine(checkpoint, precision, threads=1, cache=folder)


def blobs(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.blob"))


def of_layers(number: int) -> EmbeddingConfig:
    config = tiny()
    layers = {"num_layers": number, "global_layers": every_sixth(number)}
    return replace(config, encoder=replace(config.encoder, **layers))


@pytest.mark.parametrize("precision", ["float32", BFLOAT16, "int8"])
def test_a_second_start_builds_nothing_and_gives_the_same_vectors(
    checkpoint: EmbeddingCheckpoint, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = texts(LENGTHS)
    first = embed(start(checkpoint, tmp_path, precision), ids)
    monkeypatch.setattr("culet.runtime.openvino.engine.encoder_graph", None)
    engine = start(checkpoint, tmp_path, precision)
    assert np.array_equal(embed(engine, ids), first)
    assert np.array_equal(embed(engine, ids), first)  # after memory was given back


def test_another_number_of_threads_reads_the_same_file(
    checkpoint: EmbeddingCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = embed(start(checkpoint, tmp_path), texts(SHORT))
    monkeypatch.setattr("culet.runtime.openvino.engine.encoder_graph", None)
    engine = OpenVinoEngine(checkpoint, "float32", threads=2, cache=tmp_path)
    assert np.allclose(embed(engine, texts(SHORT)), first, atol=1e-6)


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "foreign"])
def test_a_damaged_file_is_made_again_with_a_word(
    checkpoint: EmbeddingCheckpoint, damage: str, tmp_path: Path
) -> None:
    good = embed(start(checkpoint, tmp_path), texts(SHORT))
    (path,) = blobs(tmp_path)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[:-7])
    elif damage == "bit":
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    elif damage == "empty":
        path.write_bytes(b"")
    else:  # sealed as it is, and not what OpenVINO wrote
        foreign = b"something else entirely" * 100
        path.write_bytes(foreign + f"{zlib.crc32(foreign):08x}".encode())
    with pytest.warns(UserWarning, match="cached compiled model is damaged and is made again: "):
        engine = start(checkpoint, tmp_path)
    assert np.array_equal(embed(engine, texts(SHORT)), good)
    start(checkpoint, tmp_path)  # whole again: no warning


def test_a_folder_that_cannot_be_written_costs_the_next_start_only(
    checkpoint: EmbeddingCheckpoint, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.warns(UserWarning, match="compiled model is not kept for the next start: cannot"):
        engine = start(checkpoint, blocked)
    assert embed(engine, texts(SHORT)).shape == (2, 32)


def test_another_version_makes_its_own_file_and_the_older_one_goes(
    checkpoint: EmbeddingCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(checkpoint, tmp_path)
    start(checkpoint, tmp_path, "int8")
    before = blobs(tmp_path)
    monkeypatch.setattr(ov, "get_version", lambda: "2099.1")
    start(checkpoint, tmp_path)
    after = blobs(tmp_path)
    assert len(after) == len(before) == 2
    assert len(set(after) & set(before)) == 1  # int8's


def test_the_longest_unused_go_when_the_folder_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "_FOLDER_BYTES", 0)
    folder, old = tmp_path / "cache", tmp_path / "cache" / "older.blob"
    folder.mkdir()
    old.write_text("x")
    os.utime(old, (1, 1))
    start(read_embedding_model(write_random(tmp_path / "m")), folder)
    assert not old.exists()
    assert len(blobs(folder)) == 1  # the newest stays, whatever its size


@pytest.mark.parametrize(("layers", "kept"), [(5, 0), (6, 1)])
def test_models_of_few_layers_are_not_kept(layers: int, kept: int, tmp_path: Path) -> None:
    checkpoint = read_embedding_model(write_random(tmp_path / "m", config=of_layers(layers)))
    start(checkpoint, tmp_path / "cache")
    assert len(blobs(tmp_path / "cache")) == kept
