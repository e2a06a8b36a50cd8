"""Stage merge: a soup of checkpoints that share a starting point.

EmbeddingGemma (arXiv 2509.20354, section 2.3) averages one finetuning run for each of its mixtures,
unweighted, for +0.8 on the mean task; averages within a run and greedy soups (arXiv 2203.05482)
are the other known ways. Merges that would average noise are refused; see `culet.checkpoints.soup`.

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
from culet.files.tensors import StoredDtype
from culet.stages.contract import Contract, Input, Inputs, Job
from culet.stages.estimate import Context, Disk, Estimate, stored
from culet.stages.folder import StageFolder
from culet.stages.provenance import card_and_ledger

Score = Callable[[Path, Path], float]  # of a checkpoint, on a folder of tasks


@dataclass(frozen=True)
class MergeConfig:
    """How checkpoints are averaged.

    Attributes:
        method: "uniform" weighs all alike, "weighted" by `weights`, "greedy" takes the model of
            the highest dev score and adds the others, from the highest score down, each only if the
            soup's score rises.
        weights: A share for each model, for "weighted".
        last: For an input that holds a run's snapshots (folders snapshots/step-*), take this
            many of the last ones instead of its checkpoint: an average within a run.
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
    config: MergeConfig, folder: StageFolder, job: Job, *, models: Sequence[Path], dev: Path | None
) -> None:
    """Average `models` and write the soup.

    Raises:
        InputError: If the models differ in shape, tokenizer or prompts, or do not share a
            starting point.
        RecipeError: If a greedy soup has no score to go by, or weights and models differ in number.
    """
    name, say, score = job.name, job.say, job.score
    folders = _members(models, config.last)
    checkpoints = [read_embedding_model(folder) for folder in folders]
    check_alike(checkpoints)
    cosines = check_related(checkpoints)
    folder.state.mkdir(exist_ok=True)
    if config.method == "greedy":
        assert score is not None
        assert dev is not None  # settle
        weights, found = _greedy(checkpoints, folder.state, score, dev, say=say, name=name)
    else:
        weights, found = list(config.weights) or [1.0] * len(checkpoints), {}
    used = [c.path for c, weight in zip(checkpoints, weights, strict=True) if weight]
    write_mean(
        folder.checkpoint,
        checkpoints,
        weights,
        scratch=folder.state / "mean",
        dtype=config.dtype,
        extra_files=card_and_ledger(checkpoints[0].config, used, ()),
    )
    report = {
        "models": [str(path) for path in folders],
        "weights": [weight / sum(weights) for weight in weights],
        "cosines": cosines,
        **found,
    }
    write_json(folder.path / "merge.json", report)
    folder.finish({"members": sum(weight != 0 for weight in weights)})
    shutil.rmtree(folder.state)
    say(f"{name}: averaged {sum(weight != 0 for weight in weights)} of {len(weights)} models")


def estimate(config: MergeConfig, context: Context) -> Estimate:
    """Return what the stage would write."""
    shape = context.shape(context.inputs["models"])
    if shape is None:
        return Estimate()
    kept = stored(shape, config.dtype)
    candidate = stored(shape, "float32") if config.method == "greedy" else 0
    return Estimate(disk=Disk(2 * kept + candidate, kept), models={"model": shape})


def _members(models: Sequence[Path], last: int) -> list[Path]:
    """Return checkpoints, or the last snapshots of each run in the order of their steps."""
    if not last:
        return list(models)
    return [folder for model in models for folder in _snapshots(model, last)]


def _snapshots(model: Path, last: int) -> list[Path]:
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
    dev: Path,
    *,
    say: Callable[[str], None],
    name: str,
) -> tuple[list[float], dict[str, Any]]:
    """Return a weight for each model, 1 or 0, and what was scored.

    Each score is stored as soon as it is known, so that a resumed run computes none twice.
    """
    known = _Scores(state / "scores.json")
    alone = [known.get([i], partial(score, c.path, dev)) for i, c in enumerate(checkpoints)]
    order = sorted(range(len(alone)), key=lambda i: -alone[i])
    members, best = [order[0]], alone[order[0]]
    steps = [{"tried": order[0], "score": best, "kept": True}]
    for candidate in order[1:]:
        tried = sorted([*members, candidate])

        def soup(tried: list[int] = tried) -> float:
            folder = state / "candidate"
            chosen = [checkpoints[i] for i in tried]
            write_mean(folder, chosen, [1.0] * len(chosen), scratch=state / "mean")
            return score(folder, dev)

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
        """Return the score of some members, computed if it is not known."""
        key = "-".join(map(str, members))
        if key not in self._known:
            self._known[key] = float(ask())
            write_json(self._path, self._known)
        return self._known[key]


def reads(config: MergeConfig, inputs: Inputs) -> list[Any]:
    """Return the fingerprints of the models, and of the tasks that score a greedy soup."""
    models = [read_embedding_model(folder) for folder in _members(inputs["models"], config.last)]
    tasks = [fingerprint.of_folder(inputs["dev"])] if config.method == "greedy" else []
    return [[model.fingerprint for model in models], *tasks]


def settle(config: MergeConfig, inputs: Inputs) -> MergeConfig:
    """Refuse what is known to be wrong before the models are trained."""
    if config.method == "greedy" and inputs["dev"] is None:
        raise RecipeError(
            "a greedy soup goes by dev scores: give it `dev`, a folder of tasks, or the recipe a "
            "section [evaluate]"
        )
    if not config.last:  # the number of snapshots is known later
        _check_weights(config, len(inputs["models"]))
    return config


def check(config: MergeConfig, inputs: Inputs) -> None:
    """Refuse fewer than two models, or a wrong number of weights."""
    folders = _members(inputs["models"], config.last)
    if len(folders) < 2:
        raise RecipeError(f"a soup needs at least two models, got {[str(f) for f in folders]}")
    _check_weights(config, len(folders))


def _check_weights(config: MergeConfig, number: int) -> None:
    if config.method == "weighted" and len(config.weights) != number:
        raise RecipeError(
            f"expected a weight for each of {number} models, got {list(config.weights)}"
        )


STAGE = Contract(
    config=MergeConfig,
    gives={"model": "checkpoint"},
    run=run,
    reads=reads,
    estimate=estimate,
    inputs=(
        Input("models", ("model",), many=True),
        Input("dev", ("tasks",), needed=False),
    ),
    settle=settle,
    check=check,
)
