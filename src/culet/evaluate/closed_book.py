"""Exact match of answers that a model writes without looking anything up.

An answer counts if it equals one of the right ones after both are normalised as the question
answering tasks of the field do it: compatibility characters and case folded, punctuation and the
English articles dropped, spaces joined.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from culet.errors import InputError


def normalized(answer: str) -> str:
    """Return an answer as it is compared."""
    text = unicodedata.normalize("NFKC", answer).casefold()
    text = "".join(" " if unicodedata.category(c)[0] == "P" else c for c in text)
    words = [word for word in re.split(r"\s+", text) if word not in ("", "a", "an", "the")]
    # an answer of articles only ("The The") is itself
    return " ".join(words) or text.strip()


def is_match(prediction: str, answers: Sequence[str]) -> bool:
    """Return whether a prediction is one of the right answers; an empty one never is."""
    given = normalized(prediction)
    return bool(given) and given in {normalized(answer) for answer in answers}


def exact_match(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> float:
    """Return the share of the predictions that match, from 0 to 1.

    Raises:
        InputError: If there is nothing to score, or not one prediction a question.
    """
    if len(predictions) != len(answers) or not answers:
        raise InputError(
            "exact match needs one prediction for each question, and at least one; got "
            f"{len(predictions)} predictions for {len(answers)} questions"
        )
    hits = sum(is_match(p, right) for p, right in zip(predictions, answers, strict=True))
    return hits / len(answers)
