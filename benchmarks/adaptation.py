"""Ways from a decoder to an encoder, side by side on equal tokens and the same finetuning.

    ul2     encoder-decoder adapted from the decoder, UL2, its encoder (T5Gemma, EmbeddingGemma)
    mntp    masked next-token prediction without the causal mask (LLM2Vec)
    mlm     masked tokens without the causal mask
    none    the decoder without its causal mask
    random  random weights of the same shape

Each arm sees the same number of tokens of text before the same contrastive finetuning, and is
scored on the tasks of a folder. Without --decoder a tiny one is trained first.

    python benchmarks/adaptation.py --text FILE... --pairs FILE... --tasks demo/data/eval
    python benchmarks/adaptation.py --decoder DIR (a trimmed Gemma 3 270M) --tokens 20000000 …
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from machine import describe

from culet.data.pretraining import TextSourceConfig
from culet.data.source import SourceConfig
from culet.decoder_checkpoint import read_decoder, write_decoder
from culet.evaluate.results import evaluate_folder
from culet.loading import load
from culet.model.from_encoder import HeadConfig
from culet.stages import adapt, decoder, encoder, pretrain, tune
from culet.stages.adapt import AdaptConfig
from culet.stages.decoder import DecoderShape, DecoderStageConfig, random_weights
from culet.stages.encoder import EncoderStageConfig
from culet.stages.pretrain import PretrainConfig
from culet.stages.tune import TuneConfig
from culet.train.optim import OptimConfig

ARMS = ("ul2", "mntp", "mlm", "none", "random")
T95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}  # of Student's t, by number of seeds


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    args.folder.mkdir(parents=True, exist_ok=True)
    base = args.decoder or tiny_decoder(args)
    scores: dict[str, list[float]] = {arm: [] for arm in args.arms}
    details: list[dict[str, object]] = []
    for seed in range(args.seeds):
        for arm in args.arms:
            began = time.monotonic()
            model = adapted(args, base, arm, seed)
            tuned = finetuned(args, model, arm, seed)
            tasks = scored(args, tuned, arm, seed)
            scores[arm].append(statistics.mean(tasks.values()))
            details.append({"arm": arm, "seed": seed, "tasks": tasks})
            seconds = time.monotonic() - began
            print(f"{arm}, seed {seed}: {scores[arm][-1]:.2f} after {seconds:.0f} s", flush=True)
    summary = {arm: interval(values) for arm, values in scores.items()}
    print(json.dumps(summary, indent=2))
    if args.out:
        settings = {key: said(value) for key, value in vars(args).items()}
        report = {"machine": describe(), "settings": settings, "means": summary, "runs": details}
        args.out.write_text(json.dumps(report, indent=2) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, nargs="*", default=[], help="files of {'text': …}")
    parser.add_argument("--pairs", type=Path, nargs="+", required=True, help="training pairs")
    parser.add_argument("--tasks", type=Path, default=Path("demo/data/eval"))
    parser.add_argument("--decoder", type=Path, help="a folder or GGUF file; a tiny one if absent")
    parser.add_argument("--folder", type=Path, default=Path("runs/adaptation"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--tokens", type=int, default=300_000, help="of text, each arm")
    parser.add_argument("--decoder-tokens", type=int, default=600_000)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--tune-steps", type=int, default=50)
    parser.add_argument("--tune-batch", type=int, default=64)
    parser.add_argument("--tune-lr", type=float, default=1e-3)
    parser.add_argument("--max-tokens", type=int, default=64)
    return parser.parse_args()


def sources(args: argparse.Namespace) -> tuple[TextSourceConfig, ...]:
    """Return what is read before finetuning: the texts, and the pairs as texts."""
    return (
        *(TextSourceConfig(path) for path in args.text),
        *(TextSourceConfig(path, kind="pairs") for path in args.pairs),
    )


def optim(args: argparse.Namespace, steps: int) -> OptimConfig:
    return OptimConfig(lr=args.lr, warmup_steps=max(1, steps // 10))


def tiny_decoder(args: argparse.Namespace) -> Path:
    steps = args.decoder_tokens // (args.batch * args.window)
    config = DecoderStageConfig(
        steps=steps,
        batch_size=args.batch,
        window=args.window,
        sources=sources(args),
        vocab_size=6144,
        shape=DecoderShape(num_layers=2, model_dim=128, ffn_dim=256, num_heads=2, head_dim=64),
        optim=optim(args, steps),
        compute_dtype=args.dtype,
    )
    out = args.folder / "decoder"
    return decoder.run(config, out=out, name="decoder", device=args.device)


def adapted(args: argparse.Namespace, base: Path, arm: str, seed: int) -> Path:
    """Return the embedding checkpoint an arm comes to before finetuning."""
    steps = max(1, args.tokens // (args.batch * args.window))
    common = {
        "steps": steps,
        "batch_size": args.batch,
        "window": args.window,
        "sources": sources(args),
        "optim": optim(args, steps),
        "seed": seed,
        "head": HeadConfig(seed=seed),
        "compute_dtype": args.dtype,
    }
    out, name = args.folder / f"{arm}-{seed}", f"{arm}, seed {seed}"
    if arm == "ul2":
        shape = AdaptConfig(tied_embeddings=True, cross_norms="copied")
        pair = adapt.run(shape, decoder=base, out=args.folder / "adapt", name="adapt")
        made = pretrain.run(
            PretrainConfig(**common), init=pair, out=out, name=name, device=args.device
        )
        assert made.encoder is not None
        return made.encoder
    if arm == "random":
        base = random_decoder(args, base, seed)
    objective = arm if arm in ("mntp", "mlm") else "none"
    config = EncoderStageConfig(**common, objective=objective)
    return encoder.run(config, init=base, out=out, name=name, device=args.device)


def random_decoder(args: argparse.Namespace, base: Path, seed: int) -> Path:
    """Return a decoder of the base's shape and tokenizer with random weights."""
    start, out = read_decoder(base), args.folder / f"random-weights-{seed}"
    weights = random_weights(start.config.weight_shapes(), seed=seed)
    write_decoder(out, start.config, weights, tokenizer_json=start.tokenizer_json)
    return out


