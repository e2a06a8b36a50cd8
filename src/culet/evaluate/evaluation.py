"""One task from texts to scores: embed once, then score at every width and precision."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from culet.errors import InputError
from culet.evaluate import protocols
from culet.evaluate.degenerate import check_trainable, degenerate
from culet.evaluate.encoding import Model, Settings, embed, narrow
from culet.evaluate.protocols import Scores
from culet.evaluate.tasks import (
    WHOLE,
    ClassificationData,
    EvalTask,
    LabelledTexts,
    Pairs,
    RerankingData,
    RetrievalData,
    SubsetData,
    TaskInfo,
)
from culet.vectors.similarity import Vectors


@dataclass(frozen=True)
class TaskResult:
    """The scores of one task at one width and precision.

    Attributes:
        info: the task.
        subsets: the scores of each subset, each with a main_score.
        truncate_to: the kept width, None for the model's own.
        precision: of the vectors.
        seconds: spent on embedding and scoring.
        degenerate: {subset: why its score means nothing}, for those where it does not.
        replicates: of each subset's main score, over bootstrap samples of its items; see
            `culet.evaluate.intervals`. Empty where a score cannot be resampled.
    """

    info: TaskInfo
    subsets: Mapping[str, Scores]
    truncate_to: int | None
    precision: str
    seconds: float
    replicates: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    degenerate: Mapping[str, str] = field(default_factory=dict)

    @property
    def main_score(self) -> float:
        """The plain mean of the subsets' main scores, from 0 to 1 (-1 for correlations)."""
        return float(np.mean([scores["main_score"] for scores in self.subsets.values()]))

    @property
    def missing(self) -> str | None:
        """Why there is no score, if one of the subsets has none: it is not a number."""
        for subset, scores in self.subsets.items():
            if not np.isfinite(scores["main_score"]):
                of = "" if subset == WHOLE else f"the subset {subset}: "
                why = self.degenerate.get(subset, "the model's similarities are all equal")
                return f"{of}its score is not a number, so it is left out of all means: {why}"
        return None

    @property
    def meaningless(self) -> str | None:
        """Why the score means nothing, if it does in one of the subsets."""
        whole = [f"{'' if s == WHOLE else f'subset {s}: '}{w}" for s, w in self.degenerate.items()]
        return "; ".join(whole) or None


def mean_main_score(results: Sequence[TaskResult]) -> float:
    """Return the mean main score of some tasks.

    Raises:
        InputError: if one of them has no score, which no mean may leave out.
    """
    for result in results:
        if result.missing:
            raise InputError(f"{result.info.name}: {result.missing}; a mean needs them all")
    return sum(result.main_score for result in results) / len(results)


def evaluate(
    model: Model,
    task: EvalTask,
    *,
    truncate_to: int | None = None,
    precision: str = "float32",
    settings: Settings | None = None,
) -> TaskResult:
    """Embed and score one task at one width and precision.

    Args:
        model: anything with encode_query and encode_document.
        task: from read_task.
        truncate_to: the kept width, None for the model's own.
        precision: float32, bfloat16, int8 or binary.
        settings: seed, instructions and titles; the defaults are MTEB's.

    Raises:
        InputError: when the model returns the wrong number of rows or numbers that are not
            finite, or the width, precision or metric is not available.
    """
    widths, precisions = [truncate_to], [precision]
    return evaluate_widths(model, task, widths=widths, precisions=precisions, settings=settings)[0]


