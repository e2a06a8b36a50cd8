"""Tasks whose score means nothing: whatever a model does, the protocol gives the same number."""

from __future__ import annotations

from collections.abc import Sequence

from culet.errors import InputError
from culet.evaluate.tasks import (
    ClassificationData,
    LabelledTexts,
    Pairs,
    RerankingData,
    RetrievalData,
    SubsetData,
)


def degenerate(data: SubsetData, task_type: str) -> str | None:
    """Return why the score of a subset says nothing of a model; None if it may say something."""
    if isinstance(data, Pairs):
        return _of_pairs(data, task_type)
    if isinstance(data, LabelledTexts):
        return None if len(set(data.labels)) > 1 else "all texts have one label"
    if isinstance(data, ClassificationData):
        if len(set(data.test.labels)) < 2:
            return "all test texts have one label"
        return None
    if isinstance(data, RerankingData):
        return None if any(data.negatives) else "no query has a wrong candidate"
    return _of_retrieval(data)


def _of_pairs(data: Pairs, task_type: str) -> str | None:
    if len(data.a) < 2:
        return "there is one pair only"
    if task_type == "bitext":
        same = next((side for side in (data.a, data.b) if len(set(side)) < 2), None)
        return None if same is None else "one side is the same text in all pairs"
    if len(set(data.target)) < 2:
        what = "score" if task_type == "sts" else "label"
        return f"all pairs have one {what}"
    if len(set(zip(data.a, data.b, strict=True))) < 2:
        return "all pairs are the same texts"
    return None


def _of_retrieval(data: RetrievalData) -> str | None:
    right = {
        query: {document for document, gain in gains.items() if gain > 0}
        for query, gains in data.qrels.items()
    }
    if not any(right.values()):
        return "no query has a document with a gain above zero"
    if all(len(documents) == len(data.document_ids) for documents in right.values()):
        return "every document is right for every query"
    return None


def check_trainable(labels: Sequence[str], name: str) -> None:
    """Raise InputError if the training rows of a classification have one label only."""
    if len(set(labels)) < 2:
        raise InputError(
            f"{name}: expected training rows of two labels or more, got only {labels[0]!r}: no "
            "classifier can be fitted, and a score would mean nothing; add rows of other labels"
        )
