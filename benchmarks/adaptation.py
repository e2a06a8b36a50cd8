"""Ways from a decoder to an encoder, side by side on equal tokens and the same finetuning.

    ul2     encoder-decoder adapted from the decoder, UL2, its encoder (T5Gemma, EmbeddingGemma)
    mntp    masked next-token prediction without the causal mask (LLM2Vec)
    mlm     masked tokens without the causal mask
    none    the decoder without its causal mask
    random  random weights of the same shape

Each arm sees the same number of tokens of text before the same contrastive finetuning, and is
scored on the tasks of a folder. Without --decoder a tiny one is trained first.

    python benchmarks/adaptation.py --text FILE... --pairs FILE... --tasks demo/data/eval

A real decoder, with a vocabulary trimmed to the texts (data from `adaptation_data.py`):

    python benchmarks/adaptation.py --decoder gemma-3-270m.gguf --trim --short-prompts --adapt-once
        --text DIR/text.jsonl --pairs DIR/pairs-*.jsonl --tasks DIR/tasks
        --held-out DIR/held-out.jsonl --rates 1e-4 3e-4 1e-3 …

With --rates each arm gets the rate of finetuning that is best for it: a shorter run a rate, on a
seed of its own, judged by the contrastive loss of pairs that no arm is trained on. The same command
goes on where it was stopped; what is scored is not made again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import describe, half_interval, portable

from culet.checkpoints.embedding import read_embedding_model
from culet.checkpoints.gemma import read_decoder
from culet.checkpoints.write import write_checkpoint
from culet.data.batches.sources import SourceConfig
from culet.data.batches.windows import TextSourceConfig
from culet.evaluate.results import evaluate_folder
from culet.files.atomic import write_json
from culet.files.rows import read_rows
from culet.loading import load
from culet.losses.contrastive import info_nce
from culet.model.heads import with_head
from culet.stages import adapt, decoder, encoder, pretrain, trim, tune
from culet.stages.adapt import AdaptConfig
from culet.stages.contract import run_stage
from culet.stages.decoder import DecoderShape, DecoderStageConfig, random_weights
from culet.stages.encoder import EncoderStageConfig
from culet.stages.new_head import HeadConfig
from culet.stages.pretrain import PretrainConfig
from culet.stages.trim import TrimConfig
from culet.stages.tune_settings import TuneConfig
from culet.train.optim import OptimConfig

ARMS = ("ul2", "mntp", "mlm", "none", "random")
HELD_OUT_SEED = 1000
# Settings that change no score; the seeds and arms of earlier commands stay what they were.
UNIMPORTANT = ("arms", "seeds", "threads", "folder", "out", "save_every", "rates")
# Options that came later, left out where they stand at what was done before.
LATER = {"cross_norms": "copied"}


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    args.folder.mkdir(parents=True, exist_ok=True)
    base = args.decoder or tiny_decoder(args)
    if args.trim:
        base = trimmed(args, base)
    rates: dict[str, float] = {}
    for seed in range(args.seeds):
        for arm in args.arms:
            if arm not in rates:
                rates[arm] = chosen_rate(args, base, arm)
            record = args.folder / "scores" / f"{arm}-{seed}.json"
            settings = identity(args, rates[arm])
            if read(record).get("settings") != settings:
                began = time.monotonic()
                tuned = finetuned(args, adapted(args, base, arm, seed), arm, seed, rates[arm])
                tasks = scored(args, tuned, arm, seed)
                seconds = round(time.monotonic() - began)
                run = {"arm": arm, "seed": seed, "tasks": tasks, "seconds": seconds}
                write(record, {"settings": settings, "run": run})
                shutil.rmtree(tuned.parent)
            mean = statistics.mean(read(record)["run"]["tasks"].values())
            print(f"{arm}, seed {seed}: {mean:.2f}", flush=True)
            report(args, rates)


def report(args: argparse.Namespace, rates: dict[str, float]) -> None:
    """Write what is known so far, after every run."""
    runs = [
        found["run"]
        for seed in range(args.seeds)
        for arm in rates
        if (found := read(args.folder / "scores" / f"{arm}-{seed}.json")).get("settings")
        == identity(args, rates[arm])
    ]
    scores: dict[str, dict[int, float]] = {arm: {} for arm in rates}
    for run in runs:
        scores[run["arm"]][run["seed"]] = statistics.mean(run["tasks"].values())
    means = {arm: interval(list(found.values())) for arm, found in scores.items() if found}
    pairs = [(a, b) for a in means for b in means if a < b]
    differences = {}
    for one, other in pairs:
        both = sorted(scores[one].keys() & scores[other].keys())
        if both:
            apart = [scores[one][seed] - scores[other][seed] for seed in both]
            differences[f"{one} - {other}"] = interval(apart)
    summary = {
        "machine": describe(),
        "settings": {key: portable(value) for key, value in vars(args).items()},
        "vocabulary": read(args.folder / "trim" / "done.json", without=("files",)),
        "rates": {
            arm: read(args.folder / "rates" / f"{arm}.json").get("losses", {}) for arm in rates
        },
        "means": means,
        "differences": differences,
        "runs": runs,
    }
    print(json.dumps(means), flush=True)
    if args.out:
        write(args.out, summary)


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
    parser.add_argument("--cross-norms", default="copied", choices=("copied", "quiet"))
    parser.add_argument("--tune-steps", type=int, default=50)
    parser.add_argument("--tune-batch", type=int, default=64)
    parser.add_argument("--tune-lr", type=float, default=1e-3)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--trim", action="store_true", help="cut the vocabulary to the texts")
    parser.add_argument("--min-count", type=int, default=2, help="see the stage trim")
    parser.add_argument("--short-prompts", action="store_true", help="two tokens, to save time")
    parser.add_argument("--adapt-once", action="store_true", help="seeds are of finetuning only")
    parser.add_argument("--rates", type=float, nargs="*", default=[], help="in place of --tune-lr")
    parser.add_argument("--rate-steps", type=int, default=12)
    parser.add_argument("--held-out", type=Path, help="pairs by which a rate is chosen")
    parser.add_argument("--save-every", type=int, default=200)
    args = parser.parse_args()
    if args.rates and not args.held_out:
        parser.error("--rates needs pairs to judge them by: --held-out FILE")
    return args


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
    return run_stage(decoder.STAGE, config, out=out, name="decoder", device=args.device)


def trimmed(args: argparse.Namespace, base: Path) -> Path:
    """Return the decoder with the tokens that the texts and pairs need."""
    config = TrimConfig(texts=(*args.text, *args.pairs), min_count=args.min_count)
    return once(
        args,
        "trim",
        lambda: run_stage(trim.STAGE, config, init=base, out=args.folder / "trim", name="trim"),
    )


def adapted(args: argparse.Namespace, base: Path, arm: str, seed: int) -> Path:
    """Return the embedding checkpoint an arm comes to before finetuning, its head by the seed."""
    taught = 0 if args.adapt_once else seed
    if arm == "random":
        base, taught = random_decoder(args, base, seed), seed
    steps = max(1, args.tokens // (args.batch * args.window))
    common = {
        "steps": steps,
        "batch_size": args.batch,
        "window": args.window,
        "sources": sources(args),
        "optim": optim(args, steps),
        "seed": taught,
        "head": HeadConfig(seed=taught),
        "compute_dtype": args.dtype,
        "save_every": args.save_every,
    }
    out, name = args.folder / f"{arm}-{taught}", f"{arm}, seed {taught}"

    def make() -> Path:
        if arm == "ul2":
            shape = AdaptConfig(tied_embeddings=True, cross_norms=args.cross_norms)
            pair = run_stage(
                adapt.STAGE, shape, decoder=base, out=args.folder / "adapt", name="adapt"
            )
            ul2 = PretrainConfig(**common)
            made = run_stage(pretrain.STAGE, ul2, init=pair, out=out, name=name, device=args.device)
            return made.parent / "encoder"
        objective = arm if arm in ("mntp", "mlm") else "none"
        config = EncoderStageConfig(**common, objective=objective)
        return run_stage(encoder.STAGE, config, init=base, out=out, name=name, device=args.device)

    encoded = once(args, out.name, make) if arm in ("ul2", "mntp", "mlm") else make()
    return started(args, encoded, args.folder / f"{arm}-{seed}-start", seed)


def once(args: argparse.Namespace, name: str, make: Callable[[], Path]) -> Path:
    """Return what `make` gave with these settings before, or makes now.

    What took an hour is taken as it lies there, even after a stage has got new settings.
    """
    record = args.folder / "made" / f"{name}.json"
    settings = identity(args, 0.0)
    found = read(record)
    if found.get("settings") == settings and Path(found["path"]).exists():
        return Path(found["path"])
    path = make()
    write(record, {"settings": settings, "path": str(path)})
    return path


def started(args: argparse.Namespace, encoded: Path, out: Path, seed: int) -> Path:
    """Return an embedding checkpoint with a head of this seed and the prompts that are asked for.

    With EmbeddingGemma's prompts a short text is prompt for a third.
    """
    found = read_embedding_model(encoded)
    prompts = dict(found.prompts)
    if args.short_prompts:
        prompts = {k: "text: " if "title" in v else "query: " for k, v in prompts.items()}
    write_checkpoint(
        out,
        found.config,
        with_head(found.config, found.arrays(), seed=seed),
        tokenizer_json=found.tokenizer_json,
        prompts=prompts,
    )
    return out


def random_decoder(args: argparse.Namespace, base: Path, seed: int) -> Path:
    """Return a decoder of the base's shape and tokenizer with random weights."""
    start, out = read_decoder(base), args.folder / f"random-weights-{seed}"
    weights = random_weights(start.config.weight_shapes(), seed=seed)
    write_checkpoint(out, start.config, weights, tokenizer_json=start.tokenizer_json)
    return out


