"""Questions in four languages over files of the Python standard library, and who answers them.

    python benchmarks/search_questions.py [--model FOLDER] [--beside FOLDER ...] [--misses]

Every contender ranks the same chunks, those that `culet search` makes: BM25 over words, letters
hashed without training, a model of culet (the packaged one if none is named), and any
sentence-transformers folder named with --beside, run by that library.
"""

from __future__ import annotations

import argparse
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import machine
import numpy as np
from numpy.typing import NDArray

import culet
from culet.evaluate.answers import (
    FIRST,
    Question,
    first_right,
    read_questions,
    reciprocal_rank,
    right_passages,
    success,
)
from culet.evaluate.encoding import Model
from culet.evaluate.floors import letters
from culet.evaluate.peers import SentenceTransformerModel
from culet.search.documents import Chunk, read_corpus
from culet.terminal.tables import aligned

SET = Path(__file__).parent.parent / "demo/data/search"
Scores = NDArray[np.float64]


class BM25:
    """Okapi BM25 with Lucene's idf and settings, over lower-case words; `_` and `.` divide words.

    Args:
        texts: what is searched.
        k1: how soon more of the same word adds nothing.
        b: how much longer texts are held back, 0 to 1.
    """

    def __init__(self, texts: Sequence[str], *, k1: float = 1.2, b: float = 0.75) -> None:
        counts = [Counter(words(text)) for text in texts]
        lengths = np.array([count.total() for count in counts])
        self._size = len(texts)
        self._damping = k1 * (1 - b + b * lengths / lengths.mean())
        self._k1 = k1
        self._postings: dict[str, list[tuple[int, int]]] = {}
        for i, count in enumerate(counts):
            for word, times in count.items():
                self._postings.setdefault(word, []).append((i, times))

    def scores(self, query: str) -> Scores:
        """Return the score of each text."""
        scores = np.zeros(self._size)
        for word in words(query):
            postings = self._postings.get(word, [])
            idf = math.log(1 + (self._size - len(postings) + 0.5) / (len(postings) + 0.5))
            for i, times in postings:
                scores[i] += idf * times * (self._k1 + 1) / (times + self._damping[i])
        return scores


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def read_set() -> tuple[list[Question], tuple[Chunk, ...]]:
    """Return the bundled questions, and the chunks of the bundled files as a search makes them."""
    return read_questions(SET / "questions.jsonl"), read_corpus(SET / "corpus").chunks


def bm25_scores(questions: Sequence[Question], chunks: Sequence[Chunk]) -> Scores:
    """Return the BM25 score of each chunk for each question [Q, P]."""
    bm25 = BM25(titled(chunks))
    return np.stack([bm25.scores(question.text) for question in questions])


def model_scores(model: Model, questions: Sequence[Question], chunks: Sequence[Chunk]) -> Scores:
    """Return the cosine of each chunk with each question [Q, P]."""
    if isinstance(model, culet.Embedder) and model.prompts.takes_title:
        titles = [chunk.title for chunk in chunks]
        document = model.encode_document([chunk.text for chunk in chunks], titles=titles)
    else:
        document = model.encode_document(titled(chunks))
    query = model.encode_query([question.text for question in questions])
    return query.astype(np.float64) @ document.T.astype(np.float64)


def titled(chunks: Sequence[Chunk]) -> list[str]:
    """Return the chunks with their titles above them, as a model without titles is given them."""
    return [f"{chunk.title}\n{chunk.text}" if chunk.title else chunk.text for chunk in chunks]


def compare(model: str | None, beside: Sequence[Path] = (), *, misses: bool = False) -> dict:
    """Rank the chunks by every contender, print the scores by language, and return them."""
    questions, chunks = read_set()
    right = right_passages(questions, chunks)
    contenders: dict[str, Model] = {"letters": letters(), "culet": culet.load(model, device="cpu")}
    contenders |= {folder.name: SentenceTransformerModel(folder) for folder in beside}
    scores = {"BM25": bm25_scores(questions, chunks)}
    scores |= {name: model_scores(each, questions, chunks) for name, each in contenders.items()}
    ranks = {name: first_right(each, right) for name, each in scores.items()}
    print(f"{len(questions)} questions, {len(chunks)} chunks")
    result: dict[str, Any] = {"questions": len(questions), "chunks": len(chunks)}
    for title, measure in ((f"success@{FIRST}", success), ("MRR", reciprocal_rank)):
        means = {name: measure(questions, each) for name, each in ranks.items()}
        bar = means["BM25"]
        rows = [("", "BM25", *(f"{name} (less BM25)" for name in list(means)[1:]))]
        for group, base in bar.items():
            cells = (
                f"{100 * each[group].score:.1f} ({each[group].less(base).signed()})"
                for name, each in means.items()
                if name != "BM25"
            )
            rows.append((group, f"{100 * base.score:.1f}", *cells))
        print(f"\n{title}", *aligned(rows), sep="\n")
        result[title] = {
            name: {group: mean.score for group, mean in each.items()}
            for name, each in means.items()
        }
    result["ranks"] = {
        question.id: {name: int(each[i]) for name, each in ranks.items()}
        for i, question in enumerate(questions)
    }
    if misses:
        show_misses(questions, chunks, scores, ranks)
    return result


def show_misses(
    questions: Sequence[Question],
    chunks: Sequence[Chunk],
    scores: dict[str, Scores],
    ranks: dict[str, NDArray[np.intp]],
) -> None:
    """Print what stands before the first right chunk, to judge whether it is wrong indeed."""
    for i, question in enumerate(questions):
        print(f"\n{question.id} {question.text}")
        for name, each in scores.items():
            first = np.argsort(-each[i], kind="stable")[: min(FIRST, ranks[name][i] - 1)]
            places = [f"{chunks[j].path}:{chunks[j].first_line}" for j in first]
            print(f"  {name} (right at {ranks[name][i]}): {', '.join(places)}")


def main() -> None:
    """Compare and write benchmarks/results/search_questions.json."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="a checkpoint folder; the packaged model if left out")
    parser.add_argument("--beside", type=Path, nargs="*", default=[], help="other models")
    parser.add_argument(
        "--misses", action="store_true", help="print what stands before the first right chunk"
    )
    options = parser.parse_args()
    result = compare(options.model, options.beside, misses=options.misses)
    machine.write("search_questions", result)


if __name__ == "__main__":
    main()
