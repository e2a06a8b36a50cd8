"""Stage merge: a soup of checkpoints that come from one start.

EmbeddingGemma (arXiv 2509.20354, section 2.3) averages one finetuning run for each of its mixtures,
unweighted, for +0.8 on the mean task; averages within a run and greedy soups (arXiv 2203.05482)
are the other known ways. What would average noise is refused; see `culet.checkpoints.soup`.

checkpoint/   the soup
merge.json    members, weights, cosines between them, and the scores of a greedy search
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from culet.checkpoints.checkpoint import EmbeddingCheckpoint
from culet.checkpoints.embedding import read_embedding_model
from culet.checkpoints.soup import check_alike, check_related, write_mean
from culet.errors import InputError, RecipeError
from culet.files import fingerprint
from culet.files.atomic import write_json
from culet.files.settings import to_tables
from culet.files.tensors import StoredDtype
from culet.stages.estimate import Context, Disk, Estimate, stored
from culet.stages.folder import StageFolder
from culet.stages.provenance import card_and_ledger

Score = Callable[[Path], float]


@dataclass(frozen=True)
class MergeConfig:
    """How checkpoints are averaged.

    Attributes:
        method: "uniform" weighs all alike, "weighted" by `weights`, "greedy" takes the model of
            the highest dev score and adds the others, by falling score, each only if the soup's
            score rises.
        weights: A share for each model, for "weighted".
        last: Of an input that holds a run's snapshots (folders snapshots/step-*), take this many
            of the last ones, instead of its checkpoint: an average within a run.
        dtype: How the result is stored.
    """

    method: Literal["uniform", "weighted", "greedy"] = "uniform"
    weights: tuple[float, ...] = ()
    last: int = 0
    dtype: StoredDtype = "float32"

    def __post_init__(self) -> None:
        if bool(self.weights) != (self.method == "weighted"):
            raise RecipeError(
                f"weights go with method 'weighted' and with no other, got method {self.method!r} "
                f"and weights {list(self.weights)}"
            )
        if self.last < 0 or (self.last and self.method == "weighted"):
            raise RecipeError(
                "last must not be negative, and does not go with weights; got "
                f"{self.last} and method {self.method!r}"
            )


def run(
    config: MergeConfig,
    *,
    models: Sequence[Path],
    out: Path,
    name: str = "merge",
    device: str = "cpu",
    say: Callable[[str], None] = print,
    score: Score | None = None,
    identity: str = "",
) -> Path:
    """Average `models` and return the folder of the soup.

    Args:
        config: The method.
        models: Checkpoint folders, or with `config.last` folders of runs that kept snapshots.
        out: The stage's folder.
        name: What messages call the stage.
        device: Not used; averaging is reading and writing.
        say: Takes lines for the person watching.
        score: Dev score of a checkpoint folder, higher is better; for "greedy".
        identity: What besides the settings the score depends on, such as the dev tasks.

    Raises:
        InputError: If the models differ in shape, tokenizer or prompts, or do not come from one
            start.
        RecipeError: If a greedy soup has no score to go by, or weights and models differ in number.
    """
    folders = [place for model in models for place in _members(model, config.last)]
    _check(config, folders, score)
    checkpoints = [read_embedding_model(folder) for folder in folders]
    stage = StageFolder(
        out,
        fingerprint=fingerprint.of_settings(
            [
                to_tables(config),
                [checkpoint.fingerprint for checkpoint in checkpoints],
                *([identity] if identity else []),
            ]
        ),
        settings={name: to_tables(config)},
    )
    if stage.announced(name, say):
        return stage.checkpoint
    check_alike(checkpoints)
    cosines = check_related(checkpoints)
    stage.state.mkdir(exist_ok=True)
    if config.method == "greedy":
        assert score is not None  # _check
        weights, found = _greedy(checkpoints, stage.state, score, say=say, name=name)
    else:
        weights, found = list(config.weights) or [1.0] * len(checkpoints), {}
    used = [c.path for c, weight in zip(checkpoints, weights, strict=True) if weight]
    write_mean(
        stage.checkpoint,
        checkpoints,
        weights,
        scratch=stage.state / "mean",
        dtype=config.dtype,
        extra_files=card_and_ledger(checkpoints[0].config, used, ()),
    )
    report = {
        "models": [str(folder) for folder in folders],
        "weights": [weight / sum(weights) for weight in weights],
        "cosines": cosines,
        **found,
    }
    write_json(out / "merge.json", report)
    stage.finish({"members": sum(weight != 0 for weight in weights)})
    shutil.rmtree(stage.state)
    say(f"{name}: averaged {sum(weight != 0 for weight in weights)} of {len(weights)} models")
    return stage.checkpoint


def estimate(config: MergeConfig, context: Context) -> Estimate:
    """Return what the stage would write."""
    shape = context.shape(context.inputs["models"])
    if shape is None:
        return Estimate()
    kept = stored(shape, config.dtype)
    candidate = stored(shape, "float32") if config.method == "greedy" else 0
    return Estimate(disk=Disk(2 * kept + candidate, kept), models={"model": shape})


def check_weights(config: MergeConfig, number: int) -> None:
    """Raise RecipeError unless there is a weight for each of so many models, if any is given."""
    if config.method == "weighted" and len(config.weights) != number:
        raise RecipeError(
            f"expected a weight for each of {number} models, got {list(config.weights)}"
        )


def _check(config: MergeConfig, folders: Sequence[Path], score: Score | None) -> None:
    if len(folders) < 2:
        raise RecipeError(f"a soup needs at least two models, got {[str(f) for f in folders]}")
    check_weights(config, len(folders))
    if config.method == "greedy" and score is None:
        raise RecipeError("a greedy soup goes by dev scores: add a section [evaluate] with tasks")


def _members(model: Path, last: int) -> list[Path]:
    """Return a checkpoint, or the last snapshots of a run in the order of their steps."""
    if not last:
        return [model]
    run = model if (model / "snapshots").is_dir() else model.parent
    found = sorted((run / "snapshots").glob("step-*"))
    if not found:
        raise InputError(
            f"{model} holds no snapshots/step-*; let the run keep some (snapshot_every), or "
            "leave `last` out"
        )
    if len(found) < last:
        raise InputError(
            f"{run} holds {len(found)} snapshots, and last = {last} asks for more; lower it, or "
            "let the run keep more (snapshots, snapshot_every)"
        )
    return found[-last:]


def _greedy(
    checkpoints: Sequence[EmbeddingCheckpoint],
    state: Path,
    score: Score,
    *,
    say: Callable[[str], None],
    name: str,
) -> tuple[list[float], dict[str, Any]]:
    """Return a weight for each model, 1 or 0, and what was scored.

    Each score is kept as soon as it is known, so that a run that is taken up again asks for none
    twice.
    """
    known = _Scores(state / "scores.json")
    alone = [known.get([i], partial(score, c.path)) for i, c in enumerate(checkpoints)]
    order = sorted(range(len(alone)), key=lambda i: -alone[i])
    members, best = [order[0]], alone[order[0]]
    steps = [{"tried": order[0], "score": best, "kept": True}]
    for candidate in order[1:]:
        tried = sorted([*members, candidate])

        def soup(tried: list[int] = tried) -> float:
            folder = state / "candidate"
            chosen = [checkpoints[i] for i in tried]
            write_mean(folder, chosen, [1.0] * len(chosen), scratch=state / "mean")
            return score(folder)

        value = known.get(tried, soup)
        kept = value > best
        if kept:
            members, best = tried, value
        steps.append({"tried": candidate, "score": value, "kept": kept})
        say(
            f"{name}: with {checkpoints[candidate].path} the score is {value:.4f}: "
            f"{'kept' if kept else 'left out'} (best {best:.4f})"
        )
    weights = [float(i in members) for i in range(len(checkpoints))]
    return weights, {"scores": alone, "greedy": steps, "score": best}


class _Scores:
    """Scores by members, in a file that is written after each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, float] = {}
        if path.exists():
            self._known = json.loads(path.read_text(encoding="utf-8"))

    def get(self, members: Sequence[int], ask: Callable[[], float]) -> float:
        """Return the score of some members, asked for if it is not known."""
        key = "-".join(map(str, members))
        if key not in self._known:
            self._known[key] = float(ask())
            write_json(self._path, self._known)
        return self._known[key]