def evaluate_widths(
    model: Model,
    task: EvalTask,
    *,
    widths: Sequence[int | None] = (None,),
    precisions: Sequence[str] = ("float32",),
    settings: Settings | None = None,
) -> list[TaskResult]:
    """Embed one task once and score it at every pair of width and precision, widths outermost.

    The arguments and errors are those of evaluate; None among the widths is the model's own.
    """
    settings = settings or Settings()
    variants = [(width, precision) for width in widths for precision in precisions]
    scores: list[dict[str, Scores]] = [{} for _ in variants]
    replicates: list[dict[str, tuple[float, ...]]] = [{} for _ in variants]
    scoring_seconds = [0.0] * len(variants)
    embedding_seconds = 0.0
    # One generator for the whole task: MTEB's clusterings keep drawing from subset to subset.
    rng = random.Random(settings.seed)
    found_degenerate = {s: degenerate(d, task.info.type) for s, d in task.subsets.items()}
    degenerate_subsets = {subset: why for subset, why in found_degenerate.items() if why}
    for subset, whole in task.subsets.items():
        data, draws = _sampled(task.info, whole, rng, settings.seed)
        start = time.perf_counter()
        roles = embed(model, task.info, data, settings)
        embedding_seconds += time.perf_counter() - start
        state = rng.getstate()
        for place, (width, precision) in enumerate(variants):
            start = time.perf_counter()
            rng.setstate(state)  # every variant sees the same draws
            cut = narrow(roles, truncate_to=width, precision=precision)
            vectors = {role: distinct.vectors[distinct.rows] for role, distinct in cut.items()}
            found = _score(task.info, subset, data, vectors, draws, rng, settings.seed)
            if (drawn := found.pop("replicates", None)) is not None:
                replicates[place][subset] = tuple(round(float(x), 5) for x in drawn)
            scores[place][subset] = found
            scoring_seconds[place] += time.perf_counter() - start
    return [
        TaskResult(
            task.info,
            scores[place],
            width,
            precision,
            embedding_seconds + seconds,
            replicates[place],
            degenerate_subsets,
        )
        for place, ((width, precision), seconds) in enumerate(
            zip(variants, scoring_seconds, strict=True)
        )
    ]


def _sampled(
    info: TaskInfo, data: SubsetData, rng: random.Random, seed: int
) -> tuple[SubsetData, list[list[int]]]:
    """Return only the rows the protocol will use, and the training draws of a classification."""
    if info.type == "clustering":
        texts = cast(LabelledTexts, data)
        return _rows_of(
            texts, protocols.draw_documents(len(texts.texts), info.protocol, rng=rng)
        ), []
    if info.type != "classification":
        return data, []
    if info.protocol.get("is_cross_validation"):
        raise InputError(
            f"{info.name}: expected a task with training rows of its own, got "
            "is_cross_validation = true, which culet does not score; run it with mteb"
        )
    parts = cast(ClassificationData, data)
    check_trainable(parts.train.labels, info.name)
    draws = protocols.draw_training_rows(
        parts.train.labels,
        samples_per_label=int(info.protocol.get("samples_per_label", 8)),
        num_experiments=int(info.protocol.get("n_experiments", 10)),
        seed=seed,
    )
    used = sorted({row for draw in draws for row in draw})
    place = {row: number for number, row in enumerate(used)}
    kept = ClassificationData(_rows_of(parts.train, used), parts.test)
    return kept, [[place[row] for row in draw] for draw in draws]


def _rows_of(texts: LabelledTexts, rows: Sequence[int]) -> LabelledTexts:
    return LabelledTexts(
        tuple(texts.texts[row] for row in rows), tuple(texts.labels[row] for row in rows)
    )


def _score(
    info: TaskInfo,
    subset: str,
    data: SubsetData,
    vectors: Mapping[str, Vectors],
    draws: Sequence[Sequence[int]],
    rng: random.Random,
    seed: int,
) -> Scores:
    name = f"{info.name}/{subset}"
    if isinstance(data, Pairs):
        score = {
            "sts": protocols.sts,
            "pair_classification": protocols.pair_classification,
            "bitext": protocols.bitext,
        }[info.type]
        return score(data, vectors["a"], vectors["b"], metric=info.metric, name=name)
    if isinstance(data, RetrievalData):
        query, document = vectors["query"], vectors["document"]
        return protocols.retrieval(data, query, document, metric=info.metric, name=name)
    if isinstance(data, RerankingData):
        query, document = vectors["query"], vectors["document"]
        return protocols.reranking(data, query, document, metric=info.metric, name=name)
    if isinstance(data, ClassificationData):
        return protocols.classification(
            vectors["train"],
            data.train.labels,
            vectors["test"],
            data.test.labels,
            draws=draws,
            seed=seed,
            metric=info.metric,
            name=name,
        )
    sizes: dict[str, Any] = {
        "num_draws": info.protocol.get("n_clusters", 10),
        "rows_per_draw": info.protocol.get("max_documents_per_cluster", 16_384),
        "batch_size": info.protocol.get("k_mean_batch_size", 512),
    }
    return protocols.clustering(
        data.labels, vectors["text"], rng=rng, seed=seed, metric=info.metric, name=name, **sizes
    )