def finetuned(args: argparse.Namespace, model: Path, arm: str, seed: int) -> Path:
    config = TuneConfig(
        steps=args.tune_steps,
        batch_size=args.tune_batch,
        max_tokens=args.max_tokens,
        sources=tuple(SourceConfig(path) for path in args.pairs),
        optim=OptimConfig(lr=args.tune_lr, warmup_steps=max(1, args.tune_steps // 10)),
        seed=seed,
        compute_dtype=args.dtype,
    )
    out, name = args.folder / f"{arm}-{seed}-tuned", f"tune {arm}, seed {seed}"
    return tune.run(config, init=model, out=out, name=name, device=args.device).checkpoint


def scored(args: argparse.Namespace, model: Path, arm: str, seed: int) -> dict[str, float]:
    """Return the main score of each task in percent."""
    embedder = load(model, device=args.device)
    outcome = evaluate_folder(
        embedder,
        args.tasks,
        args.folder / "results",
        name=f"adaptation/{arm}",
        revision=embedder.fingerprint,
    )
    if outcome.failures:
        raise SystemExit(f"tasks failed: {outcome.failures}")
    return {result.info.name: 100 * result.main_score for result in outcome.results}


def interval(values: list[float]) -> dict[str, float]:
    """Return the mean over seeds and half the width of its 95 % interval."""
    found = {"mean": round(statistics.mean(values), 3), "seeds": len(values)}
    if len(values) in T95:
        spread = statistics.stdev(values) / len(values) ** 0.5
        found["plus_minus"] = round(T95[len(values)] * spread, 3)
    return found


def said(value: object) -> object:
    """Return a setting without the place of this machine in it."""
    if isinstance(value, list):
        return [said(item) for item in value]
    return f"{value.parent.name}/{value.name}" if isinstance(value, Path) else value


if __name__ == "__main__":
    main()
