"""What a preparation did, in numbers and examples: the content of report.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from culet.data.prepare.examine import REASONS, VERDICTS
from culet.data.prepare.survey import Survey


def counts_by_source(survey: Survey, owners: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return for each source the number of rows with each reason, and "read".

    Args:
        survey: With its verdicts in memory.
        owners: The source of each file.
    """
    found: dict[str, dict[str, int]] = {}
    first = 0
    for owner, last in zip(owners, survey.ends, strict=True):
        counts = np.bincount(survey.verdicts[first:last], minlength=len(REASONS)).tolist()
        own = found.setdefault(owner, dict.fromkeys(("read", *REASONS), 0))
        own["read"] += last - first
        for reason, count in zip(REASONS, counts, strict=True):
            own[reason] += count
        first = last
    return found


def report(survey: Survey, owners: Sequence[str], *, megabytes: int) -> dict[str, Any]:
    """Return the report of a finished preparation.

    Args:
        survey: As its last pass left it.
        owners: The source of each file.
        megabytes: Peak memory of the process.
    """
    sources = counts_by_source(survey, owners)
    total = {name: sum(own[name] for own in sources.values()) for name in ("read", *REASONS)}
    seconds = sum(survey.seconds.values())
    return {
        "rows": {"read": total["read"], "kept": total["kept"]},
        "removed": _shown(total),
        "sources": {
            name: {"read": own["read"], "kept": own["kept"], "removed": _shown(own)}
            for name, own in sources.items()
        },
        "languages": dict(
            sorted(survey.tally.under("language").items(), key=lambda pair: -pair[1])
        ),
        "contamination": _contamination(survey),
        "examples": _examples(survey),
        "evaluation": survey.notes.get("evaluation", {}),
        "grades": survey.notes.get("grades", {}),
        "near_uncompared": survey.notes.get("near", {}).get("uncompared", 0),
        "seconds": survey.seconds,
        "rows_per_second": round(total["read"] / seconds, 1) if seconds else None,
        "peak_memory_mb": megabytes,
    }


def _shown(counts: dict[str, int]) -> dict[str, int]:
    return {reason: counts[reason] for reason in REASONS[1:] if counts[reason]}


def _contamination(survey: Survey) -> dict[str, Any]:
    """Return for each task how many rows share what with it, most first."""
    tally = survey.tally
    tasks = sorted(tally.under("task").items(), key=lambda pair: (-pair[1], pair[0]))
    return {
        "rows": sum(tally.under("hit").values()),
        "tasks": {
            task: {
                "rows": rows,
                **tally.under("task how", task),
                "sources": tally.under("task source", task),
                "examples": tally.examples.get(f"task\t{task}", []),
            }
            for task, rows in tasks
        },
    }


def _examples(survey: Survey) -> dict[str, list[dict[str, Any]]]:
    """Return examples by reason; of duplicates with the row that stayed."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, examples in survey.tally.examples.items():
        kind, *rest = name.split("\t")
        if kind == "removed":
            source, reason = rest
            found.setdefault(reason, []).extend({"source": source} | one for one in examples)
    texts = survey.notes.get("examples", {})
    for reason in ("exact", "near"):
        for gone, stayed in survey.notes.get(reason, {}).get("examples", []):
            if str(gone) in texts and str(stayed) in texts:
                pair = {"row": texts[str(gone)], "like": texts[str(stayed)]}
                found.setdefault(reason, []).append(pair)
    return {reason: found[reason] for reason in REASONS[1:] if reason in found}


assert VERDICTS["kept"] == 0  # what every pass takes for "still there"
