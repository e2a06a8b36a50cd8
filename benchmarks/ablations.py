"""Whether each part of the recipe earns its place: one left out at a time, paired by seed.

    base                  prefinetuning, finetuning with hard negatives and a teacher, their soup
    no prefinetuning      as many tokens of finetuning alone
    no hard negatives     half as many pairs more a batch instead
    no hardness weight    hard negatives weigh as others do
    no distillation       no teacher
    no spread-out         in neither stage
    no soup               of every arm, its finetuned model beside its soup

Each arm is the base recipe with a few other settings; stages that do not differ are taken from the
base of the same seed. Every model is scored on the tasks at full width and at 128 numbers, with
int8 and binary vectors; and by how many of the 10 nearest documents of an exact float32 search are
found again with 128 numbers, int8, binary, and an inverted file that looks into some of its lists.

    python benchmarks/ablations.py recipes/ablations.toml --seeds 0 1 2
    python benchmarks/ablations.py recipes/ablations.toml --report            # the tables alone

A run that was stopped goes on. Start it in two places with other seeds to use two cores: the report
is of all that lies in the folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe, half_interval

from culet.embedder import Embedder
from culet.evaluate.encoding import task_texts
from culet.evaluate.evaluation import evaluate_widths
from culet.evaluate.tasks import list_tasks, read_task
from culet.files.atomic import write_json
from culet.files.settings import identity
from culet.loading import load
from culet.pipeline import Recipe, read_recipe, run_recipe
from culet.train.log import read_log
from culet.vectors.codes import (
    calibrate_int8,
    decode_binary,
    encode_binary,
    encode_int8,
    int8_similarity,
)
from culet.vectors.similarity import unit

BASE = "base"
NEAREST, NARROW = 10, 128
SCORES = {
    "mean": (None, "float32"),
    "mean, 128 numbers": (NARROW, "float32"),
    "mean, int8": (None, "int8"),
    "mean, binary": (None, "binary"),
}


@dataclass(frozen=True)
class Arm:
    """One arm.

    Attributes:
        settings: Overrides of the recipe, given the base's recipe and the tokens a step of its
            stages took.
        models: Stages whose models are scored.
    """

    settings: Callable[[Recipe, Mapping[str, float]], list[str]]
    models: tuple[str, ...] = ("finetune", "soup")


def alone(base: Recipe, tokens: Mapping[str, float]) -> list[str]:
    """Return finetuning alone with the tokens of both stages."""
    first, second = base.stages["prefinetune"].config, base.stages["finetune"].config
    more = round(first.steps * tokens["prefinetune"] / tokens["finetune"])
    return ['finetune.init="start"', f"finetune.steps={second.steps + more}"]


def without_negatives(base: Recipe, tokens: Mapping[str, float]) -> list[str]:
    """Return as many texts a batch, two a pair instead of two and the negatives."""
    config = base.stages["finetune"].config
    pairs = config.batch_size * (2 + config.num_negatives) // 2
    return ["finetune.num_negatives=0", f"finetune.batch_size={pairs}"]


def fixed(*settings: str) -> Callable[[Recipe, Mapping[str, float]], list[str]]:
    return lambda base, tokens: list(settings)


ARMS = {
    BASE: Arm(fixed(), ("prefinetune", "finetune", "soup")),
    "no prefinetuning": Arm(alone, ("finetune",)),
    "no hard negatives": Arm(without_negatives),
    "no hardness weight": Arm(fixed("finetune.loss.hardness=0")),
    "no distillation": Arm(
        fixed("finetune.loss.distill=0", 'finetune.loss.distill_projection="prefix"')
    ),
    "no spread-out": Arm(fixed("prefinetune.loss.spread_out=0", "finetune.loss.spread_out=0")),
}


def main() -> None:
    args = arguments()
    results = args.folder / "results"
    results.mkdir(parents=True, exist_ok=True)
    if not args.report:
        judge = Judge(args.tasks, args.threads)
        for seed in args.seeds:
            for arm in dict.fromkeys([BASE, *args.arms]):
                ran(args, judge, arm, seed, results)
                report(args.folder, results)
    report(args.folder, results, show=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--tasks", type=Path, default=Path("demo/data/eval"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--threads", type=int, default=1, help="of scoring")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--report", action="store_true", help="only the tables of what is there")
    return parser.parse_args()


# --- running


def ran(args: argparse.Namespace, judge: Judge, arm: str, seed: int, results: Path) -> None:
    """Train and score one arm of one seed, unless that has been done."""
    file = results / f"{slug(arm)}-{seed}.json"
    place = args.folder / f"{slug(arm)}-{seed}"
    settings = common(args, seed, args.folder / f"{BASE}-{seed}")
    base = read_recipe(args.recipe, settings)
    if arm != BASE:
        tokens = {name: per_step(base, name) for name in ("prefinetune", "finetune")}
        settings = common(args, seed, place) + ARMS[arm].settings(base, tokens)
    recipe = read_recipe(args.recipe, settings)
    known_by = [identity(stage.config, run=recipe.run.folder) for stage in recipe.stages.values()]
    if file.exists() and json.loads(file.read_text())["settings"] == json.loads(
        json.dumps(known_by)
    ):
        return
    take_over(base, recipe)
    last = ARMS[arm].models[-1]
    for name in list(recipe.stages)[: list(recipe.stages).index(last) + 1]:
        run_recipe(args.recipe, settings, only=name, say=lambda line: print(line, flush=True))
    models = {name: judge(recipe.stages[name].output("model")) for name in ARMS[arm].models}
    logs = {name: read_log(stage.folder / "log.jsonl") for name, stage in recipe.stages.items()}
    trained = {name: log for name, log in logs.items() if log and name in upstream(recipe, last)}
    found = {
        "arm": arm,
        "seed": seed,
        "models": models,
        "tokens": sum(line["tokens"] for log in trained.values() for line in log),
        "seconds": round(sum(line["seconds"] for log in trained.values() for line in log)),
        "settings": known_by,
    }
    write_json(file, found)
    means = ", ".join(f"{name} {scores['mean']:.2f}" for name, scores in models.items())
    print(f"== {arm}, seed {seed}: {means}", flush=True)


def common(args: argparse.Namespace, seed: int, place: Path) -> list[str]:
    """Return the settings that all arms of a seed share."""
    seeds = [f"{name}.seed={seed}" for name in ("start", "prefinetune", "finetune")]
    return [*args.settings, *seeds, f"run.folder={place}"]


def per_step(recipe: Recipe, name: str) -> float:
    """Return the tokens of a step of a stage that has run."""
    log = read_log(recipe.stages[name].folder / "log.jsonl")
    return sum(line["tokens"] for line in log) / len(log)


def upstream(recipe: Recipe, name: str) -> set[str]:
    """Return a stage and all it is made from."""
    found = {name}
    for above in recipe.stages[name].needs:
        found |= upstream(recipe, above)
    return found


def take_over(base: Recipe, recipe: Recipe) -> None:
    """Link the finished stages of the base that are the same here; no file is ever changed."""
    same: set[str] = set()
    for name, stage in recipe.stages.items():
        other = base.stages[name]
        alike = identity(stage.config, run=recipe.run.folder) == identity(
            other.config, run=base.run.folder
        )
        if alike and inputs(stage.inputs, recipe) == inputs(other.inputs, base):
            if not set(stage.needs) <= same:
                continue
            same.add(name)
            if (other.folder / "done.json").exists() and not stage.folder.exists():
                aside = stage.folder.with_name(f".{name}.partial")
                shutil.rmtree(aside, ignore_errors=True)
                shutil.copytree(other.folder, aside, copy_function=os.link)
                aside.rename(stage.folder)


def inputs(given: Mapping[str, Any], recipe: Recipe) -> dict[str, list[str]]:
    found = {}
    for key, value in given.items():
        paths = value if isinstance(value, tuple) else (value,)
        found[key] = [os.path.relpath(p, recipe.run.folder) for p in paths if p is not None]
    return found


# --- judging


class Judge:
    """Scores a model on the tasks and in search."""

    def __init__(self, folder: Path, threads: int) -> None:
        self._threads = threads
        self._tasks = [read_task(info.folder) for info in list_tasks(folder)]
        texts = {role: {} for role in ("query", "document", "text")}  # type: dict[str, dict]
        for task in self._tasks:
            for role, text in task_texts(task):
                texts.setdefault(role, {})[text] = None
        self._queries = list(texts["query"])
        self._documents = list(texts["document"] | texts["text"])

    def __call__(self, checkpoint: Path) -> dict[str, float]:
        """Return every measure in percent."""
        embedder = load(checkpoint, device="cpu", threads=self._threads)
        totals = dict.fromkeys(SCORES, 0.0)
        for task in self._tasks:
            found = evaluate_widths(
                embedder,
                task,
                widths=(None, NARROW),
                precisions=("float32", "int8", "binary"),
            )
            by_variant = {(r.truncate_to, r.precision): r.main_score for r in found}
            for name, variant in SCORES.items():
                totals[name] += 100 * by_variant[variant] / len(self._tasks)
        return totals | self._recalls(embedder)

    def _recalls(self, embedder: Embedder) -> dict[str, float]:
        """Return how much of the exact neighbourhood other searches find."""
        queries = embedder.encode_query(self._queries, progress=False)
        documents = embedder.encode_document(self._documents, progress=False)
        right = nearest(queries @ documents.T)
        short, narrow = (unit(vectors[:, :NARROW]) for vectors in (queries, documents))
        ranges = calibrate_int8(documents)
        found = {
            "recall, 128 numbers": nearest(short @ narrow.T),
            "recall, int8": nearest(
                int8_similarity(queries, encode_int8(documents, ranges), ranges)
            ),
            "recall, binary": nearest(signs(queries) @ signs(documents).T),
            "recall, inverted file": inverted_file(queries, documents),
        }
        return {name: 100 * overlap(numbers, right) for name, numbers in found.items()}


def signs(vectors: np.ndarray) -> np.ndarray:
    """Return 1 or −1 for each bit of vectors' binary codes: products of them are exact."""
    return np.sign(decode_binary(encode_binary(vectors), width=vectors.shape[1]))


