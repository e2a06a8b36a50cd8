"""Decoders from nothing, encoders by masked tokens, finetuning on inputs and targets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from language_doubles import tensors, write_corpus, write_pair, write_teacher
from stop_doubles import interrupting
from tokenizers import Tokenizer
from training_doubles import write_lines

import culet
from culet.checkpoints.embedding import read_embedding_model
from culet.checkpoints.gemma import read_decoder
from culet.checkpoints.t5gemma import read_encoder_decoder
from culet.data.batches.windows import TextSourceConfig
from culet.errors import InputError, Interrupted, RecipeError
from culet.stages import decoder, encoder, seq2seq
from culet.stages.contract import run_stage
from culet.stages.decoder import DecoderShape, DecoderStageConfig
from culet.stages.encoder import EncoderStageConfig
from culet.stages.seq2seq import Seq2SeqConfig
from culet.text.prompts import Prompts
from culet.text.tokenizer import unused_ids
from culet.text.tokenizer_training import SPACE
from culet.train.log import read_log
from culet.train.optim import OptimConfig

SHAPE = DecoderShape(
    num_layers=2, model_dim=16, ffn_dim=24, num_heads=2, head_dim=8, window=15, max_length=64
)
QUICK = OptimConfig(lr=2e-2, warmup_steps=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("source") / "decoder")


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in read_log(out / "log.jsonl")]


def quiet(line: str) -> None:
    """Say nothing."""


# --- a decoder from nothing


def new_decoder(data: Path, **changes: Any) -> DecoderStageConfig:
    settings: dict[str, Any] = {
        "steps": 12,
        "batch_size": 8,
        "window": 16,
        "vocab_size": 600,
        "num_unused": 40,
        "shape": SHAPE,
        "optim": QUICK,
        "sources": (TextSourceConfig(data / "prose.jsonl"),),
    }
    return DecoderStageConfig(**settings | changes)


def test_a_decoder_from_nothing_learns_and_has_tokens_to_spare(tmp_path: Path, data: Path) -> None:
    made = run_stage(decoder.STAGE, new_decoder(data), out=tmp_path / "d", name="d", say=quiet)
    found = losses(tmp_path / "d")
    assert np.mean(found[-3:]) < 0.8 * np.mean(found[:2])
    checkpoint = read_decoder(made)
    words = Tokenizer.from_str(checkpoint.tokenizer_json)
    assert len(unused_ids(words, 40)) == 40
    assert checkpoint.config.stack.global_layers == (1,)
    prompt = Prompts.default().query("search")
    assert len(words.encode(prompt.rstrip(), add_special_tokens=False).ids) == 1
    assert not [path.name for path in (tmp_path / "d").iterdir() if path.name[0] == "."]


def test_a_decoder_can_begin_from_the_rarity_and_spelling_of_tokens(
    tmp_path: Path, data: Path
) -> None:
    still = OptimConfig(lr=2e-2, embed_lr=0.0, warmup_steps=2)
    shape = replace(SHAPE, tied_head=False)
    config = new_decoder(data, lexical=True, optim=still, candidates=100, shape=shape)
    made = read_decoder(run_stage(decoder.STAGE, config, out=tmp_path / "d", name="d", say=quiet))
    found = losses(tmp_path / "d")
    assert np.mean(found[-3:]) < 0.8 * np.mean(found[:2])
    table = np.asarray(made.arrays()["embed"])
    np.testing.assert_allclose(np.linalg.norm(table, axis=1), 1, atol=1e-5)
    ids = Tokenizer.from_str(made.tokenizer_json).get_vocab()
    assert table[ids["<bos>"]][0] == pytest.approx(1)  # stands in every text and says nothing
    words = [token for token in ids if token[1:] in ids and token[0] == SPACE and len(token) > 3]
    pairs = [(table[ids[word]][1:], table[ids[word[1:]]][1:]) for word in words]
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]
    assert len(cosines) > 3
    assert min(cosines) > 0.99  # the space before a word is no part of its spelling


def test_an_interrupted_decoder_ends_bit_for_bit_the_same_with_the_same_tokenizer(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = new_decoder(data, steps=4, lexical=True, candidates=20)
    run_stage(decoder.STAGE, config, out=tmp_path / "whole", name="d", say=quiet)
    interrupting(monkeypatch, decoder, "windows_step", {2})
    with pytest.raises(Interrupted):
        run_stage(decoder.STAGE, config, out=tmp_path / "d", name="d", say=quiet)
    said: list[str] = []
    run_stage(decoder.STAGE, config, out=tmp_path / "d", name="d", say=said.append)
    assert not [line for line in said if "training a tokenizer" in line]
    assert "d: resuming after step 2 of 4" in said
    assert tensors(tmp_path / "d") == tensors(tmp_path / "whole")


def test_a_decoder_can_be_trained_on(tmp_path: Path, data: Path, source: Path) -> None:
    made = run_stage(
        decoder.STAGE,
        new_decoder(data, steps=2),
        init=source,
        out=tmp_path / "d",
        name="d",
        say=quiet,
    )
    before, after = read_decoder(source), read_decoder(made)
    assert after.config == before.config
    assert after.tokenizer_json == before.tokenizer_json
    assert not np.array_equal(before.arrays()["embed"], after.arrays()["embed"])


# --- an encoder without an encoder-decoder


def masked(data: Path, **changes: Any) -> EncoderStageConfig:
    settings: dict[str, Any] = {
        "steps": 12,
        "batch_size": 8,
        "window": 16,
        "optim": QUICK,
        "sources": (TextSourceConfig(data / "prose.jsonl"),),
    }
    return EncoderStageConfig(**settings | changes)


@pytest.mark.parametrize("objective", ["mlm", "mntp"])
def test_masked_tokens_teach_an_encoder(
    tmp_path: Path, data: Path, source: Path, objective: str
) -> None:
    config = masked(data, objective=objective)
    made = run_stage(encoder.STAGE, config, init=source, out=tmp_path / "e", name="e", say=quiet)
    found = losses(tmp_path / "e")
    assert np.mean(found[-3:]) < 0.8 * np.mean(found[:2])
    assert culet.load(made).encode_query(["an ant"]).shape == (1, 16)
    before, after = read_decoder(source).arrays(), read_embedding_model(made).arrays()
    assert not np.array_equal(before["embed"], after["embed"])


def test_without_an_objective_the_encoder_is_the_decoder_without_its_mask(
    tmp_path: Path, source: Path
) -> None:
    config = EncoderStageConfig(objective="none")
    made = run_stage(encoder.STAGE, config, init=source, out=tmp_path / "e", name="e", say=quiet)
    before, after = read_decoder(source), read_embedding_model(made)
    assert not after.config.encoder.causal
    for name, value in before.arrays().items():
        assert np.array_equal(value, after.arrays()[name]), name
    assert json.loads((tmp_path / "e/done.json").read_text())["steps"] == 0


def test_a_decoder_with_a_head_of_its_own_teaches_through_it(tmp_path: Path, data: Path) -> None:
    init = write_teacher(tmp_path / "untied", tied_head=False)
    made = run_stage(
        encoder.STAGE, masked(data, steps=2), init=init, out=tmp_path / "e", name="e", say=quiet
    )
    assert "head" not in read_embedding_model(made).arrays()


@pytest.mark.parametrize("at", [3, 4])
def test_an_interrupted_encoder_ends_bit_for_bit_the_same(
    at: int, tmp_path: Path, data: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = masked(data, steps=4, dropout=0.1)
    run_stage(encoder.STAGE, config, init=source, out=tmp_path / "whole", name="e", say=quiet)
    interrupting(monkeypatch, encoder, "windows_step", {at})
    with pytest.raises(Interrupted):
        run_stage(encoder.STAGE, config, init=source, out=tmp_path / "e", name="e", say=quiet)
    run_stage(encoder.STAGE, config, init=source, out=tmp_path / "e", name="e", say=quiet)
    assert tensors(tmp_path / "e") == tensors(tmp_path / "whole")


def test_an_encoder_that_no_embedding_model_may_have_is_refused_before_training(
    tmp_path: Path, data: Path, source: Path
) -> None:
    config = masked(data, encoder_window="split")
    with pytest.raises(InputError, match="window_after"):
        run_stage(encoder.STAGE, config, init=source, out=tmp_path / "e", name="e", say=quiet)
    assert not (tmp_path / "e").exists()


def test_windows_that_do_not_fit_are_refused(tmp_path: Path, data: Path, source: Path) -> None:
    with pytest.raises(RecipeError, match="window = 2047 needs room for 2049 tokens"):
        run_stage(
            encoder.STAGE,
            masked(data, window=2047),
            init=source,
            out=tmp_path / "e",
            name="e",
            say=quiet,
        )
    with pytest.raises(RecipeError, match="window = 63 needs room for 65 tokens"):
        run_stage(
            decoder.STAGE, new_decoder(data, window=63), out=tmp_path / "d", name="d", say=quiet
        )


def test_an_objective_needs_texts() -> None:
    with pytest.raises(RecipeError, match="at least one source is needed"):
        EncoderStageConfig(objective="mlm")


# --- input and target


def questions(folder: Path) -> Path:
    rows = [{"input": f"{c}?", "target": c.upper(), "answers": [c * 2]} for c in "abcd"]
    return write_lines(folder / "qa.jsonl", rows)


def test_finetuning_ends_with_answers_and_their_score(tmp_path: Path) -> None:
    qa = questions(tmp_path)
    config = Seq2SeqConfig(
        steps=70,
        batch_size=4,
        train=(qa,),
        test=(qa,),
        max_target_tokens=4,
        optim=OptimConfig(lr=2e-2, warmup_steps=5),
    )
    init = write_pair(tmp_path / "pair")
    said: list[str] = []
    made = run_stage(
        seq2seq.STAGE, config, init=init, out=tmp_path / "s", name="s", say=said.append
    )
    assert json.loads((tmp_path / "s/done.json").read_text())["exact_match"] == 1.0
    assert said == ["s: 100.00 % of 4 answers match exactly"]
    rows = [json.loads(line) for line in (tmp_path / "s/answers.jsonl").read_text().splitlines()]
    assert rows[0] == {"input": "a?", "answer": "A", "right": True}
    assert read_encoder_decoder(made).config == read_encoder_decoder(init).config
    again = run_stage(seq2seq.STAGE, config, init=init, out=tmp_path / "s", name="s", say=quiet)
    assert again == made


def test_an_interrupted_finetuning_ends_bit_for_bit_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Seq2SeqConfig(steps=4, batch_size=3, train=(questions(tmp_path),), dropout=0.1)
    init = write_pair(tmp_path / "pair")
    run_stage(seq2seq.STAGE, config, init=init, out=tmp_path / "whole", name="s", say=quiet)
    interrupting(monkeypatch, seq2seq, "pairs_step", {1})
    with pytest.raises(Interrupted):
        run_stage(seq2seq.STAGE, config, init=init, out=tmp_path / "s", name="s", say=quiet)
    run_stage(seq2seq.STAGE, config, init=init, out=tmp_path / "s", name="s", say=quiet)
    assert json.loads((tmp_path / "s/done.json").read_text())["exact_match"] is None
    assert tensors(tmp_path / "s") == tensors(tmp_path / "whole")


def test_finetuning_needs_records() -> None:
    with pytest.raises(RecipeError, match="train must name at least one file"):
        Seq2SeqConfig(steps=1, train=())