def chosen_rate(args: argparse.Namespace, base: Path, arm: str) -> float:
    """Return the rate of finetuning that is best for an arm, among those asked for."""
    if not args.rates:
        return float(args.tune_lr)
    record = args.folder / "rates" / f"{arm}.json"
    settings = identity(args, 0.0)
    losses = read(record).get("losses", {}) if read(record).get("settings") == settings else {}
    for rate in args.rates:
        if str(rate) in losses:
            continue
        start = adapted(args, base, arm, HELD_OUT_SEED)
        tuned = finetuned(args, start, arm, HELD_OUT_SEED, rate, steps=args.rate_steps)
        losses[str(rate)] = held_out_loss(args, tuned)
        shutil.rmtree(tuned.parent)
        write(record, {"settings": settings, "losses": losses})
        print(f"{arm}, rate {rate}: held-out loss {losses[str(rate)]:.4f}", flush=True)
    return min(args.rates, key=lambda rate: losses[str(rate)])


def held_out_loss(args: argparse.Namespace, model: Path) -> float:
    """Return the contrastive loss of pairs that no arm is trained on, in batches of 32."""
    pairs = [row.value for row in read_rows([args.held_out])]
    embedder = load(model, device=args.device, threads=args.threads)
    query = embedder.encode_query([pair["query"] for pair in pairs])
    positive = embedder.encode_document([pair["positive"] for pair in pairs])
    batches = zip(torch.tensor(query).split(32), torch.tensor(positive).split(32), strict=True)
    return statistics.mean(info_nce(q, p, temperature=0.05).item() for q, p in batches)


