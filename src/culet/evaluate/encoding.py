"""The interface of an evaluated model, and which texts of a task are embedded in which role."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from culet.errors import InputError
from culet.evaluate.tasks import (
    ClassificationData,
    EvalTask,
    LabelledTexts,
    Pairs,
    RerankingData,
    RetrievalData,
    SubsetData,
    TaskInfo,
)
from culet.vectors.codes import calibrate_int8, round_to
from culet.vectors.similarity import Vectors, unit

Titles = Literal["joined", "separate"]

QUERY_TASKS: dict[str, str] = {
    "retrieval": "search",
    "reranking": "search",
    "sts": "similarity",
    "pair_classification": "similarity",
    "classification": "classification",
    "clustering": "clustering",
    "bitext": "search",
}
"""The prompt task of the queries of each task type; retrieval of code takes "code" instead."""


class Model(Protocol):
    """The two methods an evaluated model has; both return unit rows [B, E]."""

    def encode_query(
        self,
        texts: Sequence[str],
        *,
        task: str = ...,
        instruction: str | None = ...,
        truncate_to: int | None = ...,
    ) -> Vectors:
        """Embed queries, or the texts of a symmetric task."""
        ...

    def encode_document(
        self,
        texts: Sequence[str],
        *,
        titles: Sequence[str] | None = ...,
        truncate_to: int | None = ...,
    ) -> Vectors:
        """Embed documents, with their titles if they have any."""
        ...


@runtime_checkable
class TaskModel(Protocol):
    """A model that reads all texts of a task first, as TF-IDF does for its frequencies."""

    def fitted(self, task: EvalTask) -> Model:
        """Return the model for the texts of one task."""
        ...


@dataclass(frozen=True)
class Settings:
    """How a task is presented to the model, and sampled.

    Attributes:
        seed: of every sample and classifier.
        instructions: a text for queries in place of the prompt task: {task name: instruction},
            or "task" for the instruction that task.json names; None uses the prompt task.
        query_tasks: {task name: prompt task}, where the default by type does not fit.
        titles: "joined" puts a document's title in front of its text, as MTEB does; "separate"
            passes titles to the model.
    """

    seed: int = 42
    instructions: Mapping[str, str] | Literal["task"] | None = None
    query_tasks: Mapping[str, str] | None = None
    titles: Titles = "joined"

    def __post_init__(self) -> None:
        if self.titles not in get_args(Titles):
            raise InputError(
                f"titles must be one of {', '.join(get_args(Titles))}, got {self.titles!r}"
            )

    def instruction(self, info: TaskInfo) -> str | None:
        """Return the instruction for the task's queries, None when it has none."""
        if self.instructions == "task":
            return info.prompt
        if isinstance(self.instructions, Mapping):
            return self.instructions.get(info.name) or self.instructions.get(info.mteb_name or "")
        return None

    def query_task(self, info: TaskInfo) -> str:
        """Return the prompt task of the task's queries."""
        if self.query_tasks and info.name in self.query_tasks:
            return self.query_tasks[info.name]
        code = any(language.endswith("-Code") for language in info.languages)
        if info.type in ("retrieval", "reranking") and (code or "Programming" in info.domain):
            return "code"
        return QUERY_TASKS[info.type]


@dataclass(frozen=True)
class Distinct:
    """Vectors of the distinct texts of a role [U, E], and which of them each row has [B]."""

    vectors: Vectors
    rows: NDArray[np.intp]


def embed(
    model: Model, info: TaskInfo, data: SubsetData, settings: Settings
) -> dict[str, Distinct]:
    """Embed the texts of a subset at full width, each distinct text once per role.

    Returns:
        By role: query and document (retrieval, reranking), a and b (pairs), train and test
        (classification), or text (clustering).
    """
    queries, documents, titles = texts_by_role(data, settings.titles)
    distinct = list(dict.fromkeys(text for texts in queries.values() for text in texts))
    vectors = _checked(
        model.encode_query(
            distinct, task=settings.query_task(info), instruction=settings.instruction(info)
        ),
        len(distinct),
    )
    roles = {role: Distinct(vectors, _rows(texts, distinct)) for role, texts in queries.items()}
    if documents:
        keys = list(zip(titles, documents, strict=True))
        once = list(dict.fromkeys(keys))
        texts = [text for _, text in once]
        separate = [title for title, _ in once] if settings.titles == "separate" else None
        vectors = _checked(model.encode_document(texts, titles=separate), len(once))
        roles["document"] = Distinct(vectors, _rows(keys, once))
    return roles


