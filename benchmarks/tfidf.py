"""The bar a trained model has to beat: TF-IDF over character n-grams, fitted on each task.

    python benchmarks/tfidf.py demo/data/eval --out benchmarks/results/tfidf.json

It is the strongest version that needs no training data: document frequencies come from the task's
own texts, queries included, and the sparse vectors are never hashed or cut. Scoring wants dense
rows, so each text gets a row with exactly the same inner products: for the Gram matrix
G = U diag(l) U' of all texts of the task, the rows of U diag(sqrt(l)).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe
from numpy.typing import NDArray

from culet.evaluate.encoding import embedded_texts
from culet.evaluate.evaluation import evaluate
from culet.evaluate.tasks import list_tasks, read_task
from culet.files.atomic import write_json

# The analyser and n-gram range with the best mean over the bundled tasks of those in VARIANTS.
BEST = ("char_wb", 2, 5)
VARIANTS = (BEST, ("char_wb", 3, 5), ("char_wb", 2, 4), ("char", 2, 5), ("char", 3, 5))


class Tfidf:
    """TF-IDF vectors of a fixed set of texts, behind the two methods an evaluated model has.

    Args:
        texts: every text that will be asked for.
        analyzer: "char" or "char_wb" (n-grams do not cross a word's end), as in scikit-learn.
        shortest: the least n of the n-grams.
        longest: the greatest n.
    """

    def __init__(self, texts: Sequence[str], *, analyzer: str, shortest: int, longest: int) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        distinct = list(dict.fromkeys(texts))
        vectorizer = TfidfVectorizer(
            analyzer=analyzer, ngram_range=(shortest, longest), sublinear_tf=True
        )
        sparse = vectorizer.fit_transform(distinct)
        gram = (sparse @ sparse.T).toarray()
        values, vectors = np.linalg.eigh(gram)
        rows = vectors * np.sqrt(np.clip(values, 0.0, None))
        self._rows: NDArray[np.float32] = rows[:, ::-1].astype(np.float32)  # largest part first
        self._place = {text: place for place, text in enumerate(distinct)}

    def encode_query(
        self,
        texts: Sequence[str],
        *,
        task: str = "search",
        instruction: str | None = None,
        truncate_to: int | None = None,
    ) -> NDArray[np.float32]:
        """Return the rows of the texts; task and instruction make no difference to n-grams."""
        return self.encode_document(texts, truncate_to=truncate_to)

    def encode_document(
        self,
        texts: Sequence[str],
        *,
        titles: Sequence[str] | None = None,
        truncate_to: int | None = None,
    ) -> NDArray[np.float32]:
        """Return the rows of the texts."""
        if titles is not None or truncate_to is not None:
            raise ValueError("TF-IDF rows have no separate titles and no widths")
        return self._rows[[self._place[text] for text in texts]]


def score_tasks(folder: Path, variant: tuple[str, int, int] = BEST) -> dict[str, dict[str, Any]]:
    """Return task name → type and main score of the baseline."""
    analyzer, shortest, longest = variant
    scores = {}
    for info in list_tasks(folder):
        task = read_task(info.folder)
        model = Tfidf(
            list(embedded_texts(task)), analyzer=analyzer, shortest=shortest, longest=longest
        )
        scores[info.name] = {"type": info.type, "score": evaluate(model, task).main_score}
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tasks", type=Path, help="folder of task folders")
    parser.add_argument("--out", type=Path, help="JSON file for the scores")
    parser.add_argument("--all", action="store_true", help="score every variant, not only the best")
    options = parser.parse_args()
    results = []
    for variant in VARIANTS if options.all else (BEST,):
        scores = score_tasks(options.tasks, variant)
        mean = float(np.mean([entry["score"] for entry in scores.values()]))
        results.append({"variant": list(variant), "tasks": scores, "mean": mean})
        print(f"TF-IDF {variant[0]} {variant[1]}-{variant[2]}")
        for name, entry in scores.items():
            print(f"  {name:24} {entry['type']:20} {100 * entry['score']:6.2f}")
        print(f"  {'mean over tasks':45} {100 * mean:6.2f}")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.out, {"machine": describe(), "results": results})


if __name__ == "__main__":
    main()
