"""Every text of an evaluation task, with the role it has there; for checks of training data."""

from __future__ import annotations

from collections.abc import Iterator

from culet.evaluate.tasks import (
    ClassificationData,
    EvalTask,
    LabelledTexts,
    Pairs,
    RerankingData,
    RetrievalData,
    SubsetData,
)


def task_texts(task: EvalTask) -> Iterator[tuple[str, str]]:
    """Yield (role, text): "query", "document", "title", "train" (of classification) or "text".

    Documents come without their titles; a title that several documents have comes once.
    """
    for data in task.subsets.values():
        yield from _texts(data)


def _texts(data: SubsetData) -> Iterator[tuple[str, str]]:
    if isinstance(data, Pairs):
        yield from (("text", text) for column in (data.a, data.b) for text in column)
    elif isinstance(data, LabelledTexts):
        yield from (("text", text) for text in data.texts)
    elif isinstance(data, ClassificationData):
        yield from (("train", text) for text in data.train.texts)
        yield from (("text", text) for text in data.test.texts)
    elif isinstance(data, RetrievalData):
        yield from (("query", text) for text in data.queries)
        yield from (("document", text) for text in data.documents)
        yield from (("title", title) for title in dict.fromkeys(data.titles) if title.strip())
    elif isinstance(data, RerankingData):
        yield from (("query", text) for text in data.queries)
        for candidates in (*data.positives, *data.negatives):
            yield from (("document", text) for text in candidates)
