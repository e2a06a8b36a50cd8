"""Pretraining of an encoder-decoder: what it leaves, and that an interruption leaves the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import language_doubles
import numpy as np
import pytest
import torch
from language_doubles import (
    pretrain_quietly,
    pretraining,
    tensors,
    write_corpus,
    write_pair,
    write_teacher,
)
from stop_doubles import interrupting, killed_until_done
from training_doubles import write_lines

import culet
from culet.checkpoints.embedding import read_embedding_model
from culet.checkpoints.folder import text_tokenizer
from culet.checkpoints.t5gemma import read_encoder_decoder
from culet.data.batches.denoise import Denoiser
from culet.data.batches.windows import TextSourceConfig
from culet.errors import InputError, Interrupted, RecipeError
from culet.files.settings import build, to_tables
from culet.stages import pretrain
from culet.stages.contract import run_stage
from culet.stages.new_head import HeadConfig
from culet.stages.pretrain import PretrainConfig, markers_for
from culet.text.tokenizer_training import byte_tokenizer
from culet.train.averaging import average_files, save_weights, saved
from culet.train.log import read_log
from culet.train.optim import OptimConfig

STEPS = 7


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pair(tmp_path_factory.mktemp("init") / "pair")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("teacher") / "decoder", seed=5)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, init: Path, teacher: Path, data: Path) -> Path:
    """The uninterrupted run that every other one must equal."""
    out = tmp_path_factory.mktemp("whole") / "toy"
    pretrain_quietly(pretraining(data), init, teacher, out)
    return out


def plain(data: Path, **changes: Any) -> PretrainConfig:
    off = {"dropout": 0.0, "freeze_steps": 0, "average_last": 1, "average_every": 0}
    return pretraining(data, **off | changes)


def arrays(folder: Path) -> dict[str, np.ndarray]:
    return {n: np.array(a) for n, a in read_encoder_decoder(folder).arrays().items()}


def losses(folder: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in read_log(folder / "log.jsonl")]


# --- what it leaves


def test_the_loss_falls_and_the_encoder_beside_it_is_the_trained_one(
    tmp_path: Path, init: Path, data: Path
) -> None:
    config = plain(data, steps=24, optim=OptimConfig(lr=2e-2, warmup_steps=3))
    made = run_stage(pretrain.STAGE, config, init=init, out=tmp_path / "toy", name="toy", say=print)
    found = [loss for _, loss in losses(tmp_path / "toy")]
    assert np.mean(found[-3:]) < 0.8 * np.mean(found[:3])
    assert made == tmp_path / "toy/checkpoint"
    pair, alone = arrays(made), read_embedding_model(tmp_path / "toy/encoder")
    for name in alone.config.encoder.weight_shapes():
        assert np.array_equal(alone.arrays()[name], pair[f"encoder.{name}"]), name
    assert culet.load(tmp_path / "toy/encoder").encode_query(["an ant"]).shape == (1, 16)
    done = json.loads((tmp_path / "toy/done.json").read_text())
    assert done["epochs"]["facts.jsonl"] == 24 * 3 / 8
    assert not [path.name for path in (tmp_path / "toy").iterdir() if path.name[0] == "."]


def test_a_head_that_whitens_is_fitted_to_the_texts_of_the_stage(
    tmp_path: Path, init: Path, data: Path
) -> None:
    texts = [f"an {word} sleeps" for word in ("ant", "owl", "elk", "ape", "eel", "ox")]
    alike = {}
    for whiten in (0.0, 0.25):
        config = plain(data, steps=2, head=HeadConfig(whiten=whiten))
        out = tmp_path / str(whiten)
        run_stage(pretrain.STAGE, config, init=init, out=out, name="t", say=print)
        vectors = culet.load(out / "encoder").encode_document(texts)
        alike[whiten] = float((vectors @ vectors.T).mean())
    assert 1 - alike[0.25] > 2 * (1 - alike[0.0])


def test_a_head_that_whitens_needs_texts(tmp_path: Path, init: Path, data: Path) -> None:
    facts = (TextSourceConfig(data / "facts.jsonl", kind="triples"),)
    config = plain(data, sources=facts, steps=1, head=HeadConfig(whiten=0.25))
    with pytest.raises(RecipeError, match="the sources hold facts only"):
        run_stage(pretrain.STAGE, config, init=init, out=tmp_path / "t", name="t", say=print)


def test_a_teacher_and_candidates_exclude_each_other(
    tmp_path: Path, init: Path, teacher: Path, data: Path
) -> None:
    with pytest.raises(RecipeError, match="a teacher predicts the whole vocabulary"):
        pretrain_quietly(plain(data, candidates=9), init, teacher, tmp_path / "t")


def test_the_checkpoint_carries_its_recipe_and_its_markers(whole: Path, data: Path) -> None:
    import tomllib

    recipe = tomllib.loads((whole / "checkpoint/culet_recipe.toml").read_text())
    assert build(PretrainConfig, recipe["toy"], where="toy") == pretraining(data)
    markers = json.loads((whole / "checkpoint/culet_markers.json").read_text())
    # 0.5 · 24 tokens in spans of 8 are 2 spans (1.5, to even), 0.15 · 24 in spans of 3 are 1
    assert markers == {"sentinels": [5, 6], "modes": {"R": 7, "X": 8}}


def test_a_finished_stage_is_not_run_again(
    whole: Path, init: Path, teacher: Path, data: Path
) -> None:
    said: list[str] = []
    made = run_stage(
        pretrain.STAGE,
        pretraining(data),
        init=init,
        out=whole,
        name="toy",
        say=said.append,
        teacher=teacher,
    )
    assert said == ["toy: finished before, nothing to do"]
    assert made == whole / "checkpoint"


def test_an_encoder_that_is_none_of_an_embedding_model_is_said_and_not_written(
    tmp_path: Path, data: Path
) -> None:
    from dataclasses import replace

    from language_doubles import pair_config
    from random_checkpoint import random_arrays

    from culet.checkpoints.write import write_checkpoint

    shape = pair_config(cross="merged", tied_embeddings=True)
    shape = replace(shape, encoder=replace(shape.encoder, window_after=9))
    write_checkpoint(
        tmp_path / "pair", shape, random_arrays(shape), tokenizer_json=byte_tokenizer().to_str()
    )
    said: list[str] = []
    run_stage(
        pretrain.STAGE,
        plain(data, steps=1),
        init=tmp_path / "pair",
        out=tmp_path / "toy",
        name="toy",
        say=said.append,
    )
    assert not (tmp_path / "toy/encoder").exists()
    assert "no embedding checkpoint is written beside the encoder-decoder" in said[-1]
    assert "window_after" in said[-1]


# --- freezing


def test_cross_attention_learns_alone_at_first(tmp_path: Path, init: Path, data: Path) -> None:
    config = plain(data, steps=2, freeze_steps=2)
    run_stage(pretrain.STAGE, config, init=init, out=tmp_path / "toy", name="toy", say=print)
    before, after = arrays(init), arrays(tmp_path / "toy/checkpoint")
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved
    assert moved == {name for name in before if ".cross" in name}


def test_everything_learns_afterwards(tmp_path: Path, init: Path, data: Path) -> None:
    config = plain(data, steps=3, freeze_steps=2)
    run_stage(pretrain.STAGE, config, init=init, out=tmp_path / "toy", name="toy", say=print)
    before, after = arrays(init), arrays(tmp_path / "toy/checkpoint")
    assert not [name for name in before if np.array_equal(before[name], after[name])]


def test_merged_attention_has_nothing_to_learn_alone(tmp_path: Path, data: Path) -> None:
    init = write_pair(tmp_path / "pair", cross="merged", tied_embeddings=True)
    with pytest.raises(RecipeError, match="merged attention"):
        pretrain_quietly(plain(data, freeze_steps=1), init, None, tmp_path / "toy")


# --- averaging


def test_what_is_written_is_the_mean_of_the_last_weights(
    tmp_path: Path, init: Path, data: Path
) -> None:
    optim = OptimConfig(lr=5e-3, warmup_steps=0, decay="constant")

    def after(steps: int, **more: Any) -> dict[str, np.ndarray]:
        out = tmp_path / f"{steps}{len(more)}"
        config = plain(data, steps=steps, optim=optim, **more)
        pretrain_quietly(config, init, None, out)
        return arrays(out / "checkpoint")

    alone = [after(steps) for steps in (2, 4, 5)]
    found = after(5, average_last=3, average_every=2)
    for name, value in found.items():
        mean = np.mean([weights[name] for weights in alone], axis=0)
        assert np.allclose(value, mean, atol=1e-6), name


def test_an_average_needs_to_know_how_far_apart() -> None:
    with pytest.raises(RecipeError, match="average_last = 5 needs average_every"):
        PretrainConfig(steps=1, sources=(TextSourceConfig(Path("x")),), average_last=5)


def test_files_of_weights_survive_a_resumed_run(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        save_weights(tmp_path, {"a": torch.full((2,), float(step))}, step=step, keep=2)
    save_weights(tmp_path, {"a": torch.full((2,), 4.0)}, step=4, keep=2)
    assert average_files(list(saved(tmp_path).values()))["a"].tolist() == [4.0, 4.0]


# --- a teacher


def test_a_teacher_changes_what_is_learnt_and_one_of_other_words_is_refused(
    tmp_path: Path, init: Path, teacher: Path, data: Path
) -> None:
    config = plain(data, steps=2)
    pretrain_quietly(config, init, None, tmp_path / "alone")
    pretrain_quietly(config, init, teacher, tmp_path / "taught")
    assert losses(tmp_path / "alone") != losses(tmp_path / "taught")
    other = tmp_path / "other"
    from dataclasses import replace

    from culet.checkpoints.write import write_checkpoint

    shape = language_doubles.decoder_config()
    larger = replace(shape, stack=replace(shape.stack, vocab_size=300))
    weights = language_doubles.random_arrays(larger)
    write_checkpoint(other, larger, weights, tokenizer_json=byte_tokenizer().to_str())
    with pytest.raises(InputError, match="the teacher has 300 tokens and the model 272"):
        pretrain_quietly(config, init, other, tmp_path / "refused")


def test_a_window_that_does_not_fit_is_refused(tmp_path: Path, init: Path, data: Path) -> None:
    with pytest.raises(RecipeError, match="window = 2048 needs room for 2051 tokens"):
        pretrain_quietly(plain(data, window=2048), init, None, tmp_path / "toy")


# --- interruptions


def test_a_signal_at_every_step_ends_bit_for_bit_the_same(
    tmp_path: Path,
    init: Path,
    teacher: Path,
    data: Path,
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    interrupting(monkeypatch, pretrain, "pairs_step", set(range(1, STEPS + 1)))
    for step in range(1, STEPS + 1):
        with pytest.raises(Interrupted, match=f"stopped after step {step} of {STEPS}"):
            pretrain_quietly(pretraining(data), init, teacher, tmp_path / "toy")
        torch.rand(3)
    pretrain_quietly(pretraining(data), init, teacher, tmp_path / "toy")
    assert tensors(tmp_path / "toy") == tensors(whole)
    assert losses(tmp_path / "toy") == losses(whole)
    pretrain_quietly(pretraining(data, seed=4), init, teacher, tmp_path / "other")
    assert tensors(tmp_path / "other") != tensors(whole)


def test_a_kill_between_the_state_and_the_weights_of_a_step_loses_none(
    tmp_path: Path,
    init: Path,
    teacher: Path,
    data: Path,
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "toy"
    with monkeypatch.context() as patch:
        interrupting(patch, pretrain, "pairs_step", {6})
        with pytest.raises(Interrupted):
            pretrain_quietly(pretraining(data), init, teacher, out)
    newest = saved(out / ".weights")[6]
    newest.unlink()
    pretrain_quietly(pretraining(data), init, teacher, out)
    assert tensors(out) == tensors(whole)


def test_kill_9_at_random_moments_ends_bit_for_bit_the_same(
    tmp_path: Path, init: Path, data: Path
) -> None:
    config = pretraining(data, steps=12)
    pretrain_quietly(config, init, None, tmp_path / "whole")
    out = tmp_path / "toy"
    killed = killed_until_done(
        pretrain_quietly, (config, init, None, out), out, times=2, preload="culet.stages.pretrain"
    )
    assert killed == 2, "too quick to be killed"
    assert tensors(out) == tensors(tmp_path / "whole")
    assert losses(out) == losses(tmp_path / "whole")


# --- what is refused


def test_a_tokenizer_without_enough_unused_tokens_is_refused(tmp_path: Path, data: Path) -> None:
    tokenizer = text_tokenizer(byte_tokenizer().to_str())  # has 11
    config = plain(data, window=512, denoisers=(), objective="ul2")
    with pytest.raises(InputError, match=r"at least 88 unused tokens .* this one has 11"):
        markers_for(config, tokenizer)
    one = plain(data, denoisers=(Denoiser(0.5, sentinels=False),))
    assert markers_for(one, tokenizer).sentinels == (5,)  # facts need one


def test_a_fact_with_an_empty_field_is_named(tmp_path: Path, init: Path) -> None:
    path = write_lines(
        tmp_path / "kg.jsonl", [{"s": "a", "r": "b", "o": "c"}, {"s": "a", "r": "b", "o": ""}]
    )
    config = PretrainConfig(steps=1, sources=(TextSourceConfig(path, kind="triples"),), window=8)
    with pytest.raises(
        InputError, match=r"kg\.jsonl:2: expected a text that is not blank under 'o'"
    ):
        pretrain_quietly(config, init, None, tmp_path / "toy")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"window": 1}, "window must be at least 2"),
        ({"distill": 1.5}, "distill from 0 to 1"),
        ({"sources": ()}, r"add a \[\[<stage>.sources\]\] table"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    data: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        pretraining(data, **changes)


def test_a_recipe_section_becomes_the_settings(data: Path) -> None:
    config = pretraining(data)
    assert build(PretrainConfig, to_tables(config), where="toy") == config