def texts_by_role(
    data: SubsetData, titles: Titles
) -> tuple[dict[str, Sequence[str]], list[str], list[str]]:
    """Return the texts of each query role, the documents, and a title for each document."""
    if isinstance(data, Pairs):
        return {"a": data.a, "b": data.b}, [], []
    if isinstance(data, LabelledTexts):
        return {"text": data.texts}, [], []
    if isinstance(data, ClassificationData):
        return {"train": data.train.texts, "test": data.test.texts}, [], []
    if isinstance(data, RerankingData):
        both = zip(data.positives, data.negatives, strict=True)
        texts = [text for right, wrong in both for text in (*right, *wrong)]
        return {"query": data.queries}, texts, [""] * len(texts)
    return _retrieval_texts(data, titles)


def task_texts(task: EvalTask) -> Iterator[tuple[str, str]]:
    """Yield (role, text) of every text of a task, for checks of training data.

    Roles are "query", "document", "title", "train" (of classification) and "text". Documents come
    without their titles; a title shared by several documents of a subset comes once.
    """
    for data in task.subsets.values():
        queries, documents, titles = texts_by_role(data, "separate")
        for role, texts in queries.items():
            name = role if role in ("query", "train") else "text"
            yield from ((name, text) for text in texts)
        yield from (("document", text) for text in documents)
        yield from (("title", title) for title in dict.fromkeys(titles) if title.strip())


def embedded_texts(task: EvalTask) -> Iterator[str]:
    """Yield every text of a task as a model is given it, titles joined to their documents."""
    for data in task.subsets.values():
        queries, documents, _ = texts_by_role(data, "joined")
        for texts in queries.values():
            yield from texts
        yield from documents


def _retrieval_texts(
    data: RetrievalData, titles: Titles
) -> tuple[dict[str, Sequence[str]], list[str], list[str]]:
    if titles == "separate":
        return {"query": data.queries}, list(data.documents), list(data.titles)
    joined = [
        f"{title} {text}".strip() if title else text.strip()
        for title, text in zip(data.titles, data.documents, strict=True)
    ]
    return {"query": data.queries}, joined, [""] * len(joined)


def _rows(items: Sequence[object], distinct: Sequence[object]) -> NDArray[np.intp]:
    place = {item: row for row, item in enumerate(distinct)}
    return np.array([place[item] for item in items], dtype=np.intp)


def _checked(vectors: Vectors, count: int) -> Vectors:
    vectors = np.asarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != count:
        raise InputError(f"expected {count} embeddings from the model, got shape {vectors.shape}")
    if not np.isfinite(vectors).all():
        bad = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise InputError(
            f"expected finite embeddings, got NaN or infinity for text {bad + 1} of {count}; "
            "the model is damaged or overflows at this precision"
        )
    return vectors


def narrow(
    roles: Mapping[str, Distinct], *, truncate_to: int | None, precision: str
) -> dict[str, Distinct]:
    """Return the vectors truncated to a width, normalised again, then rounded to a precision.

    int8 ranges come from the documents where there are any, else from all texts of the subset.

    Raises:
        InputError: when the vectors are narrower than the width, or the precision is unknown.
    """
    if truncate_to is not None:
        roles = _each(roles, lambda vectors: _cut(vectors, truncate_to))
    ranges = None
    if precision == "int8":
        seen = [roles["document"]] if "document" in roles else list(roles.values())
        once = {id(role.vectors): role.vectors for role in seen}
        ranges = calibrate_int8(np.concatenate(list(once.values())))
    return _each(roles, lambda vectors: round_to(vectors, precision, ranges=ranges))


def _each(
    roles: Mapping[str, Distinct], change: Callable[[Vectors], Vectors]
) -> dict[str, Distinct]:
    """Change the vectors of every role, once where roles share them."""
    once = {id(d.vectors): d.vectors for d in roles.values()}
    changed = {key: change(vectors) for key, vectors in once.items()}
    return {role: replace(d, vectors=changed[id(d.vectors)]) for role, d in roles.items()}


def _cut(vectors: Vectors, width: int) -> Vectors:
    if not 1 <= width <= vectors.shape[1]:
        raise InputError(
            f"truncate_to must be from 1 to the model's width {vectors.shape[1]}, got {width}"
        )
    if width == vectors.shape[1]:
        return vectors
    return unit(vectors[:, :width])
