"""The packaged model against character n-gram TF-IDF on the bundled tasks, in the same run.

python benchmarks/packaged.py [--model FOLDER]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import machine
import numpy as np
from tfidf import score_tasks

import culet
from culet.evaluate.evaluation import evaluate_widths
from culet.evaluate.tasks import list_tasks, read_task

TASKS = Path(__file__).parent.parent / "demo/data/eval"


def score_model(model: str | None) -> dict[str, dict[int, float]]:
    """Return task name → width → main score."""
    embedder = culet.load(model)
    scores: dict[str, dict[int, float]] = {}
    for info in list_tasks(TASKS):
        results = evaluate_widths(embedder, read_task(info.folder), widths=embedder.widths)
        scores[info.name] = {
            width: result.main_score for width, result in zip(embedder.widths, results, strict=True)
        }
    return scores


def compare(model: str | None) -> dict[str, Any]:
    """Score both, print them side by side, and return the numbers."""
    ours = score_model(model)
    bar = {name: entry["score"] for name, entry in score_tasks(TASKS).items()}
    widths = next(iter(ours.values())).keys()
    print(f"{'task':24}{'TF-IDF':>9}" + "".join(f"{width:>9}" for width in widths))
    for name, by_width in ours.items():
        cells = [bar[name], *by_width.values()]
        print(f"{name:24}" + "".join(f"{100 * cell:9.2f}" for cell in cells))
    means = {width: float(np.mean([s[width] for s in ours.values()])) for width in widths}
    bar_mean = float(np.mean(list(bar.values())))
    cells = [bar_mean, *means.values()]
    print(f"{'mean of tasks':24}" + "".join(f"{100 * cell:9.2f}" for cell in cells))
    return {
        "tasks": {n: {"tfidf": bar[n]} | {str(w): s for w, s in ours[n].items()} for n in ours},
        "mean": {"tfidf": bar_mean} | {str(width): mean for width, mean in means.items()},
    }


def main() -> None:
    """Compare and write benchmarks/results/packaged.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a checkpoint folder; the packaged model if left out")
    machine.write("packaged", compare(parser.parse_args().model))


if __name__ == "__main__":
    main()
