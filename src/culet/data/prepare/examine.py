"""The first pass over training rows: read, judge each by itself, leave what finds duplicates.

Of every row three fixed-size facts are left in files, in order: one byte of verdict, a key of 16
bytes for exact duplicates, a MinHash signature for near ones.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from culet.data.prepare.chunks import PairOrText, RowChunk, pair_or_text
from culet.data.prepare.contamination import ContaminationConfig, OverlapIndex
from culet.data.prepare.dedup import KEY
from culet.data.prepare.filters import (
    Identifier,
    LanguageConfig,
    LengthConfig,
    language_reason,
    length_reason,
)
from culet.data.prepare.minhash import MinHasher, NearConfig
from culet.errors import InputError
from culet.text.keys import normalised_key

# A verdict is the place of its reason in this list; a row with the first stays.
REASONS = (
    "kept",
    "bad line",
    "short",
    "long",
    "identical",
    "language",
    "contaminated",
    "exact",
    "near",
    "inconsistent",
    "low grade",
)
VERDICTS = {reason: number for number, reason in enumerate(REASONS)}
_SHOWN_CHARACTERS = 160


@dataclass
class RowTally:
    """What was counted, and some examples; a sum of tallies is the tally of all.

    Attributes:
        counts: Names joined by tabs to numbers of rows.
        examples: The same names to a few examples.
        keep: How many examples are kept of each name.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    keep: int = 3

    def add(self, *names: str, example: dict[str, str] | None = None) -> None:
        """Count one row under a name of several parts."""
        name = "\t".join(names)
        self.counts[name] += 1
        if example is not None and self.counts[name] <= self.keep:
            self.examples.setdefault(name, []).append(example)

    def join(self, other: RowTally) -> None:
        """Add what another counted after this one."""
        self.counts.update(other.counts)
        for name, examples in other.examples.items():
            own = self.examples.setdefault(name, [])
            own.extend(examples[: max(self.keep - len(own), 0)])

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` takes."""
        return {"counts": dict(self.counts), "examples": self.examples}

    @classmethod
    def from_json(cls, value: dict[str, Any], *, keep: int) -> RowTally:
        """Return a tally as it was."""
        return cls(Counter(value["counts"]), dict(value["examples"]), keep)

    def under(self, *names: str) -> dict[str, int]:
        """Return the last part of each name that begins so, with its count."""
        begin = "\t".join(names) + "\t"
        return {
            name.removeprefix(begin): count
            for name, count in self.counts.items()
            if name.startswith(begin)
        }


@dataclass(frozen=True)
class Facts:
    """What the first pass leaves of a chunk.

    Attributes:
        verdicts: uint8 [R], places in `REASONS`.
        keys: `KEY` [R], or [0] where exact duplicates stay.
        signatures: uint16 [R, hashes], zeros where a row takes no part, or [0, 0] where near ones
            stay.
    """

    verdicts: np.ndarray
    keys: np.ndarray
    signatures: np.ndarray


class Examiner:
    """Judges the rows of a chunk, each by itself.

    Args:
        length: Bounds of length, or None.
        language: Wanted languages, or None.
        identify: Tells the language of a text; None if `language` does not ask for it.
        contamination: What to do with rows that overlap, or None.
        overlap: The evaluation texts, if `contamination` is given.
        exact: Leave keys.
        near: Leave signatures.
        isolate: Give bad lines a verdict instead of raising.
    """

    def __init__(
        self,
        *,
        length: LengthConfig | None = None,
        language: LanguageConfig | None = None,
        identify: Identifier | None = None,
        contamination: ContaminationConfig | None = None,
        overlap: OverlapIndex | None = None,
        exact: bool = False,
        near: NearConfig | None = None,
        isolate: bool = False,
    ) -> None:
        self._length = length
        self._language = language
        self._identify = identify
        self._contamination = contamination
        self._overlap = overlap
        self._exact = exact
        self._hasher = None if near is None else MinHasher(near)
        self._isolate = isolate

    def __call__(self, chunk: RowChunk, source: str, tally: RowTally) -> Facts:
        """Return the facts of a chunk of a source; count what happened.

        Raises:
            InputError: At a bad line, unless they are isolated.
        """
        verdicts = np.zeros(len(chunk.raw), np.uint8)
        rows: list[tuple[int, PairOrText]] = []
        for place, raw in enumerate(chunk.raw):
            try:
                row = pair_or_text(raw, chunk.origin(place))
            except InputError as error:
                if not self._isolate:
                    raise
                verdicts[place] = VERDICTS["bad line"]
                tally.add("removed", source, "bad line", example={"error": str(error)})
                continue
            if reason := self._reason(row):
                verdicts[place] = VERDICTS[reason]
                tally.add("removed", source, reason, example=shown(row))
            else:
                rows.append((place, row))
        rows = self._uncontaminated(rows, source, verdicts, tally)
        return self._facts(rows, verdicts)

    def _reason(self, row: PairOrText) -> str | None:
        reason = None
        if self._length is not None:
            reason = length_reason(row.query, row.positive, self._length)
        if reason is None and self._language is not None:
            reason = language_reason(row.sides, row.lang, self._language, self._identify)
        return reason

    def _uncontaminated(
        self, rows: list[tuple[int, PairOrText]], source: str, verdicts: np.ndarray, tally: RowTally
    ) -> list[tuple[int, PairOrText]]:
        if self._overlap is None or self._contamination is None:
            return rows
        texts = [(i, side) for i, (_, row) in enumerate(rows) for side in _all_texts(row)]
        by_row: dict[int, dict[str, dict[str, str]]] = {}
        for hit in self._overlap.hits([text for _, text in texts]):
            number, text = texts[hit.text]
            task, _, role = hit.owner.partition("\t")
            by_row.setdefault(number, {}).setdefault(
                task, {"role": role, "how": hit.how, "text": cut(text)}
            )
        for number, tasks in by_row.items():
            place, row = rows[number]
            for task, how in tasks.items():
                example = {"row": row.origin, "source": source} | how
                tally.add("task", task, example=example)
                tally.add("task how", task, how["how"])
                tally.add("task source", task, source)
            tally.add("hit", source)
            if self._contamination.remove:
                verdicts[place] = VERDICTS["contaminated"]
                why = {"tasks": ", ".join(sorted(tasks))}
                tally.add("removed", source, "contaminated", example=shown(row) | why)
        return [(place, row) for place, row in rows if verdicts[place] == 0]

    def _facts(self, rows: list[tuple[int, PairOrText]], verdicts: np.ndarray) -> Facts:
        places = [place for place, _ in rows]
        keys = np.zeros(len(verdicts) if self._exact else 0, KEY)
        if self._exact and rows:
            joined = b"".join(normalised_key(row.sides) for _, row in rows)
            keys[places] = np.frombuffer(joined, KEY)
        if self._hasher is None:
            return Facts(verdicts, keys, np.zeros((0, 0), np.uint16))
        config = self._hasher.config
        signatures = np.zeros((len(verdicts), config.hashes), np.uint16)
        long = [one for one in rows if max(map(len, one[1].sides)) >= config.min_chars]
        if long:
            first = [row.sides[0] for _, row in long]
            last = [row.sides[-1] for _, row in long]
            signatures[[place for place, _ in long]] = self._hasher.signatures(first, last)
        return Facts(verdicts, keys, signatures)


def shown(row: PairOrText) -> dict[str, str]:
    """Return a row as an example for a report."""
    sides = {"text": row.positive}
    if row.query is not None:
        sides = {"query": row.query, "positive": row.positive}
    return {"row": row.origin} | {side: cut(text) for side, text in sides.items()}


def _all_texts(row: PairOrText) -> tuple[str, ...]:
    """Return every text that a model may see of a row; the document's prompt has its title."""
    title = row.value.get("title")
    return (*row.sides, *row.negatives, *([title] if isinstance(title, str) else ()))


def cut(text: str) -> str:
    """Return a text as short as a report can show it."""
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + " …"
