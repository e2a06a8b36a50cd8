"""Stage search_mixture: shares of the sources that make a short finetune score best.

EmbeddingGemma (arXiv 2509.20354, section 2.3) optimises its mixture by Bayesian optimisation, from
the mixture of an earlier grid search and 10 draws of a Dirichlet distribution, and averages the
models of several mixtures that were found. Surrogate, acquisition and number of rounds are not
published: here a Gaussian process with expected improvement (optuna's GPSampler), and 15 rounds.

mixtures.json  every mixture with its scores, and those that were kept
mixtures.md    the same as a table
mixtures.png   the same as a picture, where matplotlib is installed
state/         the journal of the search, from which a killed one goes on

With another `keep` or `apart` a finished search chooses again among the mixtures that it tried.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from culet.data.batches.shuffle import check_seed
from culet.data.simplex import to_point, to_shares
from culet.errors import RecipeError, TrainingError, need
from culet.files import fingerprint
from culet.files.atomic import new_file
from culet.files.settings import to_tables
from culet.stages.folder import StageFolder
from culet.stages.mixtures import Point, is_chosen_by, read_points, write_found

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Attempt:
    """What an objective is asked to try.

    Attributes:
        shares: Share of the batches of each source, by its name.
        seed: Seed of this run.
        folder: Where it may keep what it makes; the same for the same mixture and seed, so that
            a run that was killed can be taken up. Gone once it is scored.
    """

    shares: Mapping[str, float]
    seed: int
    folder: Path


Objective = Callable[[Attempt], float]


@dataclass(frozen=True)
class SearchMixtureConfig:
    """A search over the shares of some sources.

    Attributes:
        sources: Their names, in the order of `start`.
        start: Mixture to begin with, at any scale; equal shares if empty.
        random: Dirichlet draws that are tried next.
        concentration: Of that distribution; 1 makes all mixtures equally likely.
        rounds: Mixtures the optimiser then proposes.
        seeds: Runs of each mixture, whose scores are averaged: one run is a noisy judge.
        workers: Processes that try mixtures at the same time.
        keep: How many of the best mixtures are listed for the finetuning runs of a soup.
        apart: How far those are from each other at least, as the share of batches that differ.
        seed: Decides draws and proposals, and is the seed of each mixture's first run.
    """

    sources: tuple[str, ...]
    start: tuple[float, ...] = ()
    random: int = 10
    concentration: float = 1.0
    rounds: int = 15
    seeds: int = 1
    workers: int = 1
    keep: int = 3
    apart: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if len(self.sources) < 2 or len(set(self.sources)) < len(self.sources):
            raise RecipeError(
                f"a search needs two sources or more, of different names, got {list(self.sources)}"
            )
        if self.start and (
            len(self.start) != len(self.sources) or min(self.start) < 0 or not sum(self.start) > 0
        ):
            raise RecipeError(
                f"start must give each of {len(self.sources)} sources a share that is not "
                f"negative, and sum above 0; got {list(self.start)}"
            )
        least = min(self.rounds + self.random, self.seeds, self.workers, self.keep)
        if least < 1 or min(self.random, self.rounds) < 0 or not self.concentration > 0:
            raise RecipeError(
                "seeds, workers, keep and random + rounds must be at least 1, and concentration "
                f"above 0; got {to_tables(self)}"
            )


def run(
    config: SearchMixtureConfig,
    *,
    objective: Objective,
    out: Path,
    name: str = "search_mixture",
    device: str = "cpu",
    say: Callable[[str], None] = print,
    identity: str = "",
) -> Path:
    """Search and return the file of what was found, `out`/mixtures.json.

    With one worker the search depends on its seed and the scores alone, however often it is
    interrupted. With several, what is proposed depends on which runs end first.

    Args:
        config: The search.
        objective: Trains with some shares and returns the dev score, higher is better; never a
            score of the test tasks. With several workers it is pickled.
        out: The stage's folder.
        name: What messages call the stage.
        device: Not used here; the objective knows its own.
        say: Takes lines for the person watching.
        identity: Whatever the objective depends on beside the shares, as a fingerprint: another
            one is another search.

    Raises:
        TrainingError: If the objective fails, or returns what is no finite number.
        MissingExtra: If optuna is not installed.
    """
    settings = to_tables(config)
    for key in ("workers", "keep", "apart"):  # none changes what a mixture scores
        settings.pop(key)
    folder = StageFolder(
        out,
        fingerprint=fingerprint.of_settings([settings, identity]),
        settings={name: to_tables(config)},
    )
    found, tried = out / "mixtures.json", folder.state / "mixtures.json"
    if folder.result() and not is_chosen_by(found, keep=config.keep, apart=config.apart):
        _reopen(folder, found, tried)
    elif folder.announced(name, say):
        return found
    folder.state.mkdir(exist_ok=True)
    if tried.exists():
        points = read_points(tried)
        say(f"{name}: finished before; choosing again among its {len(points)} mixtures")
    else:
        points = _search(config, objective, folder.state, name=name, say=say)
    kept = write_found(
        out, config.sources, points, keep=config.keep, apart=config.apart, name=name, say=say
    )
    folder.finish({"mixtures": len(points), "score": kept[0].score})
    shutil.rmtree(folder.state)
    shares = ", ".join(f"{s} {v:.3f}" for s, v in zip(config.sources, kept[0].shares, strict=True))
    say(f"{name}: best {kept[0].score:.4f} with {shares}")
    return found


def _reopen(folder: StageFolder, found: Path, tried: Path) -> None:
    """Make a finished search an unfinished one that has only to choose.

    What was tried is put by first: a kill while the files are replaced costs no trial.
    """
    folder.state.mkdir(exist_ok=True)
    with new_file(tried) as aside:
        shutil.copyfile(found, aside)
    (folder.path / "done.json").unlink()


def _search(
    config: SearchMixtureConfig,
    objective: Objective,
    state: Path,
    *,
    name: str,
    say: Callable[[str], None],
) -> list[Point]:
    """Return what was tried, once that is enough."""
    study = _study(state)
    half_done = _prepare(study, config)
    while (missing := _total(config) - len(_complete(study))) > 0:
        say(f"{name}: {missing} of {_total(config)} mixtures to try")
        _try_all(study, config, objective, state, half_done, name=name, say=say)
        study, half_done = _study(state), []
    return [_point(trial) for trial in _complete(study)]


def _total(config: SearchMixtureConfig) -> int:
    return 1 + config.random + config.rounds


def _study(state: Path) -> optuna.Study:
    """Return the study in the journal of a folder."""
    need("optuna", extra="search", purpose="a mixture search")
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    # a warning with each proposal says that these could be quicker; they take half a second
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(state / "journal.log"))),
        study_name="mixtures",
        direction="maximize",
        load_if_exists=True,
    )


def _prepare(study: optuna.Study, config: SearchMixtureConfig) -> list[int]:
    """Put the first mixtures in line, and return the trials that a killed run left half done."""
    from optuna.trial import TrialState

    if not study.trials:
        rng = np.random.default_rng([config.seed, 3])
        alpha = np.full(len(config.sources), config.concentration)
        start = np.array(config.start or [1.0] * len(config.sources))
        draws = [("random", rng.dirichlet(alpha)) for _ in range(config.random)]
        for kind, shares in [("given", start), *draws]:
            point = _parameters(to_point(shares.tolist()))
            study.enqueue_trial(point, user_attrs={"kind": kind})
    half_done = []
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if len(trial.params) == len(config.sources) - 1:
            half_done.append(trial.number)
            continue
        study.tell(trial.number, state=TrialState.FAIL)  # it was not even known what to try
        if planned := trial.system_attrs.get("fixed_params"):
            study.enqueue_trial(planned, user_attrs=trial.user_attrs)
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
            f"{dead[0].name} ended with exit code {dead[0].exitcode}; run again to go on"
        )


def _worker(
    state: Path,
    config: SearchMixtureConfig,
    objective: Objective,
    half_done: list[int],
    failures: Any,
) -> None:
    """Try mixtures in a process of its own until there are enough."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _work(_study(state), config, objective, state, half_done, say=lambda line: None)
    except Exception as error:
        failures.put(f"{type(error).__name__}: {error}")


