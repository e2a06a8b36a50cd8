"""Stage search_mixture: shares of the sources that make a short finetune score best.

EmbeddingGemma (arXiv 2509.20354, section 2.3) optimises its mixture by Bayesian optimisation, from
the mixture of an earlier grid search and 10 draws of a Dirichlet distribution, and averages the
models of several mixtures that were found. Surrogate, acquisition and number of rounds are not
published: here a Gaussian process with expected improvement (optuna's GPSampler), and 15 rounds.

mixtures.json  every mixture with its scores, and those that were kept
mixtures.md    the same as a table
mixtures.png   the same as a picture, where matplotlib is installed
state/         the journal of the search, from which a killed one resumes

With another `keep` or `apart` a finished search chooses again among the mixtures that it tried.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

from culet.data.batches.shuffle import check_seed
from culet.errors import RecipeError
from culet.files import fingerprint
from culet.files.atomic import new_file
from culet.files.settings import LATER, to_tables
from culet.stages import tune
from culet.stages.contract import Contract, Input, Inputs, Job, run_fingerprint
from culet.stages.estimate import Context, Disk, Estimate
from culet.stages.folder import StageFolder
from culet.stages.mixtures import is_chosen_by, read_points, write_found
from culet.stages.trials import tried_mixtures
from culet.stages.tune_settings import TuneConfig, label
from culet.stages.tune_settings import estimate as estimate_of_a_trial

_MIXTURE = 20_000  # bytes of a mixture in tables, picture and journal


@dataclass(frozen=True)
class SearchMixtureConfig:
    """A search over the shares of some sources.

    Attributes:
        sources: Their names, in the order of `start`; those of the trial if empty.
        start: Mixture to begin with, at any scale; the weights of the trial's sources if empty,
            equal shares without a trial.
        random: Dirichlet draws that are tried next.
        concentration: Of that distribution; 1 makes all mixtures equally likely.
        rounds: Mixtures the optimiser then proposes.
        seeds: Runs of each mixture, whose scores are averaged: one run is a noisy judge.
        workers: Processes that try mixtures at the same time.
        keep: How many of the best mixtures are listed for the finetuning runs of a soup.
        apart: Minimum distance between those, as the share of batches that differ.
        seed: Seed of draws and proposals, and the seed of each mixture's first run.
        trial: The short finetune of one mixture.
    """

    sources: tuple[str, ...] = ()
    start: tuple[float, ...] = ()
    random: int = 10
    concentration: float = 1.0
    rounds: int = 15
    seeds: int = 1
    workers: int = 1
    keep: int = 3
    apart: float = 0.05
    seed: int = 0
    trial: TuneConfig | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.trial is not None:
            self._take_sources(self.trial)
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
        lowest = min(self.rounds + self.random, self.seeds, self.workers, self.keep)
        if lowest < 1 or min(self.random, self.rounds) < 0 or not self.concentration > 0:
            raise RecipeError(
                "seeds, workers, keep and random + rounds must be at least 1, and concentration "
                f"above 0; got {to_tables(self)}"
            )

    def _take_sources(self, trial: TuneConfig) -> None:
        """Fill in names and shares of the trial's sources, where they are not given."""
        names = tuple(label(source) for source in trial.sources)
        if len(set(names)) < len(names):
            raise RecipeError(
                f"sources of a search need different names, got {list(names)}; name them"
            )
        if trial.mixing.size_exponent:
            raise RecipeError(
                "a search is over shares of the batches, which `mixing` of its trial would change: "
                f"expected none, got size_exponent = {trial.mixing.size_exponent}; leave "
                "trial.mixing out, and give the shares to begin with as the weights of the trial's "
                "sources"
            )
        weights = tuple(source.weight for source in trial.sources)
        object.__setattr__(self, "sources", self.sources or names)
        object.__setattr__(self, "start", self.start or weights)

    @property
    def total(self) -> int:
        """Return how many mixtures are tried."""
        return 1 + self.random + self.rounds


