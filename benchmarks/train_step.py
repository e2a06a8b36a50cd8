"""Tokens per second of a contrastive step, against sentence-transformers' cached loss.

The same random weights (6 layers of width 384), the same 256 pairs of mixed length (mean about 60
tokens), the same plain InfoNCE at full width with τ = 0.05, the same AdamW; the loss and the
gradient must agree. Tokenizing is outside both timings. The second part runs a real stage on the
bundled data and reports how long its steps waited for data.

    python benchmarks/train_step.py [--repeats 5] [--pairs 256]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import numpy as np
import torch

from culet.checkpoints.embedding import read_embedding_model
from culet.checkpoints.write import write_checkpoint
from culet.data.batches.collate import PairBatch
from culet.data.batches.sources import SourceConfig
from culet.model.embedding_model import EmbeddingModel, initialize
from culet.model.weights import from_arrays, to_arrays
from culet.stages import tune
from culet.stages.contract import run_stage
from culet.stages.start import ShapeConfig, model_config
from culet.stages.tune_settings import TuneConfig
from culet.text.prompts import Prompts
from culet.text.tokenizer_training import byte_tokenizer
from culet.train.contrastive_step import LossConfig, contrastive_step
from culet.train.gradient_cache import Chunking, one_tower
from culet.train.log import read_log
from culet.train.optim import OptimConfig, Optimizer

SHAPE = ShapeConfig(
    num_layers=6,
    model_dim=384,
    ffn_dim=1152,
    num_heads=6,
    num_kv_heads=1,
    head_dim=64,
    projection_dim=768,
    embedding_dim=384,
    widths=(384,),
)
TEMPERATURE = 0.05
ROOT = Path(__file__).parent.parent


def texts(pairs: int, *, mean_tokens: int, seed: int) -> tuple[list[str], list[str]]:
    """Return queries and positives of random letters, whose lengths follow a log-normal.

    With a byte tokenizer a letter is a token.
    """
    rng = np.random.default_rng(seed)
    drawn = np.exp(rng.normal(0.0, 0.75, size=2 * pairs))
    lengths = np.clip(drawn / drawn.mean() * mean_tokens - 2, 2, 510).astype(int)
    made = ["".join(chr(97 + c) for c in rng.integers(0, 26, size=n)) for n in lengths]
    return made[:pairs], made[pairs:]


def culet_step(
    folder: Path, queries: list[str], positives: list[str], chunking: Chunking
) -> tuple[Callable[[], float], Callable[[], float], int]:
    """Return (a whole step, loss only with gradients left in place, tokens of the batch)."""
    from culet.checkpoints.folder import text_tokenizer

    checkpoint = read_embedding_model(folder)
    model = from_arrays(checkpoint.config, checkpoint.arrays()).train()
    optimizer = Optimizer(model.named_parameters(), OptimConfig(lr=1e-5), steps=1_000_000)
    longest = checkpoint.config.encoder.max_length
    tokenizer = text_tokenizer(checkpoint.tokenizer_json, max_length=longest)
    ids = tokenizer.encode(queries + positives).ids
    rows = np.arange(len(queries))
    batch = PairBatch(ids, rows, rows + len(queries), np.zeros((len(rows), 0), dtype=np.int64))
    config = LossConfig(temperature=TEMPERATURE, hardness=0.0, spread_out=0.0, widths=(384,))

    def gradients() -> float:
        model.zero_grad()
        parts = contrastive_step(one_tower(model), batch, config, chunking=chunking)
        gradients.embed = model.encoder.embed.grad  # type: ignore[attr-defined]
        return parts["loss"]

    def step() -> float:
        loss = gradients()
        optimizer.update(1000)
        return loss

    return step, gradients, batch.num_tokens


def peer_step(
    folder: Path, queries: list[str], positives: list[str], mini_batch: int
) -> tuple[Callable[[], float], Callable[[], float]]:
    """Return the same two calls for sentence-transformers."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
    )

    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    model.train()
    loss_of = CachedMultipleNegativesRankingLoss(
        model, scale=1 / TEMPERATURE, mini_batch_size=mini_batch
    )
    adam = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    features = [model.preprocess(side) for side in (queries, positives)]

    def gradients() -> float:
        model.zero_grad()
        loss = loss_of([dict(f) for f in features], labels=None)
        loss.backward()
        gradients.embed = model[0].auto_model.embed_tokens.weight.grad  # type: ignore[attr-defined]
        return float(loss.detach())

    def step() -> float:
        loss = gradients()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        return loss

    return step, gradients


