"""Hard negatives by words: the row whose key is most alike, but not the same."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from building.text import normalise

RARE = 60  # rows; words of more rows are not looked up
SAME = 0.6  # Jaccard similarity of two keys above which they may mean the same


def nearest(keys: Sequence[str]) -> list[int | None]:
    """Return, for each key, the index of the key that shares its rarest words, or None.

    Keys whose word sets overlap by more than `SAME` are passed over: they may well be
    paraphrases, and a paraphrase's answer would be a false negative.
    """
    words = [frozenset(normalise(key).split()) for key in keys]
    holders: dict[str, list[int]] = defaultdict(list)
    for index, bag in enumerate(words):
        for word in bag:
            holders[word].append(index)
    return [_best(index, words, holders) for index in range(len(keys))]


def _best(index: int, words: Sequence[frozenset[str]], holders: dict[str, list[int]]) -> int | None:
    score: dict[int, float] = defaultdict(float)
    for word in words[index]:
        rows = holders[word]
        if len(rows) <= RARE:
            for other in rows:
                score[other] += math.log(len(words) / len(rows))
    for other, _ in sorted(score.items(), key=lambda item: (-round(item[1], 6), item[0])):
        union = words[index] | words[other]
        if other != index and len(words[index] & words[other]) <= SAME * len(union):
            return other
    return None
