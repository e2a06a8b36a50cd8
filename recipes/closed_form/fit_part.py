"""What one teacher says of each token: rows that ridge regression fits to its vectors of texts.

A text's target is its own vector, a translation's that of its English side. Vectors of a language
and of a source share a direction that says nothing of the meaning; their means are taken off. The
ridge pulls rows to the teacher's vector of the token itself, by how much the token tells, so
that tokens no text has keep that. Writes part-TEACHER.npy [V, width].
"""

from __future__ import annotations

import argparse
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from keep_vectors import kept
from ridge import bags, principal_axes, solve, unit
from teachers import TEACHERS
from token_ids import FitData
from token_weights import information
from tokenizers import Tokenizer
from unigram import strings

SMOOTHING = 50  # texts' worth of the English mean in another language's
SMALLEST_GROUP = 300  # texts of a source that have a mean of their own
SMALLEST_SCRIPT = 200  # tokens, likewise
SAMPLE = 20_000
EVERY_THIRD = 3  # text is enough to count rarity
LINK_WEIGHTS = {"e5": 0.1, "minilm": 0.05}


def scripts(pieces: list[str]) -> np.ndarray:
    """Return a number for the script of each piece's first letter; 0 without one [V]."""
    seen, numbers = {"": 0}, []
    for piece in pieces:
        letter = next((c for c in piece if c.isalpha()), "")
        name = unicodedata.name(letter, "?").split()[0] if letter else ""
        numbers.append(seen.setdefault(name, len(seen)))
    return np.array(numbers)


def token_start(work: Path, teacher: str, pieces: list[str]) -> np.ndarray:
    """Return the teacher's unit vectors of the tokens, about their script's mean [V, 384]."""
    with np.load(work / f"tokens-{teacher}.npz") as file:
        ids, vectors = file["ids"], file["rows"].astype(np.float32)
    script, whole = scripts(pieces)[ids], vectors.mean(0)
    rows = np.zeros((len(pieces), vectors.shape[1]), np.float32)
    for number in np.unique(script):
        own = script == number
        mean = vectors[own].mean(0) if own.sum() > SMALLEST_SCRIPT else whole
        rows[ids[own]] = vectors[own] - mean
    return unit(rows)


@dataclass(frozen=True)
class Targets:
    """What texts are fitted to.

    Attributes:
        places: Of the texts among those of the data [N].
        vectors: About their means [N, 384].
        weights: [N].
        english: Unit vectors of the English texts, about their mean.
    """

    places: np.ndarray
    vectors: np.ndarray
    weights: np.ndarray
    english: np.ndarray


def places_of(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return where `wanted` are among rising `keys`, -1 where absent."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, places, -1)


def without_language(vectors: np.ndarray, langs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors about their language's mean, and the English mean."""
    mean = vectors[langs == "en"].mean(0)
    out = vectors - mean
    for lang in set(langs.tolist()) - {"en"}:
        own = langs == lang
        total = vectors[own].sum(0) + SMOOTHING * mean
        out[own] = vectors[own] - total / (own.sum() + SMOOTHING)
    return unit(out), mean


def targets(data: FitData, work: Path, teacher: str) -> Targets:
    """Return the targets of all texts with a vector, then of translations."""
    keys, rows = kept(work, teacher)
    own = places_of(data.keys, keys)
    keys, rows, own = keys[own >= 0], rows[own >= 0].astype(np.float32), own[own >= 0]
    langs = np.where(data.langs[own] == "code", "en", data.langs[own])
    vectors, mean = without_language(rows, langs)
    side, other = places_of(keys, data.english), places_of(data.keys, data.others)
    linked = (side >= 0) & (other >= 0)
    places = np.concatenate([own, other[linked]])
    # An English side without its mean is the target of its translations.
    fitted = np.concatenate([vectors, unit(rows[side[linked]] - mean)])
    groups = data.sources[places].astype(object)
    groups[len(own) :] = groups[len(own) :] + " translated"
    for group in set(groups.tolist()):
        members = groups == group
        if members.sum() > SMALLEST_GROUP:
            fitted[members] -= fitted[members].mean(0)
    weights = np.ones(len(places), np.float32)
    weights[len(own) :] = LINK_WEIGHTS[teacher]
    return Targets(places, fitted, weights, vectors[langs == "en"])


def main() -> None:
    """Fit the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher", choices=TEACHERS)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--ridge", type=float, default=1.0)
    parser.add_argument("--boost", type=float, default=4.0, help="on the tokens' own vectors")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    data = FitData.read(args.work)
    tokenizer = Tokenizer.from_file(str(args.work / "tokenizer.json"))
    weights = information(tokenizer, data.ids[::EVERY_THIRD])
    goal = targets(data, args.work, args.teacher)
    axes = principal_axes(goal.english)[0][:, : args.width]
    x = bags([data.ids[place] for place in goal.places], len(weights))
    y = goal.vectors @ axes
    start = token_start(args.work, args.teacher, strings(tokenizer)) @ axes * weights[:, None]
    part = np.random.default_rng(0).choice(len(y), min(SAMPLE, len(y)), replace=False)
    guess = x[part] @ start
    start *= args.boost * (guess * y[part]).sum() / (guess * guess).sum()
    rows = solve(x, y, start, ridge=args.ridge, weights=goal.weights, steps=args.steps)
    np.save(args.work / f"part-{args.teacher}.npy", rows.astype(np.float32))
    cosine = (unit(x[part] @ rows) * unit(y[part])).sum(1).mean()
    print(f"{args.teacher}: {len(y):,} texts, mean cosine {cosine:.3f}")


if __name__ == "__main__":
    main()