def nearest(scores: np.ndarray) -> np.ndarray:
    """Return the numbers of the best documents of each query [Q, 10]; the first of equal ones."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :NEAREST]


def inverted_file(
    queries: np.ndarray, documents: np.ndarray, *, lists: int = 64, looked_into: int = 8
) -> np.ndarray:
    """Return the best documents [Q, 10] in the lists whose centres are nearest; −1 if too few."""
    from sklearn.cluster import KMeans

    means = KMeans(min(lists, len(documents)), n_init=1, random_state=0).fit(documents)
    centres = unit(means.cluster_centers_)
    probed = np.argsort(-(queries @ centres.T), axis=1)[:, :looked_into]
    scores = queries @ documents.T
    inside = (means.labels_[None, None, :] == probed[:, :, None]).any(axis=1)
    scores[~inside] = -np.inf
    found = nearest(scores)
    found[np.take_along_axis(scores, found, axis=1) == -np.inf] = -1
    return found


def overlap(found: np.ndarray, right: np.ndarray) -> float:
    hits = (found[:, :, None] == right[:, None, :]).any(axis=2)
    return float(hits.mean())


# --- reporting


def report(folder: Path, results: Path, *, show: bool = False) -> None:
    """Write ablations.json, ablations.md and ablations.png of what has been scored."""
    found = [json.loads(file.read_text()) for file in sorted(results.glob("*.json"))]
    if not found:
        raise SystemExit(f"{results} holds no results yet")
    runs = {(run["arm"], run["seed"]): run for run in found}
    rows = [row for model in ("finetune", "soup") for row in compared(runs, model)]
    rows += souped(runs)
    text = table(runs, rows)
    (folder / "ablations.md").write_text(text)
    without = [{k: v for k, v in run.items() if k != "settings"} for run in found]
    summary = {"machine": describe(), "differences": rows, "runs": without}
    write_json(folder / "ablations.json", summary)
    draw(folder / "ablations.png", rows)
    if show:
        print(text)


def compared(runs: Mapping[tuple[str, int], Any], model: str) -> list[dict[str, Any]]:
    """Return what each part brings to a model: base minus arm, paired by seed."""
    rows = []
    for arm in ARMS:
        seeds = [s for a, s in runs if a == arm and (BASE, s) in runs and arm != BASE]
        pairs = [(runs[BASE, s]["models"], runs[arm, s]["models"]) for s in sorted(seeds)]
        pairs = [(b[model], a[model]) for b, a in pairs if model in a]
        rows += differences(arm.removeprefix("no "), model, pairs)
    return rows


def souped(runs: Mapping[tuple[str, int], Any]) -> list[dict[str, Any]]:
    """Return what the soup brings: soup minus finetuned model of the base."""
    models = [run["models"] for (arm, _), run in sorted(runs.items()) if arm == BASE]
    return differences("soup", "base", [(m["soup"], m["finetune"]) for m in models])


def differences(
    part: str, model: str, pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]
) -> list[dict[str, Any]]:
    """Return the mean difference of each measure and half its 95 % interval."""
    rows = []
    for measure in pairs[0][0] if pairs else ():
        each = [with_it[measure] - without[measure] for with_it, without in pairs]
        rows.append(
            {
                "part": part,
                "model": model,
                "measure": measure,
                "difference": statistics.mean(each),
                "half": half_interval(each),
                "seeds": len(each),
            }
        )
    return rows


def table(runs: Mapping[tuple[str, int], Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return everything as Markdown: means of arms, then what each part brings."""
    measures = list(next(iter(runs.values()))["models"]["finetune"])
    lines = ["| arm | model | seeds | tokens | " + " | ".join(measures) + " |"]
    lines.append("|---" * (4 + len(measures)) + "|")
    for arm, about in ARMS.items():
        own = [run for (name, _), run in sorted(runs.items()) if name == arm]
        for model in about.models if own else ():
            tokens = statistics.mean(run["tokens"] for run in own) / 1e6
            means = (statistics.mean(run["models"][model][m] for run in own) for m in measures)
            cells = " | ".join(f"{mean:.2f}" for mean in means)
            lines.append(f"| {arm} | {model} | {len(own)} | {tokens:.1f} M | {cells} |")
    lines += ["", "What each part brings, with 95 % intervals of the paired differences:", ""]
    lines.append("| part | model | " + " | ".join(measures) + " |")
    lines.append("|---" * (2 + len(measures)) + "|")
    for part, model in dict.fromkeys((row["part"], row["model"]) for row in rows):
        own_rows = [r for r in rows if (r["part"], r["model"]) == (part, model)]
        lines.append(f"| {part} | {model} | " + " | ".join(map(cell, own_rows)) + " |")
    return "\n".join(lines) + "\n"