def finetuned(
    args: argparse.Namespace,
    model: Path,
    arm: str,
    seed: int,
    rate: float,
    *,
    steps: int | None = None,
) -> Path:
    steps = steps or args.tune_steps
    config = TuneConfig(
        steps=steps,
        batch_size=args.tune_batch,
        max_tokens=args.max_tokens,
        sources=tuple(SourceConfig(path) for path in args.pairs),
        optim=OptimConfig(lr=rate, warmup_steps=max(1, steps // 10)),
        seed=seed,
        compute_dtype=args.dtype,
        save_every=args.save_every,
    )
    out, name = args.folder / f"{arm}-{seed}-tuned", f"tune {arm}, seed {seed}"
    return run_stage(tune.STAGE, config, init=model, out=out, name=name, device=args.device)


def scored(args: argparse.Namespace, model: Path, arm: str, seed: int) -> dict[str, float]:
    """Return the main score of each task in percent."""
    embedder = load(model, device=args.device, threads=args.threads)
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
    if (half := half_interval(values)) is not None:
        found["plus_minus"] = round(half, 3)
    return found


def identity(args: argparse.Namespace, rate: float) -> dict[str, Any]:
    """Return the settings that a score depends on, as they are read back from JSON."""
    kept = {
        key: portable(value)
        for key, value in vars(args).items()
        if key not in UNIMPORTANT and LATER.get(key) != value
    }
    answer: dict[str, Any] = json.loads(json.dumps(kept | {"rate": rate}))
    return answer


def read(path: Path, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what a file of JSON holds, or nothing where there is none."""
    if not path.exists():
        return {}
    return {k: v for k, v in json.loads(path.read_text("utf-8")).items() if k not in without}


def write(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, value)


if __name__ == "__main__":
    main()
