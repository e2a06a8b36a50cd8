"""The trials of stage search_mixture: proposed by optuna, run in one process or several."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from culet.errors import TrainingError, need
from culet.files import fingerprint
from culet.stages.mixtures import Point, to_point, to_shares

if TYPE_CHECKING:
    import optuna

    from culet.stages.search_mixture import SearchMixtureConfig


@dataclass(frozen=True)
class Attempt:
    """One run of a mixture, for an objective to score.

    Attributes:
        shares: Share of the batches of each source, by its name.
        seed: Seed of this run.
        folder: Where it may keep files; the same for the same mixture and seed, so that a run
            that was killed can be resumed. Removed once it is scored.
    """

    shares: Mapping[str, float]
    seed: int
    folder: Path


Objective = Callable[[Attempt], float]


def tried_mixtures(
    config: SearchMixtureConfig,
    objective: Objective,
    state: Path,
    *,
    name: str,
    say: Callable[[str], None],
) -> list[Point]:
    """Return the mixtures tried, once there are as many as asked for."""
    study = _study(state)
    half_done = _prepare(study, config)
    while (missing := config.total - len(_complete(study))) > 0:
        say(f"{name}: {missing} of {config.total} mixtures to try")
        _try_all(study, config, objective, state, half_done, name=name, say=say)
        study, half_done = _study(state), []
    return [_point(number, trial) for number, trial in enumerate(_complete(study))]


def _study(state: Path) -> optuna.Study:
    """Return the study in the journal of a folder."""
    need("optuna", extra="search", purpose="a mixture search")
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    # each proposal warns that it could be faster; it takes half a second
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(state / "journal.log"))),
        study_name="mixtures",
        direction="maximize",
        load_if_exists=True,
    )


def _prepare(study: optuna.Study, config: SearchMixtureConfig) -> list[int]:
    """Enqueue the first mixtures, and return the trials that a killed run left half done."""
    from optuna.trial import TrialState

    rng = np.random.default_rng([config.seed, 3])
    alpha = np.full(len(config.sources), config.concentration)
    start = np.array(config.start or [1.0] * len(config.sources))
    draws = [("random", rng.dirichlet(alpha)) for _ in range(config.random)]
    # all are enqueued before the first is tried; a kill may come between two of them
    for kind, shares in [("given", start), *draws][len(study.trials) :]:
        point = _parameters(to_point(shares.tolist()))
        study.enqueue_trial(point, user_attrs={"kind": kind})
    half_done = []
    trials = study.get_trials(deepcopy=False)
    for trial in trials:
        if trial.state != TrialState.RUNNING:
            continue
        if _begun(trials[: trial.number]) < config.total:
            half_done.append(trial.number)
        else:  # one too many, which the killed run had no time to abandon
            study.tell(trial.number, state=TrialState.FAIL)
    return half_done


def _try_all(
    study: optuna.Study,
    config: SearchMixtureConfig,
    objective: Objective,
    state: Path,
    half_done: list[int],
    *,
    name: str,
    say: Callable[[str], None],
) -> None:
    if config.workers == 1:
        _work(study, config, objective, state, half_done, say=lambda line: say(f"{name}: {line}"))
        return
    context = multiprocessing.get_context("spawn")
    failures = context.SimpleQueue()
    processes = [
        context.Process(
            target=_worker,
            args=(state, config, objective, half_done[i :: config.workers], failures),
            name=f"{name}-{i}",
        )
        for i in range(config.workers)
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.terminate()
    if not failures.empty():
        raise TrainingError(str(failures.get()))
    if dead := [process for process in processes if process.exitcode]:
        raise TrainingError(
            f"{dead[0].name} ended with exit code {dead[0].exitcode}; run again to resume"
        )


def _worker(
    state: Path,
    config: SearchMixtureConfig,
    objective: Objective,
    half_done: list[int],
    failures: Any,
) -> None:
    """Try mixtures in a separate process until there are enough."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _work(_study(state), config, objective, state, half_done, say=lambda line: None)
    except Exception as error:
        failures.put(f"{type(error).__name__}: {error}")


