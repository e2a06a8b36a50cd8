"""Second opinions on mined documents: grades given in a file, and a cross-encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from culet.data.mining.rules import fuse
from culet.errors import CheckpointError, InputError, need
from culet.files.fields import number_of, text_of
from culet.files.rows import read_rows
from culet.text.keys import key


class Judge(Protocol):
    """Scores how relevant some documents are to a query; higher is more relevant."""

    def __call__(self, query: str, documents: Sequence[str]) -> list[np.ndarray]:
        """Return one or more lists of scores, NaN where it has no opinion."""


@dataclass(frozen=True)
class RescoreConfig:
    """Judges of the nearest documents beside the embedder.

    Attributes:
        cross_encoder: Folder of a sentence-transformers CrossEncoder. A document that it scores
            at least as high as the positive is no negative.
        grades: JSONL of {"query", "document", "grade", "by"?}; see `Grades`. Where one of a query's
            documents has a grade, those that no judge has an opinion of are no negatives.
        max_grade: A document with a grade above this is right, and no negative.
        with_embedder: Let the embedder's own ranking be one of those that are fused.
    """

    cross_encoder: Path | None = None
    grades: Path | None = None
    max_grade: float | None = None
    with_embedder: bool = False


def judges_of(config: RescoreConfig, device: str) -> list[Judge]:
    """Return who judges.

    Raises:
        CheckpointError: If the cross-encoder cannot be read.
        InputError: If there is no grade, or a bad one.
    """
    judges: list[Judge] = []
    if config.cross_encoder is not None:
        judges.append(CrossEncoderJudge(config.cross_encoder, device=device))
    if config.grades is not None:
        judges.append(Grades(config.grades))
    return judges


def ranked(
    judges: Sequence[Judge],
    config: RescoreConfig,
    query: str,
    positive: str,
    documents: Sequence[str],
    scores: np.ndarray,
) -> tuple[np.ndarray, int]:
    """Return places of documents in the order of all judges, and how many none of them judged.

    Left out are documents held for right, and those that no judge has an opinion of: they would be
    last for want of a term, and "lowest" would take them. Where no judge has an opinion of any,
    nothing but the embedder tells them apart, and its order stays.

    Args:
        judges: Whose rankings are fused.
        config: What else counts.
        query: What they are about.
        positive: The document that is right; a cross-encoder holds for right what it scores at
            least as high.
        documents: What is ranked.
        scores: Similarities by the embedder.
    """
    rankings = [scores.astype(np.float64)] if config.with_embedder else []
    wrong = np.ones(len(documents), dtype=bool)
    judged = np.zeros(len(documents), dtype=bool)
    for judge in judges:
        for opinion in judge(query, [*documents, positive]):
            if isinstance(judge, CrossEncoderJudge):
                wrong &= opinion[:-1] < opinion[-1]
            elif config.max_grade is not None:
                wrong &= ~(opinion[:-1] > config.max_grade)
            judged |= ~np.isnan(opinion[:-1])
            rankings.append(opinion[:-1])
    order = fuse(rankings)
    taken = wrong & judged if judged.any() else wrong
    return order[taken[order]], int((~judged).sum())


class Grades:
    """Grades from JSONL rows {"query", "document", "grade", "by"?}; each `by` is a ranking.

    Gemini Embedding grades with two prompts, so a file of its kind has two values of `by`. Kept
    as a hash and a number a row.

    Args:
        path: A file or a folder of files.
    """

    def __init__(self, path: Path) -> None:
        keys: dict[str, list[int]] = {}
        grades: dict[str, list[float]] = {}
        for row in read_rows([path], columns=("query", "document", "grade", "by")):
            by = str(row.value.get("by", ""))
            grades.setdefault(by, []).append(number_of(row, "grade"))
            keys.setdefault(by, []).append(key(text_of(row, "query"), text_of(row, "document")))
        self._by = []
        for by, unsorted in keys.items():
            order = np.argsort(np.array(unsorted), kind="stable")
            self._by.append((np.array(unsorted)[order], np.array(grades[by])[order]))
        if not self._by:
            raise InputError(f"{path} holds no grade")

    def __call__(self, query: str, documents: Sequence[str]) -> list[np.ndarray]:
        """Return the grades of each `by`, NaN for documents it has not graded."""
        wanted = np.array([key(query, document) for document in documents], dtype=np.int64)
        found = []
        for keys, grades in self._by:
            place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            found.append(np.where(keys[place] == wanted, grades[place], np.nan))
        return found


class CrossEncoderJudge:
    """A sentence-transformers CrossEncoder from a local folder, in float32 logits.

    Args:
        folder: The model.
        device: Where it computes.
        batch_size: Pairs at once.

    Raises:
        MissingExtra: If sentence-transformers is not installed.
        CheckpointError: If there is no such model there.
    """

    def __init__(self, folder: Path, *, device: str = "cpu", batch_size: int = 64) -> None:
        need("sentence_transformers", extra="rerank", purpose="a cross-encoder")
        from sentence_transformers import CrossEncoder

        if not (folder / "config.json").exists():
            raise CheckpointError(f"{folder} holds no cross-encoder: it has no config.json")
        try:
            self._model = CrossEncoder(str(folder), device=device, local_files_only=True)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{folder} holds no cross-encoder: {error}") from error
        if self._model.num_labels != 1:
            raise CheckpointError(
                f"{folder} gives {self._model.num_labels} numbers for a pair, expected one score"
            )
        self._batch_size = batch_size

    def __call__(self, query: str, documents: Sequence[str]) -> list[np.ndarray]:
        """Return the score of each document."""
        scores = self._model.predict(
            [(query, document) for document in documents],
            batch_size=self._batch_size,
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        return [np.asarray(scores, dtype=np.float64)]
