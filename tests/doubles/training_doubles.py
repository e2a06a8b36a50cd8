"""What the training tests share: a model of two layers, its checkpoint, and toy records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from culet.architecture.embedding_config import EmbeddingConfig, tiny
from culet.checkpoints.write import write_checkpoint
from culet.data.batches.collate import PairBatch
from culet.data.batches.sources import SourceConfig
from culet.data.roles import RoleText
from culet.data.teacher_vectors import MANIFEST, write_shard
from culet.model.embedding_model import EmbeddingModel, initialize
from culet.model.lora import LoraConfig
from culet.model.weights import to_arrays
from culet.stages import tune
from culet.stages.contract import run_stage
from culet.stages.tune_settings import TuneConfig
from culet.text.prompts import Prompts
from culet.text.tokenizer_training import byte_tokenizer
from culet.train.contrastive_step import LossConfig
from culet.train.gradient_cache import Chunking
from culet.train.optim import OptimConfig

# Products this small are ten times slower on two busy cores than on one: the threads wait spinning.
torch.set_num_threads(1)

VOCABULARY = 272  # the byte tokenizer's: 5 special, 11 unused, 256 bytes


def small(*, dropout: float = 0.0) -> EmbeddingConfig:
    """A shape of two layers, 16 wide, with one local and one global layer."""
    encoder = replace(
        tiny().encoder,
        vocab_size=VOCABULARY,
        num_layers=2,
        model_dim=16,
        ffn_dim=24,
        num_heads=2,
        head_dim=8,
        window=8,
        global_layers=(1,),
        dropout=dropout,
    )
    return EmbeddingConfig(encoder=encoder, projection_dim=24, embedding_dim=16, widths=(16, 8))


def model(*, seed: int = 0, dropout: float = 0.0) -> EmbeddingModel:
    return initialize(EmbeddingModel(small(dropout=dropout)), seed=seed).train()


def checkpoint(folder: Path, *, seed: int = 0) -> Path:
    """Write a checkpoint of random weights with a tokenizer of bytes and Gemma's prompts."""
    made = model(seed=seed)
    write_checkpoint(
        folder,
        made.config,
        to_arrays(made),
        tokenizer_json=byte_tokenizer().to_str(),
        prompts=Prompts.default().to_names(),
    )
    return folder


def write_lines(path: Path, rows: Sequence[Any]) -> Path:
    """Write rows as JSON lines; a text is written as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines))
    return path


_ANIMALS = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay", "kite", "lynx")
_PLACES = ("barn", "cave", "dune", "field", "glade", "heath")


def toy_rows(number: int = 36, *, negatives: int = 0) -> list[dict[str, Any]]:
    """Questions whose answer repeats their words; every row is another text."""
    rows = []
    for i in range(number):
        animal = _ANIMALS[i % len(_ANIMALS)]
        place = _PLACES[i // len(_ANIMALS) % len(_PLACES)]
        others = [_ANIMALS[(i + 1 + n) % len(_ANIMALS)] for n in range(negatives)]
        rows.append(
            {
                "query": f"{animal} {place} {i}?",
                "positive": f"{i} {animal} {place}",
                **({"negatives": [f"{o} {place} {i}" for o in others]} if negatives else {}),
            }
        )
    return rows


def random_batch(
    pairs: int = 6,
    *,
    negatives: int = 0,
    repeats: bool = False,
    teacher: bool = False,
    seed: int = 0,
) -> PairBatch:
    """Pairs of random token ids of 3 to 20 tokens.

    `repeats` gives the last pair the query of the first, and its positive to the one before;
    with negatives the last pair has one fewer.
    """
    rng = np.random.default_rng(seed)
    count = pairs * (2 + negatives)
    texts = [rng.integers(16, VOCABULARY, rng.integers(3, 21)) for _ in range(count)]
    query, positive = np.arange(pairs), pairs + np.arange(pairs)
    negative = 2 * pairs + np.arange(pairs * negatives).reshape(pairs, negatives)
    if negatives:
        negative[-1, -1] = -1
    if repeats:
        query[-1], positive[-2] = query[0], positive[0]
    teachers = {}
    if teacher:
        teachers = {
            role: rng.normal(size=(pairs, 20)).astype(np.float32) for role in ("query", "positive")
        }
        teachers["query"][1] = np.nan
        if negatives:
            teachers["negative"] = rng.normal(size=(pairs, negatives, 20)).astype(np.float32)
            teachers["negative"][-1, -1] = np.nan
    return PairBatch(
        texts,
        query,
        positive,
        negative,
        teachers,
        source="toys",
        origin=tuple(f"toys.jsonl:{i + 1}" for i in range(pairs)),
    )


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of every gradient and clear them."""
    copies = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    return copies


def every_feature(data: Path, **changes: Any) -> TuneConfig:
    """A short stage with everything on that could tell a resumed run from a whole one.

    Two sources, hard negatives, dropout, low-rank additions, a learnt temperature, an average,
    and chunks of which some are kept and some are replayed.
    """
    settings: dict[str, Any] = {
        "steps": 7,
        "batch_size": 6,
        "num_negatives": 1,
        "max_tokens": 60,
        "dropout": 0.1,
        "save_every": 2,
        "seed": 3,
        "lora": LoraConfig(rank=2),
        "sources": (
            SourceConfig(path=data / "a.jsonl", weight=2.0),
            SourceConfig(path=data / "b.jsonl", task="similarity", batch_size=4, num_negatives=0),
        ),
        "loss": LossConfig(learn_temperature=True),
        "optim": OptimConfig(lr=5e-3, warmup_steps=2, ema=0.8),
        "chunking": Chunking(chunk_tokens=150, keep_tokens=200),
    }
    return TuneConfig(**settings | changes)


def write_sources(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    write_lines(folder / "a.jsonl", toy_rows(20, negatives=2))
    write_lines(folder / "b.jsonl", toy_rows(10))
    return folder


def write_taught(folder: Path, vectors: Mapping[str, Sequence[float]]) -> Path:
    """Write a folder of teacher vectors by text, whatever its role, as stage teach leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = [RoleText(None, None, text).key(by_role=False) for text in vectors]
    matrix = np.array(list(vectors.values()), dtype=np.float32)
    write_shard(folder / "00000.parquet", keys, matrix)
    manifest = {"width": matrix.shape[1], "by_role": False, "texts": len(keys)}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def taught(folder: Path, rows: Sequence[Mapping[str, Any]], width: int, seed: int = 0) -> Path:
    """Write random teacher vectors of all texts of some records."""
    texts = dict.fromkeys(
        text for row in rows for text in (row["query"], row["positive"], *row.get("negatives", ()))
    )
    vectors = np.random.default_rng(seed).normal(size=(len(texts), width))
    return write_taught(folder, dict(zip(texts, vectors.tolist(), strict=True)))


def tune_quietly(config: TuneConfig, start: Path, out: Path) -> None:
    """Run a stage; for a process of its own, which the test may kill."""
    torch.set_num_threads(1)
    run_stage(tune.STAGE, config, init=start, out=out, name="toy", say=lambda line: None)


def weights(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every weight file of a stage's checkpoint."""
    files = sorted((folder / "checkpoint").rglob("*.safetensors"))
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}
