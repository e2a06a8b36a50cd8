"""Whether a small encoder-decoder learns facts from triples and answers about them (SKILL).

From the same random weights, for the same number of steps: once with text and as many facts
(arXiv 2205.08184), once with the same number of texts alone. Then the same finetuning on questions
about one half of the entities, and exact match on questions about the other half, whose facts only
one of the two has read. One hop, and two hops.

    python benchmarks/skill.py --triples DIR/geo-kg/triples.jsonl.gz --text FILE
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from machine import describe, portable
from questions import one_hop, split_by_entity, two_hops, write_questions

from culet.checkpoints.write import write_checkpoint
from culet.data.batches.windows import TextSourceConfig
from culet.data.token_stream import read_raw_texts
from culet.data.triples import Fact, read_triples
from culet.model.adapt import adapt, adapted_config
from culet.stages import pretrain, seq2seq
from culet.stages.contract import run_stage
from culet.stages.decoder import DecoderShape, decoder_config, random_weights
from culet.stages.pretrain import PretrainConfig
from culet.stages.seq2seq import Seq2SeqConfig
from culet.text.tokenizer_training import train_tokenizer
from culet.train.optim import OptimConfig

COUNTRY = ("capital", "is in subregion", "top-level domain")
# Subject first, as in the facts: a model of a million weights has little English to turn them by.
TEMPLATES = {
    relation: f"{{subject}}: what is the {name}?"
    for relation, name in {
        "capital": "capital",
        "is in subregion": "subregion",
        "top-level domain": "top-level domain",
        "country": "country",
    }.items()
}
TWO_HOPS = "{subject}: what is the {second} of the {first}?"
SHAPE = DecoderShape(num_layers=2, model_dim=96, ffn_dim=192, num_heads=2, head_dim=48, window=63)


def chosen(triples: Sequence[Fact], countries: int, cities: int, seed: int) -> list[Fact]:
    """Return facts of some countries, and which of them some cities of one name are in."""
    generator = np.random.default_rng(seed)
    known = sorted({t.subject for t in triples if t.relation == "capital"})
    kept = set(generator.permutation(known)[:countries])
    facts = [t for t in triples if t.relation in COUNTRY and t.subject in kept]
    homes: dict[str, list[Fact]] = {}
    for t in triples:
        if t.relation == "is a city in" and t.object in kept:
            homes.setdefault(t.subject, []).append(replace(t, relation="country"))
    unique = [found[0] for found in homes.values() if len(found) == 1]
    picks = generator.choice(len(unique), min(cities, len(unique)), replace=False)
    return facts + [unique[i] for i in sorted(picks)]


def write_rows(path: Path, facts: Sequence[Fact]) -> Path:
    path.write_text(
        "".join(json.dumps({"s": t.subject, "r": t.relation, "o": t.object}) + "\n" for t in facts)
    )
    return path


def vocabulary(facts: Sequence[Fact], text: Path) -> Iterator[str]:
    """Yield what the tokenizer is trained on: the words of the facts and some text."""
    for t in facts:
        yield f"what is the {t.relation} of {t.subject}?"
        yield t.object
    for row, _ in zip(read_raw_texts([text]), range(3000), strict=False):
        yield row.text


def run(args: argparse.Namespace, seed: int) -> dict[str, float]:
    """Return exact match in percent, by arm and hops."""
    folder = args.folder / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    facts = chosen(read_triples([args.triples]), args.countries, args.cities, seed)
    rows = write_rows(folder / "facts.jsonl", facts)
    hops = {"one": one_hop(facts, templates=TEMPLATES), "two": two_hops(facts, template=TWO_HOPS)}
    for name, questions in hops.items():
        parts = split_by_entity(questions, held_out=0.5, seed=seed)
        for part, some in zip(("train", "test"), parts, strict=True):
            keep = np.random.default_rng(seed).permutation(len(some))[: args.questions]
            write_questions(folder / f"{name}-{part}.jsonl", [some[i] for i in keep])
    words = train_tokenizer(vocabulary(facts, args.text), args.vocab, num_unused=32)
    shape = decoder_config(SHAPE, words.get_vocab_size(with_added_tokens=True))
    pair = adapted_config(shape, tied_embeddings=True)
    weights = random_weights(shape.weight_shapes(), seed=seed)
    tokenizer = words.to_str()
    start = folder / "start"
    arrays = adapt(pair, weights, cross_norms="copied")
    write_checkpoint(start, pair, arrays, tokenizer_json=tokenizer)

    text = TextSourceConfig(args.text)
    arms = {"facts": (text, TextSourceConfig(rows, kind="triples")), "text": (text,)}
    found: dict[str, float] = {}
    for arm, sources in arms.items():
        began = time.monotonic()
        config = PretrainConfig(
            steps=args.steps,
            batch_size=args.batch // (2 if arm == "text" else 1),
            sources=sources,
            window=args.window,
            optim=OptimConfig(lr=args.lr, warmup_steps=50),
            seed=seed,
            save_every=args.steps,
        )
        made = run_stage(
            pretrain.STAGE, config, init=start, out=folder / arm, name=f"{arm}, seed {seed}"
        )
        for hop in hops:
            tuning = Seq2SeqConfig(
                steps=args.tune,
                batch_size=32,
                train=(folder / f"{hop}-train.jsonl",),
                test=(folder / f"{hop}-test.jsonl",),
                max_target_tokens=24,
                optim=OptimConfig(lr=args.tune_lr, warmup_steps=20),
                seed=seed,
                save_every=args.tune,
            )
            out = folder / f"{arm}-{hop}"
            run_stage(seq2seq.STAGE, tuning, init=made, out=out, name=f"{arm} {hop}")
            done = json.loads((out / "done.json").read_text())
            found[f"{arm}.{hop}"] = 100 * done["exact_match"]
        found[f"{arm}.seconds"] = round(time.monotonic() - began, 1)
    return found | {"facts": len(facts)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--triples", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("runs/skill"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--countries", type=int, default=130)
    parser.add_argument("--cities", type=int, default=80)
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--vocab", type=int, default=1536)
    parser.add_argument("--window", type=int, default=16)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--tune", type=int, default=60)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--tune-lr", type=float, default=1e-3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for seed in args.seeds:
        results[seed] = run(args, seed)
        print(seed, json.dumps(results[seed]), flush=True)
    settings = {key: portable(value) for key, value in vars(args).items()}
    report = {"machine": describe(), "settings": settings, "results": results}
    if args.out:
        args.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