def _end_with_parent() -> None:
    """End this process once its parent has ended: the next run must have the folder to itself."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # a worker is always started by the search
    parent.join()
    os._exit(1)


def _work(
    study: optuna.Study,
    config: SearchMixtureConfig,
    objective: Objective,
    state: Path,
    half_done: list[int],
    *,
    say: Callable[[str], None],
) -> None:
    """Try mixtures until there are enough; several processes may share one journal."""
    from optuna.distributions import BaseDistribution, FloatDistribution
    from optuna.trial import Trial, TrialState

    keys = _parameters([0.0] * (len(config.sources) - 1))
    space: dict[str, BaseDistribution] = {key: FloatDistribution(0.0, 1.0) for key in keys}

    def attempt(trial: Trial) -> None:
        kind = trial.user_attrs.get("kind", "search")
        trial.set_user_attr("kind", kind)
        shares = to_shares([trial.params[key] for key in keys])
        trial.set_user_attr("shares", shares.tolist())
        # if this fails, the trial stays marked as running, and the next run resumes it
        scores = _scores(config, shares, objective, state)
        trial.set_user_attr("scores", scores)
        study.tell(trial, float(np.mean(scores)))
        say(f"mixture {trial.number + 1}, {kind}: {np.mean(scores):.4f}")

    for number in half_done:
        # It may have been killed before all of its shares were stored. What the sampler had
        # proposed counts; if that is nothing, it proposes the same from the same trials.
        study.sampler = _sampler(config, _begun(study.get_trials(deepcopy=False)[:number]))
        frozen = study.trials[number]
        trial = Trial(study, frozen._trial_id)
        trial._fixed_params = trial._fixed_params or _proposed(frozen.system_attrs)
        for key, distribution in space.items():
            trial._suggest(key, distribution)
        attempt(trial)
    while True:
        begun = _begun(study.get_trials(deepcopy=False))
        study.sampler = _sampler(config, begun)
        trial = study.ask(space)
        # the journal numbers trials in sequence, so each process knows its place
        if _begun(study.get_trials(deepcopy=False)[: trial.number]) >= config.total:
            study.tell(trial, state=TrialState.FAIL)
            return
        attempt(trial)


def _proposed(attributes: Mapping[str, Any]) -> dict[str, float]:
    """Return what the sampler proposed for a trial, which the journal holds in parts."""
    parts = {key: part for key, part in attributes.items() if "relative_params:" in key}
    ordered = sorted(parts, key=lambda key: int(key.rpartition(":")[2]))
    return dict(json.loads("".join(parts[key] for key in ordered) or "{}"))


def _begun(trials: list[Any]) -> int:
    """Return how many of the trials are running or complete."""
    from optuna.trial import TrialState

    return sum(trial.state in (TrialState.RUNNING, TrialState.COMPLETE) for trial in trials)


def _sampler(config: SearchMixtureConfig, begun: int) -> Any:
    """Return the sampler of the next mixture, reseeded each time so that it keeps no state."""
    import optuna

    seed = np.random.SeedSequence([config.seed, begun]).generate_state(1)[0]
    return optuna.samplers.GPSampler(seed=int(seed), n_startup_trials=1 + config.random)


def _scores(
    config: SearchMixtureConfig, shares: np.ndarray, objective: Objective, state: Path
) -> list[float]:
    """Return the score of each run of a mixture."""
    by_name = dict(zip(config.sources, shares.tolist(), strict=True))
    scores = []
    for seed in range(config.seed, config.seed + config.seeds):
        folder = state / "runs" / fingerprint.of_settings([by_name, seed])
        score = float(objective(Attempt(by_name, seed, folder)))
        if not np.isfinite(score):
            raise TrainingError(f"the dev score of {by_name} is {score}, expected a finite number")
        scores.append(score)
    for seed in range(config.seed, config.seed + config.seeds):
        folder = state / "runs" / fingerprint.of_settings([by_name, seed])
        shutil.rmtree(folder, ignore_errors=True)
    return scores


def _parameters(point: Any) -> dict[str, float]:
    return {f"angle_{i:02d}": float(number) for i, number in enumerate(point)}


def _complete(study: optuna.Study) -> list[Any]:
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _point(number: int, trial: Any) -> Point:
    attributes = trial.user_attrs
    return Point(
        number,
        attributes["kind"],
        tuple(attributes["shares"]),
        trial.value,
        tuple(attributes["scores"]),
    )