def compare(
    folder: Path, *, pairs: int, repeats: int, mini_batches: tuple[int, ...]
) -> dict[str, Any]:
    """Measure all contenders in turns and check that they compute the same thing."""
    queries, positives = texts(pairs, mean_tokens=60, seed=0)
    ours, our_gradients, tokens = culet_step(folder, queries, positives, Chunking())
    fixed, _, _ = culet_step(folder, queries, positives, Chunking(keep_tokens=0))
    peers = {size: peer_step(folder, queries, positives, size) for size in mini_batches}
    loss, peer_loss = our_gradients(), peers[32][1]()
    ours_embed = our_gradients.embed  # type: ignore[attr-defined]
    peer_embed = peers[32][1].embed  # type: ignore[attr-defined]
    gap = float((ours_embed - peer_embed).norm() / peer_embed.norm())
    print(f"loss: culet {loss:.6f}, sentence-transformers {peer_loss:.6f}; gradient gap {gap:.1e}")
    assert abs(loss - peer_loss) < 1e-4, "the losses differ: the comparison would mean nothing"
    assert gap < 1e-3, "the gradients differ: the comparison would mean nothing"

    contenders: dict[str, Callable[[], Any]] = {"culet": ours, "culet, every chunk twice": fixed}
    contenders |= {f"sentence-transformers, mini-batch {s}": p[0] for s, p in peers.items()}
    taken = machine.interleaved(contenders, repeats=repeats)
    seconds = {name: value.clock for name, value in taken.items()}
    default = seconds["sentence-transformers, mini-batch 32"]
    best = min(s for name, s in seconds.items() if name.startswith("sentence"))
    for name, value in seconds.items():
        print(f"{name:42s} {tokens / value:9,.0f} tokens/s {default / value:5.2f}x the default")
    return {
        "pairs": pairs,
        "tokens": tokens,
        "mean_tokens": tokens / (2 * pairs),
        "longest": max(len(t) for t in queries + positives) + 2,
        "loss": loss,
        "peer_loss": peer_loss,
        "gradient_gap": gap,
        "tokens_per_second": {name: tokens / value for name, value in seconds.items()},
        "times_peer_default": default / seconds["culet"],
        "times_peer_best": best / seconds["culet"],
    }


def data_wait(folder: Path, work: Path, *, steps: int) -> dict[str, Any]:
    """Run a real stage on the bundled pairs and return the share of step time spent waiting."""
    sources = tuple(
        SourceConfig(path) for path in sorted((ROOT / "demo/data/prefinetune").glob("*.gz"))
    )
    config = TuneConfig(
        steps=steps, sources=sources, batch_size=128, max_tokens=128, save_every=10 * steps
    )
    run_stage(
        tune.STAGE, config, init=folder, out=work / "wait", name="wait", say=lambda line: None
    )
    lines = read_log(work / "wait/log.jsonl")[2:]  # the first two get warm
    waited = sum(line["waited_seconds"] for line in lines)
    stepped = sum(line["seconds"] for line in lines)
    print(f"data: waited {waited:.3f} s of {stepped:.1f} s of steps, {waited / stepped:.2%}")
    return {"waited_seconds": waited, "step_seconds": stepped, "share": waited / stepped}


def main() -> None:
    """Measure and write benchmarks/results/train_step.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--mini-batch",
        type=int,
        nargs="*",
        default=[16, 64],
        help="of the peer, beside its default of 32",
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=12,
        help="of the real stage, at least 3; the first 2 do not count",
    )
    parser.add_argument("--threads", type=int, default=0, help="0 leaves PyTorch's choice")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        tokenizer = byte_tokenizer()
        shape = model_config(SHAPE, vocab_size=tokenizer.get_vocab_size())
        model = initialize(EmbeddingModel(shape), seed=0)
        write_checkpoint(
            folder,
            shape,
            to_arrays(model),
            tokenizer_json=tokenizer.to_str(),
            prompts=Prompts.default().to_names(),
        )
        result = compare(
            folder,
            pairs=arguments.pairs,
            repeats=arguments.repeats,
            mini_batches=(32, *arguments.mini_batch),
        )
        result["threads"] = torch.get_num_threads()
        result["data"] = data_wait(folder, Path(temporary), steps=arguments.steps)
    machine.write("train_step", result)


if __name__ == "__main__":
    main()
