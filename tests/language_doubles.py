"""What the tests of language-model training share: tiny random decoders and encoder-decoders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from random_checkpoint import random_arrays
from training_doubles import small, write_lines

from culet.data.denoise import Denoiser
from culet.data.pretraining import TextSourceConfig
from culet.decoder_checkpoint import write_decoder, write_encoder_decoder
from culet.model.decoder import Decoder
from culet.model.decoder_config import DecoderConfig, EncoderDecoderConfig
from culet.model.encoder_decoder import EncoderDecoder
from culet.model.weights import from_arrays
from culet.stages import pretrain
from culet.stages.pretrain import PretrainConfig
from culet.tokenizer_training import byte_tokenizer
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
    write_encoder_decoder(
        folder, config, random_arrays(config, seed=seed), tokenizer_json=byte_tokenizer().to_str()
    )
    return folder


def write_teacher(folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """Write a decoder of random weights with a tokenizer of bytes."""
    config = decoder_config(**changes)
    write_decoder(
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
    pretrain.run(config, init=init, out=out, name="toy", say=lambda line: None, teacher=teacher)


def tensors(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every weight file below a stage's folder."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*.safetensors"))
    }
