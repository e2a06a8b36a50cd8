"""Embedding on a CPU: culet in each precision against its peers, same weights, same texts.

Peers: sentence-transformers; llama.cpp and ONNX Runtime if they are installed (`peers.py`).

Two models: EmbeddingGemma-300M's shape with random weights, and the packaged one. Three loads of
real text: many texts of mixed length (mean 166 tokens, at most 907), queries of about 20 tokens one
by one, documents of 2,048 tokens. One process a model and number of threads, contenders in turns,
by the clock and by processor time; peak memory in a process of its own for each precision.

    python benchmarks/runtime.py [--models 300m packaged] [--threads 1 2] [--texts 48] [--repeats 3]
                                 [--loads mixed long queries memory]
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import machine
import numpy as np
import peers

import culet
from culet.architecture.embedding_config import embeddinggemma_300m
from culet.architecture.encoder_config import EncoderConfig
from culet.checkpoints.write import write_checkpoint
from culet.loading import PACKAGED
from culet.text.prompts import Prompts
from culet.vectors.similarity import unit

ROOT = Path(__file__).parent.parent
DOCUMENTS = ROOT / "demo/data/eval/DocsRetrieval"
LOADS = ("mixed", "long", "queries", "memory")
PRECISIONS = ("float32", "bfloat16", "int8", "int4")
PEER_BATCHES = (1, 8, 32)  # of sentence-transformers; 32 is its default
TRIAL = 8  # texts of mixed length on which other peers choose the size of their batches


def random_300m(folder: Path) -> Path:
    """Write EmbeddingGemma's shape with random weights and the packaged tokenizer."""
    config, rng = embeddinggemma_300m(), np.random.default_rng(0)
    arrays = {
        name: (
            rng.uniform(-0.5, 0.5, shape)
            if len(shape) == 1
            else rng.standard_normal(shape, dtype=np.float32) * shape[-1] ** -0.5
        ).astype(np.float32)
        for name, shape in config.weight_shapes().items()
    }
    tokenizer = json.loads((PACKAGED / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = tokenizer["model"]["vocab"]
    for row in range(len(vocab), config.encoder.vocab_size):  # ids that no text has
        vocab[f"word {row}"] = row
    prompts, words = Prompts.default().to_names(), json.dumps(tokenizer)
    write_checkpoint(folder, config, arrays, tokenizer_json=words, prompts=prompts)
    return folder


def real_texts(embedder: culet.Embedder, lengths: list[int]) -> list[str]:
    """Return texts of about the given numbers of tokens: manual sections, one after another."""
    sections: list[str] = []
    for path in sorted(DOCUMENTS.rglob("*corpus.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            sections += [json.loads(line)["text"] for line in lines]
    order = np.random.default_rng(1).permutation(len(sections))
    words = " ".join(sections[i] for i in order).split()
    rows = [" ".join(words[i : i + 200]) for i in range(0, 8000, 200)]
    ids = embedder.prepare_document(rows, titles=[None] * len(rows)).ids
    bare = len(embedder.prepare_document([""], titles=[None]).ids[0])
    per_word = float(np.mean([len(i) - bare for i in ids])) / 200
    texts, place = [], 0
    for length in lengths:
        count = max(1, int((length - bare) / per_word))
        place = place if place + count < len(words) else 0
        texts.append(" ".join(words[place : place + count]))
        place += count
    return texts


def mixed_lengths(count: int) -> list[int]:
    """Return log-normal lengths with mean 166, none above 907."""
    drawn = np.exp(np.random.default_rng(2).normal(0.0, 0.8, size=count))
    return np.clip(drawn / drawn.mean() * 166, 12, 907).astype(int).tolist()


def flops_a_token(config: EncoderConfig) -> float:
    """Return the operations of one token in the linear maps; attention is not counted."""
    head = (2 * config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    return 2.0 * config.num_layers * config.model_dim * (head + 3 * config.ffn_dim)


def ceiling(threads: int, precision: str = "float32") -> float:
    """Return the operations per second of a large matrix product in OpenVINO, at its best.

    At its best, because what else runs on the machine only ever takes from a ceiling. In int8 rows
    of the input are quantised within the time that counts, with one scale each.
    """
    import openvino as ov
    from openvino import opset15 as op

    rows, inner, outer = 1024, 768, 2304
    x = op.parameter([rows, inner], ov.Type.f32)
    drawn = np.random.default_rng(0).standard_normal((outer, inner)).astype(np.float32)
    weight = op.constant(drawn)
    if precision == "int8":
        codes = op.constant((drawn * 30).clip(-127, 127).astype(np.int8))
        scales = op.constant(np.full((outer, 1), 1 / 30, np.float32))
        weight = op.multiply(op.convert(codes, "f32"), scales)
    graph = ov.Model([op.result(op.matmul(x, weight, False, True))], [x], "ceiling")
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(inner if precision == "int8" else 0),
    }
    request = ov.Core().compile_model(graph, "CPU", settings).create_infer_request()
    value = np.ones((rows, inner), dtype=np.float32)
    best = float("inf")
    for _ in range(30):
        began = time.perf_counter()
        request.infer([value])
        best = min(best, time.perf_counter() - began)
    return 2.0 * rows * inner * outer / best


def measure(
    folder: Path, *, work: Path, threads: int, count: int, repeats: int, wanted: Sequence[str]
) -> dict[str, Any]:
    """Return speed and cosines of every contender on one model; run in a process of its own."""
    import openvino as ov
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    capable = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    precisions = [p for p in PRECISIONS if p != "bfloat16" or "BF16" in capable]
    ours = {p: culet.load(folder, device="cpu", precision=p, threads=threads) for p in precisions}
    first = ours["float32"]
    config = first.checkpoint.config.encoder
    stock = {  # a checkpoint stored in bfloat16 would be computed in it
        name: SentenceTransformer(
            str(folder), device="cpu", model_kwargs={"dtype": getattr(torch, name)}
        )
        for name in (("float32", "bfloat16") if "BF16" in capable else ("float32",))
    }
    loads = {
        "mixed": real_texts(first, mixed_lengths(count)),
        "long": real_texts(first, [2047] * max(2, count // 12)),
    }
    trial = _ids(first, loads["mixed"][:TRIAL])
    exact_trial = first.encode_document(loads["mixed"][:TRIAL], progress=False)
    others = peers.at_hand(folder, work=work, threads=threads, texts=trial, exact=exact_trial)
    result: dict[str, Any] = {"threads": threads, "ceiling_flops": ceiling(threads), "loads": {}}
    result["other_ceilings"] = {
        precision: ceiling(threads, precision)
        for precision in precisions
        if precision in ("bfloat16", "int8")
    }
    exact: dict[str, np.ndarray] = {}
    for name, texts in ((name, loads[name]) for name in loads if name in wanted):
        tokens = sum(map(len, _ids(first, texts)))
        calls: dict[str, Callable[[], Any]] = {
            f"culet {p}": lambda e=e, t=texts: e.encode_document(t, progress=False)
            for p, e in ours.items()
        }
        for kind, peer in stock.items():
            for batch in (b for b in PEER_BATCHES if b < len(texts) or b == PEER_BATCHES[-1]):
                calls[f"sentence-transformers {kind}, batch {batch}"] = (
                    lambda m=peer, b=batch, t=texts: m.encode(
                        t, prompt_name="document", batch_size=b, show_progress_bar=False
                    )
                )
        for other in others:
            calls[other.label] = lambda o=other, t=texts: o.embed(_ids(first, t))
        vectors = {label: np.asarray(call(), np.float32) for label, call in calls.items()}
        exact[name] = vectors["sentence-transformers float32, batch 1"]
        seconds = machine.interleaved(calls, repeats=repeats, warm_up=0)
        speed = flops_a_token(config) / result["ceiling_flops"]
        result["loads"][name] = {
            "texts": len(texts),
            "tokens": tokens,
            "contenders": {
                label: {
                    "tokens_per_second": tokens / clock,
                    "tokens_per_processor_second": tokens / worked,
                    "of_ceiling": tokens / clock * speed,
                    "mean_cosine": float((unit(vectors[label]) * exact[name]).sum(1).mean()),
                }
                for label, (clock, worked) in seconds.items()
            },
        }
    if "queries" in wanted:
        result["queries"] = latencies(ours, stock["float32"], others, repeats=repeats)
    return result


def latencies(
    ours: dict[str, culet.Embedder], stock: Any, others: list[peers.Peer], *, repeats: int
) -> dict[str, dict[str, float]]:
    """Return the milliseconds of queries of about 20 tokens, one by one."""
    first = next(iter(ours.values()))
    texts = real_texts(first, [20] * 12 * (repeats + 1))
    calls: dict[str, Callable[[str], Any]] = {
        f"culet {p}": lambda t, e=e: e.encode_query(t, progress=False) for p, e in ours.items()
    }
    calls["sentence-transformers float32"] = lambda t: stock.encode(
        t, prompt_name="query", show_progress_bar=False
    )
    for other in others:
        calls[other.name] = lambda t, o=other: o.embed(first.prepare_query([t]).ids)
    taken: dict[str, list[float]] = {label: [] for label in calls}
    # In turns of twelve: threads of the one before wait in a loop for a while and take a core.
    for turn in range(repeats + 1):
        for label, call in calls.items():
            for text in [*texts[:2], *texts[12 * turn : 12 * turn + 12]]:
                began = time.perf_counter()
                call(text)
                taken[label].append(1000 * (time.perf_counter() - began))
            # The first turn is to get warm, as are two of each turn.
            taken[label] = taken[label][:-14] + (taken[label][-12:] if turn else [])
    return {
        label: {"p50_ms": float(np.median(v)), "p99_ms": float(np.percentile(v, 99))}
        for label, v in taken.items()
    }


def peak_megabytes(folder: Path, precision: str) -> float | None:
    """Return the peak memory of a process that embeds texts of 512 tokens, one at a time."""
    program = (
        "import sys, culet\n"
        "e = culet.load(sys.argv[1], device='cpu', precision=sys.argv[2], threads=1)\n"
        "for text in sys.argv[3:]: e.encode_document(text, progress=False)\n"
        "for line in open('/proc/self/status'):\n"
        "    if line.startswith('VmHWM'): print(int(line.split()[1]) / 1024)\n"
    )
    texts = real_texts(culet.load(folder, device="cpu", precision="int4", threads=1), [512] * 4)
    # The first run may quantise; the second is what a user sees from then on.
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program, str(folder), precision, *texts],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    return float(done.stdout) if done.returncode == 0 and done.stdout else None


def show(name: str, result: dict[str, Any]) -> None:
    """Print the table of one process."""
    print(
        f"\n{name}, {result['threads']} threads; ceiling {result['ceiling_flops'] / 1e9:.0f} GF/s"
        + "".join(f", {p} {c / 1e9:.0f}" for p, c in result["other_ceilings"].items())
    )
    for load, found in result["loads"].items():
        contenders = found["contenders"]
        default = contenders["sentence-transformers float32, batch 32"]["tokens_per_second"]
        print(f"  {load}: {found['texts']} texts, {found['tokens']} tokens")
        for label, c in contenders.items():
            print(
                f"    {label:45s}{c['tokens_per_second']:10,.0f} tokens/s"
                f"{c['tokens_per_second'] / default:7.2f}x  {c['of_ceiling']:6.1%} of the ceiling"
                f"{c['tokens_per_processor_second']:10,.0f} a processor second"
                f"  cosine {c['mean_cosine']:.5f}"
            )
    for label, ms in result.get("queries", {}).items():
        print(f"  query: {label:36s} p50 {ms['p50_ms']:8.1f} ms  p99 {ms['p99_ms']:8.1f} ms")


def _ids(embedder: culet.Embedder, texts: list[str]) -> list[np.ndarray]:
    return embedder.prepare_document(texts, titles=[None] * len(texts)).ids


def main() -> None:
    """Measure and write benchmarks/results/runtime-MODEL.json, a file a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=["300m", "packaged"])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--texts", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--loads", nargs="*", choices=LOADS, default=list(LOADS))
    parser.add_argument("--one", help=argparse.SUPPRESS)  # the folder a child process measures
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)  # where peers keep files
    options = parser.parse_args()
    if options.one:
        (threads,) = options.threads
        found = measure(
            Path(options.one),
            work=options.work,
            threads=threads,
            count=options.texts,
            repeats=options.repeats,
            wanted=options.loads,
        )
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.models:
            folder = random_300m(Path(temporary) / "300m") if name == "300m" else PACKAGED
            found = {"runs": []}
            for threads in options.threads:
                command = [sys.executable, "-W", "ignore", __file__, "--one", str(folder)]
                command += ["--threads", str(threads), "--texts", str(options.texts)]
                command += ["--repeats", str(options.repeats), "--work", temporary]
                command += ["--loads", *options.loads]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                found["runs"].append(json.loads(done.stdout.splitlines()[-1]))
                show(name, found["runs"][-1])
                machine.write(f"runtime-{name}", found)  # a run of hours keeps what it has
            if "memory" not in options.loads:
                continue
            found["peak_megabytes"] = {
                p: peak_megabytes(folder, p) for p in ("float32", "int8", "int4")
            }
            print(f"  peak memory, MB: {found['peak_megabytes']}")
            machine.write(f"runtime-{name}", found)


if __name__ == "__main__":
    main()