def _end_with_parent() -> None:
    """End this process once its parent has ended: the next run must not meet it in the folder."""
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
    """Try mixtures until there are enough; several processes may do so over one journal."""
    from optuna.distributions import BaseDistribution, FloatDistribution
    from optuna.trial import Trial, TrialState

    keys = _parameters([0.0] * (len(config.sources) - 1))
    space: dict[str, BaseDistribution] = {key: FloatDistribution(0.0, 1.0) for key in keys}

    def attempt(trial: Trial) -> None:
        kind = trial.user_attrs.get("kind", "search")
        trial.set_user_attr("kind", kind)
        shares = to_shares([trial.params[key] for key in keys])
        trial.set_user_attr("shares", shares.tolist())
        # where this fails, the trial stays as running, and the next run takes it up
        scores = _scores(config, shares, objective, state)
        trial.set_user_attr("scores", scores)
        study.tell(trial, float(np.mean(scores)))
        say(f"mixture {trial.number + 1}, {kind}: {np.mean(scores):.4f}")

    for number in half_done:
        attempt(Trial(study, study.trials[number]._trial_id))
    while True:
        begun = _begun(study.get_trials(deepcopy=False))
        study.sampler = _sampler(config, begun)
        trial = study.ask(space)
        # numbers are given out by the journal, one after another, so each process knows its place
        if _begun(study.get_trials(deepcopy=False)[: trial.number]) >= _total(config):
            study.tell(trial, state=TrialState.FAIL)
            return
        attempt(trial)


def _begun(trials: list[Any]) -> int:
    """Return how many of some trials are under way or done."""
    from optuna.trial import TrialState

    return sum(trial.state in (TrialState.RUNNING, TrialState.COMPLETE) for trial in trials)


def _sampler(config: SearchMixtureConfig, begun: int) -> Any:
    """Return what proposes the next mixture; seeded anew each time, so that it has no memory."""
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


def _point(trial: Any) -> Point:
    attributes = trial.user_attrs
    return Point(
        trial.number,
        attributes["kind"],
        tuple(attributes["shares"]),
        trial.value,
        tuple(attributes["scores"]),
    )