def cell(row: Mapping[str, Any]) -> str:
    if row["half"] is None:
        return f"{row['difference']:+.2f}"
    sure = "**" if abs(row["difference"]) > row["half"] else ""
    return f"{sure}{row['difference']:+.2f}{sure} ± {row['half']:.2f}"


def draw(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw what each part brings: the score, and what is found again in search."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    shown = [row for row in rows if row["model"] != "soup"]  # finetuned models, and the soup itself
    parts = list(dict.fromkeys(row["part"] for row in shown))
    measures = ["mean", "mean, 128 numbers", "recall, int8", "recall, binary"]
    measures.append("recall, inverted file")
    size = (13, 3 + 0.4 * len(parts))
    figure, axes = plt.subplots(1, len(measures), figsize=size, sharey=True, layout="constrained")
    for axis, measure in zip(axes, measures, strict=True):
        own = {row["part"]: row for row in shown if row["measure"] == measure}
        values = [own[part]["difference"] for part in parts]
        halves = [own[part]["half"] or 0.0 for part in parts]
        axis.errorbar(values, range(len(parts)), xerr=halves, fmt="o", capsize=3, color="#1f4e79")
        axis.axvline(0, color="#999999", linewidth=0.8)
        axis.set_title(measure, fontsize=9)
        axis.set_yticks(range(len(parts)), parts)
        axis.tick_params(labelsize=8)
    axes[0].invert_yaxis()
    figure.supxlabel("points that the part brings (95 % interval)", fontsize=9)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def slug(arm: str) -> str:
    return arm.replace(" ", "-")


if __name__ == "__main__":
    main()