def run(
    config: SearchMixtureConfig, folder: StageFolder, job: Job, *, init: Path, dev: Path
) -> None:
    """Search and write what was found to mixtures.json.

    With one worker the search depends on its seed and the scores alone, however often it is
    interrupted. With several, proposals depend on which runs end first.

    Raises:
        TrainingError: If the objective fails, or its score is not finite.
        MissingExtra: If optuna is not installed.
    """
    name, say, out = job.name, job.say, folder.path
    found, tried = out / "mixtures.json", folder.state / "mixtures.json"
    if folder.result():
        _reopen(folder, found, tried)
    folder.state.mkdir(exist_ok=True)
    if tried.exists():
        points = read_points(tried)
        say(f"{name}: finished before; choosing again among its {len(points)} mixtures")
    else:
        assert job.trial is not None
        objective = job.trial(config.trial, init, dev)
        points = tried_mixtures(config, objective, folder.state, name=name, say=say)
    kept = write_found(
        out, config.sources, points, keep=config.keep, apart=config.apart, name=name, say=say
    )
    folder.finish({"mixtures": len(points), "score": kept[0].score})
    shutil.rmtree(folder.state)
    shares = ", ".join(f"{s} {v:.3f}" for s, v in zip(config.sources, kept[0].shares, strict=True))
    say(f"{name}: best {kept[0].score:.4f} with {shares}")


def estimate(config: SearchMixtureConfig, context: Context) -> Estimate:
    """Return what the trials would take, without their scores."""
    assert config.trial is not None  # settle
    trial = estimate_of_a_trial(config.trial, context)
    runs = config.total * config.seeds
    kept = _MIXTURE * config.total
    return replace(
        trial,
        steps=runs * (trial.steps or 0),
        tokens=runs * (trial.tokens or 0),
        logged_by="culet.stages.tune",
        disk=trial.disk and Disk(kept + config.workers * trial.disk.peak, kept),
        models={},
    )


def _reopen(folder: StageFolder, found: Path, tried: Path) -> None:
    """Reopen a finished search, of which only the choice is left to do.

    Its trials are saved first, so that a kill while files are replaced loses none.
    """
    folder.state.mkdir(exist_ok=True)
    with new_file(tried) as aside:
        shutil.copyfile(found, aside)
    (folder.path / "done.json").unlink()


def reads(config: SearchMixtureConfig, inputs: Inputs) -> list[str]:
    """Return what the score of a mixture depends on: the run of a trial, and the tasks."""
    if config.trial is None:
        return [""]
    run, by_path = inputs["run"], inputs["by_path"]
    given = {"init": inputs["init"], "mixture": None}
    trial = run_fingerprint(tune.STAGE, config.trial, given, run=run, by_path=by_path)
    return [f"{trial} {fingerprint.of_folder(inputs['dev'])}"]


def settle(config: SearchMixtureConfig, inputs: Inputs) -> SearchMixtureConfig:
    """Refuse a search without a trial or without tasks."""
    if inputs["init"] is not None and config.trial is None:
        raise RecipeError("a search needs a table `trial`: the short finetune of one mixture")
    if inputs["init"] is not None and inputs["dev"] is None:
        raise RecipeError(
            "a search of mixtures goes by dev scores: give it `dev`, a folder of tasks, or the "
            "recipe a section [evaluate]"
        )
    return config


def is_current(config: SearchMixtureConfig, folder: Path) -> bool:
    """Return whether a finished search has kept what these settings keep."""
    found = folder / "mixtures.json"
    return not found.exists() or is_chosen_by(found, keep=config.keep, apart=config.apart)


STAGE = Contract(
    config=SearchMixtureConfig,
    gives={"mixture": "mixtures.json"},
    run=run,
    reads=reads,
    estimate=estimate,
    inputs=(Input("init", ("model",)), Input("dev", ("tasks",), needed=False)),
    unimportant=("workers", "keep", "apart", "trial"),
    records=("trial.sources",),
    settle=settle,
    is_current=is_current,
)
