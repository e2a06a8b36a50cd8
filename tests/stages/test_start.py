"""A model from nothing: what is seen of it, and what a killed run keeps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from training_doubles import toy_rows, write_lines

from culet.checkpoints.embedding import read_embedding_model
from culet.stages import from_nothing as beginning
from culet.stages import start
from culet.stages.contract import run_stage
from culet.stages.start import ShapeConfig, StartConfig
from culet.text.tokenizer_training import train_tokenizer

SHAPE = ShapeConfig(
    num_layers=1,
    model_dim=16,
    ffn_dim=16,
    num_heads=2,
    head_dim=8,
    window=8,
    max_length=64,
    projection_dim=16,
    embedding_dim=16,
    widths=(16,),
)


class Killed(Exception):
    pass


@pytest.fixture
def config(tmp_path: Path) -> StartConfig:
    corpus = write_lines(tmp_path / "toys.jsonl", toy_rows(90))
    return StartConfig(corpus=(corpus,), vocab_size=500, shape=SHAPE)


def go(config: StartConfig, out: Path) -> list[str]:
    said: list[str] = []
    run_stage(start.STAGE, config, out=out, name="toy", say=said.append)
    return said


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_killed_run_takes_the_tokenizer_again_and_ends_alike(
    config: StartConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(config, tmp_path / "whole")

    def killed(*_: Any, **__: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(start, "lexical_embedding", killed)
        with pytest.raises(Killed):
            go(config, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / "state").iterdir()] == ["tokenizer.json"]
    monkeypatch.setattr(beginning, "train_tokenizer", killed)
    said = go(config, tmp_path / "out")
    assert said[0] == "toy: the tokenizer was trained before and is used again"
    assert files(tmp_path / "out" / "checkpoint") == files(tmp_path / "whole" / "checkpoint")
    assert not (tmp_path / "out" / "state").exists()
    assert go(config, tmp_path / "out") == ["toy: finished before, nothing to do"]


def test_a_tokenizer_half_trained_is_not_kept(
    config: StartConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(texts: Iterator[str], *_: Any, **__: Any) -> Any:
        next(iter(texts))
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(beginning, "train_tokenizer", stopped)
        with pytest.raises(Killed):
            go(config, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("tokenizer.json"))
    assert go(config, tmp_path / "out")[0] == "toy: training a tokenizer of 500 tokens"
    assert read_embedding_model(tmp_path / "out" / "checkpoint").config.encoder.vocab_size <= 500


def test_other_settings_do_not_take_the_tokenizer(
    config: StartConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(start, "lexical_embedding", killed)
        with pytest.raises(Killed):
            go(config, tmp_path / "out")
    write_lines(config.corpus[0], toy_rows(60))
    assert go(config, tmp_path / "out")[1] == "toy: training a tokenizer of 500 tokens"


def test_both_passes_over_the_texts_are_shown(
    config: StartConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    go(config, tmp_path / "out")
    shown = capsys.readouterr().err
    assert "toy: reading for the tokenizer: 180/180 texts in " in shown
    assert "toy: counting tokens: 180/180 texts in " in shown


def test_the_number_shown_is_that_of_the_texts_that_are_taken(
    config: StartConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = StartConfig(corpus=config.corpus, vocab_size=500, shape=SHAPE, max_texts=70)
    go(few, tmp_path / "out")
    assert "toy: counting tokens: 60/60 texts in " in capsys.readouterr().err  # every third row


def test_where_reading_stops_early_the_count_says_so_before_pairs_are_merged(
    capsys: pytest.CaptureFixture[str],
) -> None:
    texts = beginning.counted(["ab cd"] * 100, "reading", total=100)
    train_tokenizer(texts, 400, max_characters=350)
    note, summary = capsys.readouterr().err.splitlines()
    assert note == "reading: this is enough text"
    assert summary.startswith("reading: 70/100 texts in ")
    assert list(texts) == []
