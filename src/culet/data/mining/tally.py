"""What mining found, counted so that parts of a run can be added up."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from culet.files.atomic import write_json

LOOKED_AT = "looked_at"
UNGRADED, UNGRADED_RECORDS = "ungraded_passed_over", "records_ungraded"
EDGES = np.round(np.linspace(-1, 1, 41), 2)  # of the score histograms


class MiningTally:
    """Counts and histograms of some records."""

    def __init__(self) -> None:
        self.counts = {"records": 0, "negatives": 0, "nearest_above_positive": 0, "left": 0}
        self.sums = {"positive": 0.0, "nearest": 0.0, "negative": 0.0}
        self.histograms = {name: np.zeros(len(EDGES) - 1, dtype=np.int64) for name in self.sums}
        self.by_number: dict[str, int] = {}
        self.against: dict[str, int] = {}  # of records without negatives
        self.ungraded: dict[str, int] = {}  # empty without judges

    def count(
        self,
        *,
        positive: float,
        nearest: float,
        left: int,
        negatives: Sequence[float],
        against: Mapping[str, int],
        ungraded: int | None = None,
    ) -> None:
        """Count one record.

        Args:
            positive: Score of its positive.
            nearest: Score of the nearest document not known to be right; −inf if there is none.
            left: Documents within window and margins.
            negatives: Scores of those that were taken.
            against: Documents that were looked at, as `LOOKED_AT`, and how many of them each rule
                is against; a document may have several against it.
            ungraded: Documents of `left` that no judge has an opinion of; None if none was asked.
        """
        self.counts["records"] += 1
        self.counts["negatives"] += len(negatives)
        self.counts["nearest_above_positive"] += nearest > positive
        self.counts["left"] += left
        number = str(len(negatives))
        self.by_number[number] = self.by_number.get(number, 0) + 1
        if not negatives:
            _add(self.against, against)
        if ungraded is not None:
            whole = 0 < left == ungraded  # then none of them is passed over; see `judges.ranked`
            _add(
                self.ungraded,
                {UNGRADED: 0 if whole else ungraded, UNGRADED_RECORDS: int(whole)},
            )
        for name, scores in (
            ("positive", [positive]),
            ("nearest", [nearest] if np.isfinite(nearest) else []),
            ("negative", negatives),
        ):
            self.sums[name] += float(sum(scores))
            # products of rounded unit vectors may pass 1 by a little
            self.histograms[name] += np.histogram(np.clip(scores, -1, 1), EDGES)[0]

    def add(self, other: MiningTally) -> None:
        """Add the counts of other records."""
        _add(self.counts, other.counts)
        _add(self.by_number, other.by_number)
        _add(self.against, other.against)
        _add(self.ungraded, other.ungraded)
        for name in self.sums:
            self.sums[name] += other.sums[name]
            self.histograms[name] += other.histograms[name]

    def report(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        number = {name: int(histogram.sum()) for name, histogram in self.histograms.items()}
        return {
            **self.counts,
            "records_by_negatives": dict(sorted(self.by_number.items(), key=lambda e: int(e[0]))),
            "without": {"records": self.without, **self.against},
            "rescore": self.ungraded,
            "mean_score": {n: s / number[n] if number[n] else None for n, s in self.sums.items()},
            "histogram": {
                "edges": EDGES.tolist(),
                **{name: histogram.tolist() for name, histogram in self.histograms.items()},
            },
        }

    @property
    def without(self) -> int:
        """How many records nothing was found for."""
        return self.by_number.get("0", 0)

    def why_without(self) -> str:
        """Return the rules that kept records from having negatives, the strictest first."""
        looked = self.against.get(LOOKED_AT, 0)
        if not looked:
            return "there was no document to look at but the right ones"
        rules = sorted(
            ((name, number) for name, number in self.against.items() if name != LOOKED_AT),
            key=lambda rule: -rule[1],
        )
        removed = ", ".join(f"{name} is against {number:,}" for name, number in rules if number)
        return (
            f"of the {looked:,} documents that were looked at for them, {removed or 'none is left'}"
        )

    def summary(self) -> str:
        """Return one sentence of it."""
        records = max(1, self.counts["records"])
        without = self.without
        means = self.report()["mean_score"]
        shown = {name: "none" if mean is None else f"{mean:.3f}" for name, mean in means.items()}
        above = self.counts["nearest_above_positive"] / records
        return (
            f"{self.counts['records']:,} records, {self.counts['negatives'] / records:.2f} "
            f"negatives each, {without:,} with none; mean scores: positive {shown['positive']}, "
            f"negative {shown['negative']}; for {above:.1%} another document is nearer than "
            "the positive" + self._ungraded_words()
        )

    def _ungraded_words(self) -> str:
        passed, records = (self.ungraded.get(name, 0) for name in (UNGRADED, UNGRADED_RECORDS))
        words = f"; {passed:,} documents without a grade were passed over" if passed else ""
        return words + (f"; for {records:,} records none has a grade" if records else "")

    def write(self, path: Path) -> None:
        """Write what `read` reads."""
        values = {
            "counts": self.counts,
            "sums": self.sums,
            "histograms": {name: h.tolist() for name, h in self.histograms.items()},
            "by_number": self.by_number,
            "against": self.against,
            "ungraded": self.ungraded,
        }
        write_json(path, values)

    @classmethod
    def read(cls, path: Path) -> MiningTally:
        """Return what `write` has written."""
        values = json.loads(path.read_text(encoding="utf-8"))
        tally = cls()
        tally.counts, tally.sums = values["counts"], values["sums"]
        tally.histograms = {n: np.array(h, dtype=np.int64) for n, h in values["histograms"].items()}
        tally.by_number = values["by_number"]
        # a culet that did not count these may have begun the run
        tally.against = values.get("against", {})
        tally.ungraded = values.get("ungraded", {})
        return tally


def _add(numbers: dict[str, int], more: Mapping[str, int]) -> None:
    for name, number in more.items():
        numbers[name] = numbers.get(name, 0) + number
