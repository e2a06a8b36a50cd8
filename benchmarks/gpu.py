"""Embedding on a GPU: culet's packed batches against sentence-transformers, same weights and texts.

EmbeddingGemma-300M's shape with random weights, bfloat16, real texts of mixed length (mean 166
tokens, at most 907) and documents of 2,048. The peer runs at several batch sizes, with
FlashAttention 2 where it is installed and with PyTorch's own attention. Says which share of the
chip's bfloat16 rate, measured in the same run, the linear maps reach.

    python benchmarks/gpu.py [--device cuda] [--texts 4096] [--repeats 5]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import numpy as np
import torch
from runtime import flops_a_token, mixed_lengths, random_300m, real_texts

import culet
from culet.errors import InputError
from culet.loading import PACKAGED
from culet.vectors.similarity import unit

BATCHES = (32, 128, 512)


def matrix_rate(device: str) -> float:
    """Return the operations per second of a large bfloat16 matrix product, at its best."""
    size = 8192 if device != "cpu" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(30):
        _wait(device)
        began = time.perf_counter()
        _ = a @ b
        _wait(device)
        best = min(best, time.perf_counter() - began)
    return 2.0 * size**3 / best


def contenders(
    folder: Path, device: str, texts: list[str], kinds: list[str]
) -> dict[str, Callable[[], Any]]:
    """Return what is compared, by name."""
    from sentence_transformers import SentenceTransformer

    ours = culet.load(folder, device=device, backend="torch", precision="bfloat16")
    calls: dict[str, Callable[[], Any]] = {
        "culet": lambda: ours.encode_document(texts, progress=False)
    }
    for kind in kinds:
        options = {"dtype": torch.bfloat16, "attn_implementation": kind}
        try:
            peer = SentenceTransformer(str(folder), device=device, model_kwargs=options)
        except (ImportError, ValueError) as error:
            print(f"left out: {kind}: {str(error).splitlines()[0]}")
            continue
        for batch in BATCHES:
            calls[f"sentence-transformers {kind}, batch {batch}"] = lambda m=peer, b=batch: (
                m.encode(texts, prompt_name="document", batch_size=b, show_progress_bar=False)
            )
    return calls


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Return tokens per second of every contender on every load."""
    exact = culet.load(folder, device=args.device, backend="torch", precision="float32")
    flops = flops_a_token(exact.checkpoint.config.encoder)
    result: dict[str, Any] = {"matrix_flops": matrix_rate(args.device), "loads": {}}
    loads = {"mixed": mixed_lengths(args.texts), "long": [2047] * max(2, args.texts // 16)}
    for name, lengths in loads.items():
        texts = real_texts(exact, lengths)
        tokens = sum(map(len, exact.prepare_document(texts, titles=[None] * len(texts)).ids))
        calls = contenders(folder, args.device, texts, args.attention)
        reference = exact.encode_document(texts[:64], progress=False)
        cosines = {label: _cosine(call(), reference) for label, call in calls.items()}
        seconds = machine.interleaved(calls, repeats=args.repeats, warm_up=1)
        result["loads"][name] = {
            label: {
                "tokens_per_second": tokens / value.clock,
                "of_matrix_rate": tokens / value.clock * flops / result["matrix_flops"],
                "mean_cosine": cosines[label],
            }
            for label, value in seconds.items()
        }
        print(f"{name}: {len(texts)} texts, {tokens} tokens")
        for label, found in result["loads"][name].items():
            print(
                f"  {label:50s}{found['tokens_per_second']:12,.0f} tokens/s"
                f"{found['of_matrix_rate']:8.1%}  cosine {found['mean_cosine']:.5f}"
            )
    return result


def _cosine(vectors: Any, reference: np.ndarray) -> float:
    some = unit(np.asarray(vectors, dtype=np.float32)[: len(reference)])
    return statistics.fmean((some * reference).sum(axis=1).tolist())


def _wait(device: str) -> None:
    if device != "cpu":
        torch.accelerator.synchronize()


def main() -> None:
    """Measure and write benchmarks/results/gpu.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", choices=("300m", "packaged"), default="300m")
    parser.add_argument("--texts", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--attention", nargs="*", default=["flash_attention_2", "sdpa"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = random_300m(Path(temporary) / "300m") if args.model == "300m" else PACKAGED
        try:
            result = measure(folder, args)
        except InputError as error:
            raise SystemExit(f"nothing measured: {error}") from error
    if args.device != "cpu":
        result["chip"] = torch.cuda.get_device_name() if torch.cuda.is_available() else args.device
        machine.write("gpu", result)


if __name__ == "__main__":
    main()
