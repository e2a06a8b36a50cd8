"""What the tests of language-model training share: tiny random decoders and encoder-decoders."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from random_checkpoint import random_arrays
from training_doubles import small, write_lines

from culet.architecture.generating_config import DecoderConfig, EncoderDecoderConfig
from culet.checkpoints.write import write_checkpoint
from culet.data.batches.denoise import Denoiser
from culet.data.batches.windows import TextSourceConfig
from culet.errors import Interrupted
from culet.model.decoder import Decoder
from culet.model.encoder_decoder import EncoderDecoder
from culet.model.weights import from_arrays
from culet.stages import decoder as decoder_stage
from culet.stages import encoder, pretrain, seq2seq
from culet.stages.contract import run_stage
from culet.stages.decoder import DecoderShape, DecoderStageConfig
from culet.stages.encoder import EncoderStageConfig
from culet.stages.pretrain import PretrainConfig
from culet.stages.seq2seq import Seq2SeqConfig
from culet.text.tokenizer_training import byte_tokenizer
from culet.train.optim import OptimConfig


def decoder_config(**changes: Any) -> DecoderConfig:
    return DecoderConfig(replace(small().encoder, causal=True), **changes)


def pair_config(**changes: Any) -> EncoderDecoderConfig:
    return EncoderDecoderConfig(small().encoder, decoder_config(), **changes)


def decoder(*, seed: int = 0, **changes: Any) -> Decoder:
    config = decoder_config(**changes)
    return from_arrays(config, random_arrays(config, seed=seed)).train()


def encoder_decoder(*, seed: int = 0, **changes: Any) -> EncoderDecoder:
    config = pair_config(**changes)
    return from_arrays(config, random_arrays(config, seed=seed)).train()


def prose(number: int = 40, *, seed: int = 0) -> list[dict[str, str]]:
    """Texts of few words, so that there is something to learn."""
    words = ["the", "ant", "bee", "sees", "a", "cat", "and", "dog", "runs", "to", "barn"]
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(number):
        chosen = rng.choice(words, int(rng.integers(4, 12)))
        rows.append({"text": " ".join(map(str, chosen)), "lang": "en"})
    return rows


def write_pair(folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """Write an encoder-decoder of random weights with a tokenizer of bytes."""
    config = pair_config(**changes)
    write_checkpoint(
        folder, config, random_arrays(config, seed=seed), tokenizer_json=byte_tokenizer().to_str()
    )
    return folder


def write_teacher(folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """Write a decoder of random weights with a tokenizer of bytes."""
    config = decoder_config(**changes)
    write_checkpoint(
        folder, config, random_arrays(config, seed=seed), tokenizer_json=byte_tokenizer().to_str()
    )
    return folder


def write_corpus(folder: Path) -> Path:
    """Write prose.jsonl and facts.jsonl."""
    folder.mkdir(exist_ok=True)
    write_lines(folder / "prose.jsonl", prose())
    facts = [{"s": f"ant {i}", "r": "lives in", "o": f"barn {i}"} for i in range(8)]
    write_lines(folder / "facts.jsonl", facts)
    return folder


def pretraining(data: Path, **changes: Any) -> PretrainConfig:
    """A short stage with everything on that could tell a resumed run from a whole one.

    Text and facts, denoisers with modes, dropout, a frozen beginning, an average of weights.
    """
    settings: dict[str, Any] = {
        "steps": 7,
        "batch_size": 6,
        "window": 24,
        "denoisers": (
            Denoiser(0.15, 3, mode="R"),
            Denoiser(0.5, 8, mode="X"),
            Denoiser(0.75, weight=2),
        ),
        "sources": (
            TextSourceConfig(data / "prose.jsonl"),
            TextSourceConfig(data / "facts.jsonl", kind="triples"),
        ),
        "optim": OptimConfig(lr=5e-3, warmup_steps=2),
        "dropout": 0.1,
        "freeze_steps": 3,
        "average_last": 2,
        "average_every": 2,
        "chunk_tokens": 80,
        "save_every": 2,
        "seed": 3,
    }
    return PretrainConfig(**settings | changes)


def pretrain_quietly(config: PretrainConfig, init: Path, teacher: Path | None, out: Path) -> None:
    """Run a stage; for a process of its own, which the test may kill."""
    torch.set_num_threads(1)
    run_stage(
        pretrain.STAGE,
        config,
        init=init,
        out=out,
        name="toy",
        say=lambda line: None,
        teacher=teacher,
    )


def tensors(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every weight file below a stage's folder."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*.safetensors"))
    }


def token_stages(folder: Path, out: Path) -> None:
    """Run each stage that trains on tokens, short and without noise, in the way `out` is named.

    Batches of five have parts of three and two; a decoder's batch of one has a part of none.
    """
    data, quick = folder / "data", OptimConfig(lr=2e-2, warmup_steps=2)
    common: dict[str, Any] = {"steps": 4, "batch_size": 5, "optim": quick, "chunk_tokens": 80}
    prose = (TextSourceConfig(data / "prose.jsonl"),)
    quiet: dict[str, Any] = {"say": lambda line: None}
    shape = DecoderShape(num_layers=2, model_dim=16, ffn_dim=24, num_heads=2, head_dim=8)
    new = DecoderStageConfig(sources=prose, window=12, vocab_size=512, shape=shape, **common)
    run_stage(decoder_stage.STAGE, new, out=out / "decoder", name="decoder", **quiet)
    lonely = replace(new, batch_size=1)
    run_stage(
        decoder_stage.STAGE,
        lonely,
        out=out / "lonely",
        name="lonely",
        init=folder / "teacher",
        **quiet,
    )
    run_stage(
        encoder.STAGE,
        EncoderStageConfig(sources=prose, window=12, **common),
        init=folder / "teacher",
        out=out / "encoder",
        name="encoder",
        **quiet,
    )
    config = pretraining(data, dropout=0.0, batch_size=5)
    pair, teacher = folder / "pair", folder / "teacher"
    with suppress(Interrupted):
        run_stage(
            pretrain.STAGE,
            config,
            init=pair,
            out=out / "pretrain",
            name="p",
            teacher=teacher,
            **quiet,
        )
    told = data / "told.jsonl"
    last = Seq2SeqConfig(train=(told,), test=(told,), max_target_tokens=6, **common)
    run_stage(seq2seq.STAGE, last, init=pair, out=out / "seq2seq", name="seq2seq", **quiet)
