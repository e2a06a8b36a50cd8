"""The trim stage: smaller checkpoints of every kind that give the same where texts are the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from culet.architecture.embedding_config import tiny
from culet.architecture.encoder_config import EncoderConfig
from culet.architecture.generating_config import DecoderConfig, EncoderDecoderConfig
from culet.checkpoints.embedding import read_embedding_model
from culet.checkpoints.gemma import read_decoder
from culet.checkpoints.t5gemma import read_encoder_decoder
from culet.checkpoints.write import write_checkpoint
from culet.errors import InputError, RecipeError
from culet.model.batch import pack
from culet.model.weights import from_arrays
from culet.stages import trim
from culet.stages.contract import run_stage
from culet.stages.trim import STAGE, TrimConfig
from culet.text import vocabulary
from culet.text.tokenizer_training import train_tokenizer

TEXTS = ["the cat sat on the mat", "a dog and a cat", "news of the dog", "mats and dogs"] * 30
OTHERS = ["zebra zebras quickly running", "quick zebra runs"] * 30


def tokenizer() -> Tokenizer:
    return train_tokenizer([*TEXTS, *OTHERS], 450)


def stack() -> EncoderConfig:
    encoder = replace(tiny().encoder, vocab_size=tokenizer().get_vocab_size())
    return replace(encoder, causal=True)


def random(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        name: (generator.standard_normal(shape) * 0.2).astype(np.float32)
        for name, shape in shapes.items()
    }


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    rows = [{"text": f"{text} {i}", "lang": "zz"} for i, text in enumerate(TEXTS)]
    rows += [{"query": "the dog", "positive": "a cat", "negatives": ["mats"], "source": "zebra"}]
    path = tmp_path / "text.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def decoder(tmp_path: Path) -> Path:
    config = DecoderConfig(stack(), tied_head=False)
    arrays = random(config.weight_shapes())
    write_checkpoint(tmp_path / "in", config, arrays, tokenizer_json=tokenizer().to_str())
    return tmp_path / "in"


def quiet(_: str) -> None:
    pass


def test_a_trimmed_decoder_gives_the_same_logits_for_the_tokens_it_kept(
    decoder: Path, corpus: Path, tmp_path: Path
) -> None:
    lines: list[str] = []
    out = run_stage(
        STAGE,
        TrimConfig((corpus,), keep_unused=3, held_out=10),
        init=decoder,
        out=tmp_path / "out",
        say=lines.append,
        name="trim",
    )
    large, small = read_decoder(decoder), read_decoder(out)
    assert small.config.stack.vocab_size < large.config.stack.vocab_size
    text = "news of the cat and dogs"
    logits = []
    for read in (large, small):
        ids = Tokenizer.from_str(read.tokenizer_json).encode(text).ids
        model = from_arrays(read.config, read.arrays())
        with torch.inference_mode():
            logits.append(model.logits(model(pack([ids]))))
    old = json.loads(large.tokenizer_json)["model"]["vocab"]
    new = json.loads(small.tokenizer_json)["model"]["vocab"]
    kept = [old[piece] for piece in sorted(new, key=new.__getitem__)]
    torch.testing.assert_close(logits[1], logits[0][:, kept])
    assert lines[0].startswith(f"trim: {len(kept)} of {len(old)} tokens are kept: ")
    assert "3 unused ones" in lines[0]
    assert "MB less in float32" in lines[1]
    assert lines[2].startswith("trim: of ")


def test_sources_and_languages_are_no_texts(decoder: Path, corpus: Path, tmp_path: Path) -> None:
    out = run_stage(
        STAGE, TrimConfig((corpus,)), init=decoder, out=tmp_path / "out", say=quiet, name="trim"
    )
    assert "▁zebra" in tokenizer().get_vocab()
    kept = json.loads(read_decoder(out).tokenizer_json)["model"]["vocab"]
    assert "▁zebra" not in kept
    assert "zz" not in kept


def test_what_is_lost_elsewhere_is_reported(decoder: Path, corpus: Path, tmp_path: Path) -> None:
    more = tmp_path / "more.jsonl"
    more.write_text("\n".join(json.dumps({"text": f"{t} {i}"}) for i, t in enumerate(OTHERS)))
    lossy = TrimConfig((corpus, more), min_count=200, held_out=3)
    run_stage(STAGE, lossy, init=decoder, out=tmp_path / "out", say=quiet, name="trim")
    done = json.loads((tmp_path / "out/done.json").read_text())
    lost = done["held_out"]
    assert lost["texts"] > 20
    assert 0 < lost["changed_share"] < 1
    assert lost["growth"] == lost["tokens_after"] / lost["tokens_before"] - 1
    assert lost["growth"] > 0
    assert done["parameters"] < done["parameters_before"]


def test_an_embedding_model_is_trimmed_with_its_prompts(corpus: Path, tmp_path: Path) -> None:
    config = tiny()
    encoder = replace(config.encoder, vocab_size=tokenizer().get_vocab_size())
    config = replace(config, encoder=encoder)
    write_checkpoint(
        tmp_path / "in",
        config,
        random(config.weight_shapes()),
        tokenizer_json=tokenizer().to_str(),
        prompts={"query": "zebra: "},
    )
    out = run_stage(
        STAGE,
        TrimConfig((corpus,)),
        init=tmp_path / "in",
        out=tmp_path / "out",
        say=quiet,
        name="trim",
    )
    read = read_embedding_model(out)
    assert read.prompts == {"query": "zebra: "}
    vectors = []
    for folder in (tmp_path / "in", out):
        read = read_embedding_model(folder)
        ids = Tokenizer.from_str(read.tokenizer_json).encode("zebra: the cat").ids
        with torch.inference_mode():
            vectors.append(from_arrays(read.config, read.arrays())(pack([ids])))
    torch.testing.assert_close(vectors[0], vectors[1])


@pytest.mark.parametrize("tied", [False, True])
def test_an_encoder_decoder_is_trimmed_on_both_sides(
    tied: bool, corpus: Path, tmp_path: Path
) -> None:
    decoder = DecoderConfig(stack())
    encoder = replace(stack(), causal=False)
    config = EncoderDecoderConfig(encoder, decoder, tied_embeddings=tied)
    arrays = random(config.weight_shapes())
    write_checkpoint(tmp_path / "in", config, arrays, tokenizer_json=tokenizer().to_str())
    out = run_stage(
        STAGE,
        TrimConfig((corpus,)),
        init=tmp_path / "in",
        out=tmp_path / "out",
        say=quiet,
        name="trim",
    )
    read = read_encoder_decoder(out)
    size = len(json.loads(read.tokenizer_json)["model"]["vocab"])
    assert read.config.encoder.vocab_size == read.config.decoder.stack.vocab_size == size
    assert ("decoder.embed" in read.tensors) != tied


def test_a_finished_stage_is_not_done_again(decoder: Path, corpus: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    say: Callable[[str], None] = lines.append
    config = TrimConfig((corpus,), init=decoder)
    first = run_stage(STAGE, config, out=tmp_path / "out", say=quiet, name="trim")
    assert run_stage(STAGE, config, out=tmp_path / "out", say=say, name="trim") == first
    assert lines == ["trim: finished before, nothing to do"]
    run_stage(STAGE, replace(config, keep_unused=1), out=tmp_path / "out", say=say, name="trim")
    assert "settings or data have changed" in lines[1]


@pytest.mark.parametrize("damaged", [False, True])
def test_an_interrupted_count_goes_on_and_ends_the_same(
    damaged: bool, decoder: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "_TEXTS_AT_ONCE", 20)
    monkeypatch.setattr(trim, "_KEEP_EVERY", 40)
    config, whole = TrimConfig((corpus,), init=decoder), trim._texts
    run_stage(STAGE, config, out=tmp_path / "at-once", say=quiet, name="trim")

    def interrupted(*args: Any, **options: Any) -> Iterator[str]:
        yield from islice(whole(*args, **options), 70)
        raise KeyboardInterrupt

    monkeypatch.setattr(trim, "_texts", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_stage(STAGE, config, out=tmp_path / "out", say=quiet, name="trim")
    monkeypatch.setattr(trim, "_texts", whole)
    kept = tmp_path / "out/.counted.npz"
    with np.load(kept) as found:
        assert int(found["texts"]) == 40
    if damaged:
        kept.write_bytes(kept.read_bytes()[:100])
    firsts: list[str] = []
    cut = vocabulary._first_words
    monkeypatch.setattr(vocabulary, "_first_words", lambda text: firsts.append(text) or cut(text))
    run_stage(STAGE, config, out=tmp_path / "out", say=quiet, name="trim")
    counted = sum(1 for _ in whole(config, held_out=False))
    assert len(firsts) == (counted if damaged else counted - 40)
    assert not kept.exists()
    done = [json.loads((tmp_path / n / "done.json").read_text()) for n in ("at-once", "out")]
    assert done[0] == done[1]


def test_bad_settings_and_empty_texts_are_refused(
    decoder: Path, corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="at least one file or folder of texts"):
        TrimConfig(())
    with pytest.raises(RecipeError, match="held_out must be at least 2, got 1"):
        TrimConfig((corpus,), held_out=1)
    with pytest.raises(RecipeError, match="nothing to trim; set init"):
        run_stage(STAGE, TrimConfig((corpus,)), out=tmp_path / "out", name="trim")
    corpus.write_text('{"lang": "en"}\n')
    with pytest.raises(InputError, match="expected texts to count, got none"):
        run_stage(STAGE, TrimConfig((corpus,)), init=decoder, out=tmp_path / "out", name="trim")
    corpus.write_text('{"text": "a"}\n[1]\n' * 60)
    with pytest.raises(InputError, match=r"text\.jsonl:2: expected a JSON object"):
        run_stage(
            STAGE,
            TrimConfig((corpus,), held_out=1000),
            init=decoder,
            out=tmp_path / "out",
            name="trim",
        )
