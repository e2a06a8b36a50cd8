"""Mixtures as points of a cube, and what a search found: a file, a table and a picture.

A search that moves the K shares of a mixture themselves wastes points outside the simplex or pulls
them back to its edge. Here the square roots of the shares, which lie on a sphere, are given by
K − 1 angles: share i takes sin² of its angle of what is left. Equal steps then mean equally
different mixtures near a corner and in the middle (the Fisher metric), and scores that rise steeply
from a share of 0, as those of training do, are smooth: measured against breaking off even parts, in
`LOG.md`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from culet.errors import MissingExtra, need
from culet.files.atomic import new_file, write_json

KINDS = ("given", "random", "search")
_COLOURS = {"given": "#d95f02", "random": "#7f7f7f", "search": "#1b6ca8"}


def to_shares(point: Sequence[float]) -> np.ndarray:
    """Return the K shares of a point of K − 1 numbers from 0 to 1 (angles up to π/2)."""
    shares, left = [], 1.0
    for number in point:
        taken = float(np.sin(np.pi / 2 * min(max(number, 0.0), 1.0)) ** 2)
        shares.append(left * taken)
        left *= 1.0 - taken
    return np.array([*shares, left])


def to_point(shares: Sequence[float]) -> list[float]:
    """Return the point of some shares; any positive scale will do."""
    rest = np.array(shares, dtype=np.float64) / float(sum(shares))
    point = []
    for i in range(len(rest) - 1):
        left = float(rest[i:].sum())
        taken = min(1.0, float(rest[i]) / left) if left > 0 else 0.0
        point.append(float(2 / np.pi * np.arcsin(np.sqrt(taken))))
    return point


@dataclass(frozen=True)
class Point:
    """One mixture that was tried.

    Attributes:
        number: Number of the trial.
        kind: "given", "random" or "search".
        shares: Share of each source.
        score: Mean dev score over its runs.
        scores: Score of each run.
    """

    number: int
    kind: str
    shares: tuple[float, ...]
    score: float
    scores: tuple[float, ...]


def best_apart(points: Sequence[Point], keep: int, apart: float) -> list[Point]:
    """Return the best points, none of them too near a better one.

    Args:
        points: All.
        keep: The most that are kept.
        apart: The least distance between two: half the sum of the differences of their shares.
    """
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (-p.score, p.number)):
        gaps = [np.abs(np.subtract(point.shares, other.shares)).sum() / 2 for other in kept]
        if len(kept) < keep and all(gap >= apart for gap in gaps):
            kept.append(point)
    return kept


def write_found(
    out: Path,
    names: Sequence[str],
    points: Sequence[Point],
    *,
    keep: int,
    apart: float,
    name: str,
    say: Callable[[str], None],
) -> list[Point]:
    """Write mixtures.json, mixtures.md and mixtures.png, and return the points that are kept.

    Args:
        out: Their folder.
        names: Of the sources.
        points: All that were tried.
        keep: See `best_apart`.
        apart: See `best_apart`.
        name: What messages call the stage.
        say: Takes a line where there is no picture.
    """
    kept = best_apart(points, keep, apart)
    found = {
        "sources": list(names),
        "keep": keep,
        "apart": apart,
        "kept": [asdict(point) for point in kept],
        "mixtures": [asdict(point) for point in points],
    }
    write_json(out / "mixtures.json", found)
    with new_file(out / "mixtures.md") as aside:
        aside.write_text(table(names, points, kept), encoding="utf-8")
    try:
        with new_file(out / "mixtures.png") as aside:
            draw(aside, names, points, kept)
    except MissingExtra as error:
        (out / "mixtures.png").unlink(missing_ok=True)  # of an earlier choice
        say(f"{name}: no picture: {error}")
    return kept


def read_points(file: Path) -> list[Point]:
    """Return all points of a mixtures.json."""
    return _points(json.loads(file.read_text(encoding="utf-8"))["mixtures"])


def is_chosen_by(file: Path, *, keep: int, apart: float) -> bool:
    """Return whether the kept points of a mixtures.json are those of `best_apart`.

    A file of an older culet, without these settings, is judged by its points.
    """
    found = json.loads(file.read_text(encoding="utf-8"))
    if (found.get("keep", keep), found.get("apart", apart)) != (keep, apart):
        return False
    return _points(found["kept"]) == best_apart(_points(found["mixtures"]), keep, apart)


def _points(tables: Sequence[dict[str, Any]]) -> list[Point]:
    return [
        Point(t["number"], t["kind"], tuple(t["shares"]), t["score"], tuple(t["scores"]))
        for t in tables
    ]


def table(names: Sequence[str], points: Sequence[Point], kept: Sequence[Point]) -> str:
    """Return a table of all mixtures by falling score; scores of kept ones are in bold."""
    chosen = {point.number for point in kept}
    lines = [
        f"| trial | kind | score | {' | '.join(names)} |",
        f"|---:|---|---:|{'---:|' * len(names)}",
    ]
    for point in sorted(points, key=lambda p: (-p.score, p.number)):
        score = f"{point.score:.4f}"
        if point.number in chosen:
            score = f"**{score}**"
        shares = " | ".join(f"{100 * share:.1f} %" for share in point.shares)
        lines.append(f"| {point.number} | {point.kind} | {score} | {shares} |")
    return "\n".join(lines) + "\n"


def draw(path: Path, names: Sequence[str], points: Sequence[Point], kept: Sequence[Point]) -> None:
    """Write a picture: how the score rose, and the mixtures in a triangle or as bars.

    Raises:
        MissingExtra: If matplotlib is not installed.
    """
    drawing = need("matplotlib.figure", extra="search", purpose="a picture")
    figure = drawing.Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    ordered = sorted(points, key=lambda point: point.number)
    for kind in KINDS:
        own = [point for point in ordered if point.kind == kind]
        left.scatter(
            [p.number for p in own], [p.score for p in own], c=_COLOURS[kind], label=kind, s=28
        )
    best = np.maximum.accumulate([point.score for point in ordered])
    left.step(
        [p.number for p in ordered], best, where="post", color="black", lw=1, label="best so far"
    )
    left.set(xlabel="trial", ylabel="dev score", title="score of each mixture")
    left.legend(frameon=False, loc="lower right")
    if len(names) == 3:
        _triangle(figure, right, names, ordered, kept)
    else:
        _bars(right, names, ordered, kept)
    figure.savefig(path, dpi=120, format="png")


def _triangle(
    figure: Any, axes: Any, names: Sequence[str], points: Sequence[Point], kept: Sequence[Point]
) -> None:
    """Draw three shares as points in a triangle whose corners are single sources."""
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])
    axes.fill(*corners.T, facecolor="none", edgecolor="black", lw=1)
    for share in (0.25, 0.5, 0.75):
        for i in range(3):
            one, two = (corners[j] for j in range(3) if j != i)
            ends = np.array(
                [share * corners[i] + (1 - share) * one, share * corners[i] + (1 - share) * two]
            )
            axes.plot(*ends.T, color="0.85", lw=0.6, zorder=0)
    places = np.array([point.shares for point in points]) @ corners
    dots = axes.scatter(
        *places.T, c=[point.score for point in points], cmap="viridis", s=40, zorder=2
    )
    marked = np.array([point.shares for point in kept]) @ corners
    axes.scatter(*marked.T, facecolors="none", edgecolors="red", s=110, lw=1.4, label="kept")
    given = np.array([point.shares for point in points if point.kind == "given"])
    if len(given):
        axes.scatter(*(given @ corners).T, marker="x", c=_COLOURS["given"], s=70, label="given")
    for corner, name, shift in zip(corners, names, ((-8, -12), (8, -12), (0, 8)), strict=True):
        axes.annotate(
            name, corner, xytext=shift, textcoords="offset points", ha="center", va="center"
        )
    axes.set(aspect="equal", title="shares (lines at 25, 50, 75 %)")
    axes.margins(0.08)
    axes.axis("off")
    axes.legend(frameon=False, loc="upper right")
    figure.colorbar(dots, ax=axes, shrink=0.8, label="dev score")


def _bars(axes: Any, names: Sequence[str], points: Sequence[Point], kept: Sequence[Point]) -> None:
    """Draw the best mixtures as stacked bars, the best on top."""
    best = sorted(points, key=lambda point: (-point.score, point.number))[:12]
    start = np.zeros(len(best))
    rows = np.arange(len(best))
    import matplotlib

    palette = matplotlib.colormaps["tab20"]
    for i, name in enumerate(names):
        widths = np.array([point.shares[i] for point in best])
        axes.barh(rows, widths, left=start, color=palette(i % 20), label=name)
        start += widths
    chosen = {point.number for point in kept}
    labels = [
        f"{point.score:.3f}  ({point.kind} {point.number}){' *' if point.number in chosen else ''}"
        for point in best
    ]
    axes.set_yticks(rows, labels)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="share of the batches", title="the best mixtures (* kept)")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize="small")
