"""Soups: exact means, what may not be averaged and why, greedy choice, going on after a kill."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_checkpoint import random_arrays, write_random

from culet.architecture.embedding_config import tiny
from culet.checkpoints.embedding import read_embedding_model
from culet.checkpoints.lineage import LINEAGE_FILE, descent, lineage
from culet.checkpoints.soup import cosine, write_mean
from culet.checkpoints.write import write_checkpoint
from culet.errors import CheckpointError, InputError, RecipeError
from culet.files.settings import build
from culet.stages import merge
from culet.stages.contract import run_stage
from culet.stages.merge import MergeConfig
from culet.text.tokenizer_training import byte_tokenizer

OTHER = json.loads(byte_tokenizer().to_str()) | {"normalizer": {"type": "Lowercase"}}


def near(folder: Path, *, seed: int, noise: float = 0.05, start: int = 0, **changes: Any) -> Path:
    """Write a model near the random weights of `start`, as fine-tuning leaves it."""
    config = tiny()
    rng = np.random.default_rng(seed)
    arrays = {
        name: (array + noise * array.std() * rng.standard_normal(array.shape)).astype(np.float32)
        for name, array in random_arrays(config, seed=start).items()
    }
    settings: dict[str, Any] = {"tokenizer_json": byte_tokenizer().to_str(), "prompts": {"a": "b "}}
    write_checkpoint(folder, config, arrays, **settings | changes)
    return folder


def weights(folder: Path) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in read_embedding_model(folder).arrays().items()}


def soup(tmp_path: Path, *models: Path, out: str = "out", **settings: Any) -> Path:
    score = settings.pop("score", None)
    by_dev = None if score is None else lambda folder, tasks: score(folder)
    said: list[str] = []
    return run_stage(
        merge.STAGE,
        MergeConfig(**settings),
        models=models,
        out=tmp_path / out,
        say=said.append,
        score=by_dev,
        dev=None if score is None else tmp_path / "dev",
        name="merge",
    )


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    return [near(tmp_path / str(seed), seed=seed) for seed in (1, 2, 3)]


# --- means


def test_a_soup_of_identical_models_is_the_model(tmp_path: Path) -> None:
    model = near(tmp_path / "a", seed=1)
    found = weights(soup(tmp_path, model, model, model))
    for name, array in weights(model).items():
        assert np.array_equal(found[name], array), name


def test_a_uniform_soup_is_the_mean_of_every_weight(tmp_path: Path, three: list[Path]) -> None:
    found, parts = weights(soup(tmp_path, *three)), [weights(folder) for folder in three]
    for name, array in found.items():
        expected = np.mean([part[name].astype(np.float64) for part in parts], axis=0)
        assert np.abs(array - expected).max() < 1e-7, name


def test_weights_are_shares_and_may_leave_the_segment(tmp_path: Path, three: list[Path]) -> None:
    a, b = weights(three[0]), weights(three[1])
    found = weights(soup(tmp_path, *three[:2], method="weighted", weights=(3.0, 1.0)))
    beyond = weights(soup(tmp_path, *three[:2], out="o", method="weighted", weights=(1.5, -0.5)))
    for name in a:
        assert np.allclose(found[name], 0.75 * a[name] + 0.25 * b[name], atol=1e-6)
        assert np.allclose(beyond[name], 1.5 * a[name] - 0.5 * b[name], atol=1e-6)


def test_a_soup_opens_like_any_checkpoint_and_says_what_it_is(
    tmp_path: Path, three: list[Path]
) -> None:
    import culet

    folder = soup(tmp_path, *three, dtype="bfloat16")
    assert culet.load(folder, device="cpu").encode_document("x").shape == (tiny().embedding_dim,)
    report = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert report["weights"] == pytest.approx([1 / 3] * 3)
    assert set(report["cosines"]) == {"0-1", "0-2", "1-2"}
    assert all(0.98 < value < 1 for value in report["cosines"].values())
    chain = lineage(read_embedding_model(folder))
    assert chain is not None
    assert set(chain[:-1]) == {read_embedding_model(model).fingerprint for model in three}


def test_pieces_of_any_size_give_the_same_sum(
    tmp_path: Path, three: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = weights(soup(tmp_path, *three))
    monkeypatch.setattr("culet.checkpoints.soup._PIECE", 7)
    pieced = weights(soup(tmp_path, *three, out="again"))
    assert all(np.array_equal(pieced[name], whole[name]) for name in whole)


# --- what may not be averaged


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": {"a": "other "}}, "their prompts differ"),
        ({"tokenizer_json": json.dumps(OTHER)}, "their tokenizers differ"),
    ],
)
def test_other_prompts_or_tokens_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    models = near(tmp_path / "a", seed=1), near(tmp_path / "b", seed=2, **changes)
    with pytest.raises(InputError, match=f"cannot be averaged: {message}"):
        soup(tmp_path, *models)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": (32, 16)}, "widths is"),
        ({"pooling": "first", "pooling_tokens": 2}, "pooling is mean in one and first"),
    ],
)
def test_other_heads_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    config = tiny()
    if "widths" in changes:
        changes = {"widths": (config.embedding_dim, config.embedding_dim // 4)}
    models = [
        write_random(tmp_path / "a", config),
        write_random(tmp_path / "b", replace(config, **changes)),
    ]
    with pytest.raises(InputError, match=message):
        soup(tmp_path, *models)


def test_another_shape_is_refused(tmp_path: Path) -> None:
    config = tiny()
    other = replace(config, encoder=replace(config.encoder, window=config.encoder.window + 2))
    models = [write_random(tmp_path / "a", config), write_random(tmp_path / "b", other)]
    with pytest.raises(InputError, match="window is"):
        soup(tmp_path, *models)


def test_models_of_different_random_weights_are_refused_by_their_cosine(tmp_path: Path) -> None:
    models = near(tmp_path / "a", seed=1, start=0), near(tmp_path / "b", seed=1, start=9)
    assert abs(cosine(*map(read_embedding_model, models))) < 0.1
    with pytest.raises(InputError, match=r"median cosine of their matrices is -?0\.0\d\d.*noise"):
        soup(tmp_path, *models)
    assert not (tmp_path / "out" / "checkpoint").exists()


def test_recorded_ancestors_decide_where_there_are_some(tmp_path: Path) -> None:
    left, right = near(tmp_path / "l", seed=1), near(tmp_path / "r", seed=2)

    def child(folder: Path, parent: Path, *, seed: int, start: int = 0) -> Path:
        extra = descent(read_embedding_model(parent))
        return near(folder, seed=seed, start=start, extra_files=extra)

    far = child(tmp_path / "far", left, seed=6, start=5)  # so far that the cosine says nothing
    of_left = child(tmp_path / "a", left, seed=7)
    of_right = child(tmp_path / "b", right, seed=8)
    assert soup(tmp_path, far, of_left).is_dir()
    with pytest.raises(InputError, match="no common ancestor in their lineage"):
        soup(tmp_path, of_left, of_right, out="no")


def test_a_lineage_grows_by_generation_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    first = read_embedding_model(near(tmp_path / "1", seed=1))
    assert lineage(first) is None
    second = read_embedding_model(near(tmp_path / "2", seed=2, extra_files=descent(first)))
    assert lineage(second) == (first.fingerprint, second.fingerprint)
    third = read_embedding_model(near(tmp_path / "3", seed=3, extra_files=descent(second)))
    assert lineage(third) == (first.fingerprint, second.fingerprint, third.fingerprint)
    (tmp_path / "3" / LINEAGE_FILE).write_text("{}")
    with pytest.raises(CheckpointError, match=r"culet_lineage\.json is not a readable lineage"):
        lineage(third)


# --- greedy


def scored(values: dict[frozenset[int], float], models: list[Path]) -> Callable[[Path], float]:
    """Return a score that knows a soup by its weights."""
    parts = [weights(model)["up"].astype(np.float64) for model in models]

    def score(folder: Path) -> float:
        found = weights(folder)["up"]
        for members, value in values.items():
            mean = np.mean([parts[i] for i in sorted(members)], axis=0)
            if np.allclose(found, mean, atol=1e-7):
                return value
        raise AssertionError("a soup of unexpected members")

    return score


def test_greedy_adds_by_falling_score_and_keeps_what_helps(
    tmp_path: Path, three: list[Path]
) -> None:
    values = {
        frozenset({0}): 0.5,
        frozenset({1}): 0.7,
        frozenset({2}): 0.6,
        frozenset({1, 2}): 0.7,  # no better: left out
        frozenset({0, 1}): 0.8,
    }
    folder = soup(tmp_path, *three, method="greedy", score=scored(values, three))
    report = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert report["weights"] == [0.5, 0.5, 0.0]
    assert [(s["tried"], s["kept"]) for s in report["greedy"]] == [(1, True), (2, False), (0, True)]
    assert report["score"] == 0.8
    assert scored(values, three)(folder) == 0.8


def test_a_greedy_soup_that_was_killed_asks_for_no_score_twice(
    tmp_path: Path, three: list[Path]
) -> None:
    values = {frozenset(s): sum(s) / 10 for s in ({0}, {1}, {2}, {1, 2}, {0, 2}, {0, 1, 2})}
    asked: list[float] = []
    plain = scored(values, three)

    def failing(folder: Path) -> float:
        if len(asked) == 4:
            raise KeyboardInterrupt
        asked.append(plain(folder))
        return asked[-1]

    with pytest.raises(KeyboardInterrupt):
        soup(tmp_path, *three, method="greedy", score=failing)
    assert len(asked) == 4

    def counting(folder: Path) -> float:
        asked.append(plain(folder))
        return asked[-1]

    soup(tmp_path, *three, method="greedy", score=counting)
    assert len(asked) == 5  # three alone, two soups
    assert not (tmp_path / "out" / "state").exists()


# --- within a run, settings, memory


def test_the_last_snapshots_of_a_run_are_averaged(tmp_path: Path) -> None:
    folders = [
        near(tmp_path / "run" / "snapshots" / f"step-{step:06d}", seed=step) for step in (2, 4, 6)
    ]
    near(tmp_path / "run" / "checkpoint", seed=9)
    found = weights(soup(tmp_path, tmp_path / "run" / "checkpoint", last=2))
    expected = [weights(folder)["up"] for folder in folders[1:]]
    assert np.allclose(found["up"], np.mean(expected, axis=0), atol=1e-7)
    with pytest.raises(InputError, match=r"run holds 3 snapshots, and last = 4 asks for more; low"):
        soup(tmp_path, tmp_path / "run" / "checkpoint", last=4)
    with pytest.raises(InputError, match=r"holds no snapshots/step-\*"):
        soup(tmp_path, near(tmp_path / "else" / "checkpoint", seed=1), last=2)


def test_a_finished_soup_is_left_alone_and_other_models_begin_anew(
    tmp_path: Path, three: list[Path]
) -> None:
    folder = soup(tmp_path, *three)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    soup(tmp_path, *three)
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    soup(tmp_path, *three[:2])
    assert (folder / "model.safetensors").stat().st_mtime_ns != before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": (1.0, 2.0)}, "weights go with method 'weighted'"),
        ({"method": "weighted"}, "weights go with method 'weighted'"),
        ({"method": "weighted", "weights": (1.0,), "last": 2}, "does not go with weights"),
        ({"last": -1}, "last must not be negative"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        build(MergeConfig, settings, where="merge")


def test_too_few_models_weights_or_scores_are_refused(tmp_path: Path, three: list[Path]) -> None:
    with pytest.raises(RecipeError, match="at least two models"):
        soup(tmp_path, three[0])
    with pytest.raises(RecipeError, match="a weight for each of 3 models"):
        soup(tmp_path, *three, method="weighted", weights=(1.0, 2.0))
    with pytest.raises(RecipeError, match="greedy soup goes by dev scores"):
        soup(tmp_path, *three, method="greedy")
    checkpoints = [read_embedding_model(folder) for folder in three[:2]]
    with pytest.raises(InputError, match=r"a sum that is not 0; got \[1.0, -1.0\]"):
        write_mean(tmp_path / "x", checkpoints, [1.0, -1.0], scratch=tmp_path / "scratch")


def test_a_tokenizer_file_written_otherwise_is_the_same_tokenizer(tmp_path: Path) -> None:
    text = json.dumps(json.loads(byte_tokenizer().to_str()), indent=3)
    models = near(tmp_path / "a", seed=1), near(tmp_path / "b", seed=2, tokenizer_json=text)
    assert soup(tmp_path, *models).is_dir()
