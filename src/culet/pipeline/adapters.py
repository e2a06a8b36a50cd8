"""What stages need of each other and may not import: training in a search, scores in a soup.

The keys here are read by the pipeline and not by the stage: `trial` and `dev` of a search, `dev` of
a merge, `mixture_number` of a tuning stage.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from culet.checkpoints.embedding import read_embedding_model
from culet.errors import RecipeError
from culet.files import fingerprint
from culet.pipeline.stage import Job, Stage
from culet.stages import tune
from culet.stages.tuneconfig import TuneConfig, label, with_mixture, with_shares
from culet.terminal.lines import silent

if TYPE_CHECKING:
    from culet.stages.trials import Attempt


@dataclass(frozen=True)
class MixtureChoice:
    """Which mixture of a search a tuning stage takes.

    Attributes:
        mixture_number: 1 is the best, 2 the next that is far enough from it.
    """

    mixture_number: int = 1

    def __post_init__(self) -> None:
        if self.mixture_number < 1:
            raise RecipeError(f"mixture_number must be at least 1, got {self.mixture_number}")


@dataclass(frozen=True)
class Search:
    """What a search of mixtures tries.

    Attributes:
        trial: The short finetune of one mixture; weights of its sources are the first mixture.
        dev: Folder of the tasks that are scored; those of [evaluate] if left out.
    """

    trial: TuneConfig
    dev: Path | None = None


@dataclass(frozen=True)
class Dev:
    """What a greedy soup goes by.

    Attributes:
        dev: Folder of the tasks that are scored; those of [evaluate] if left out.
    """

    dev: Path | None = None


def check_tune(stage: Stage) -> None:
    """Refuse the number of a mixture where there is no mixture."""
    number = stage.extra.mixture_number
    if number > 1 and stage.inputs["mixture"] is None:
        raise RecipeError(
            f"[{stage.name}] mixture_number = {number} needs a `mixture`: the name of a stage "
            "search_mixture, or a path of its mixtures.json"
        )


def run_tune(job: Job) -> object:
    """Run a tuning stage, with the shares of a mixture that was searched if it names one."""
    stage, watch, evaluate = job.stage, job.watch, None
    if watch is not None and stage.config.eval_every:

        def evaluate(model: object, step: int) -> None:
            watch(stage, step, model)

    config: TuneConfig = stage.config
    mixture = stage.inputs["mixture"]
    if isinstance(mixture, Path):
        config = with_mixture(config, mixture, stage.extra.mixture_number)
    init = stage.inputs["init"]
    assert isinstance(init, Path)
    return tune.run(
        config,
        init=init,
        out=stage.folder,
        name=stage.name,
        device=job.device,
        say=job.say,
        evaluate=evaluate,
    )


@dataclass(frozen=True)
class Trial:
    """Trains with some shares and returns the dev score; can be sent to another process.

    Attributes:
        config: The short finetune.
        init: Checkpoint it starts from.
        dev: Folder of tasks.
        device: Where it trains.
        threads: Of scoring.
    """

    config: TuneConfig
    init: Path
    dev: Path
    device: str
    threads: int | None = None

    def __call__(self, attempt: Attempt) -> float:
        """Return the mean score of the dev tasks, from 0 to 1."""
        config = with_shares(self.config, dict(attempt.shares), where="the search")
        # what is judged is the shares; a corner of them could not fill the steps within limits
        unlimited = tuple(replace(source, max_epochs=None) for source in config.sources)
        tuned = tune.run(
            replace(config, sources=unlimited, seed=attempt.seed),
            init=self.init,
            out=attempt.folder,
            name="trial",
            device=self.device,
            say=silent,
        )
        return mean_score(tuned, self.dev, self.device, self.threads)


def complete_search(settings: dict[str, Any], extra: Search) -> dict[str, Any]:
    """Return the settings of a search with sources and first mixture of its trial."""
    names = [label(source) for source in extra.trial.sources]
    if len(set(names)) < len(names):
        raise RecipeError(f"sources of a search need different names, got {names}; name them")
    mixing = extra.trial.mixing
    if mixing.size_exponent:
        raise RecipeError(
            "a search is over shares of the batches, which `mixing` of its trial would change: "
            f"expected none, got size_exponent = {mixing.size_exponent}; leave trial.mixing out, "
            "and give the shares to begin with as the weights of the trial's sources"
        )
    given = {"sources": names, "start": [source.weight for source in extra.trial.sources]}
    return given | settings


def run_search(job: Job) -> object:
    """Search mixtures by training with each of them."""
    from culet.stages import search_mixture

    stage, extra = job.stage, job.stage.extra
    init = stage.inputs["init"]
    assert isinstance(init, Path)
    dev = _dev(stage, extra.dev, needed_for="a search of mixtures goes")
    trial = Trial(extra.trial, init, dev, job.device, job.threads)
    data = tune.run_fingerprint(extra.trial, read_embedding_model(init), run=stage.folder.parent)
    return search_mixture.run(
        stage.config,
        objective=trial,
        out=stage.folder,
        name=stage.name,
        device=job.device,
        say=job.say,
        identity=f"{data} {fingerprint.of_folder(dev)}",
    )


def check_merge(stage: Stage) -> None:
    """Refuse weights that are not one a model, before the models are trained."""
    from culet.stages.merge import check_weights

    models = stage.inputs["models"]
    assert isinstance(models, tuple)
    if not stage.config.last:  # how many snapshots there will be is known later
        try:
            check_weights(stage.config, len(models))
        except RecipeError as error:
            raise RecipeError(f"[{stage.name}] {error}") from None


def run_merge(job: Job) -> object:
    """Average models, by dev scores if that is asked for."""
    from culet.stages import merge

    stage = job.stage
    models = stage.inputs["models"]
    assert isinstance(models, tuple)
    score, identity = None, ""
    if stage.config.method == "greedy":
        dev = _dev(stage, stage.extra.dev, needed_for="a greedy soup goes")

        identity = fingerprint.of_folder(dev)

        def score(folder: Path) -> float:
            return mean_score(folder, dev, job.device, job.threads)

    return merge.run(
        stage.config,
        models=models,
        out=stage.folder,
        name=stage.name,
        device=job.device,
        say=job.say,
        score=score,
        identity=identity,
    )


def mean_score(checkpoint: Path, tasks: Path, device: str, threads: int | None = None) -> float:
    """Return the mean main score of some tasks, from 0 to 1."""
    from culet.evaluate.evaluation import evaluate
    from culet.evaluate.tasks import list_tasks, read_task
    from culet.loading import load

    embedder = load(checkpoint, device=device, threads=threads)
    scores = [evaluate(embedder, read_task(i.folder)).main_score for i in list_tasks(tasks)]
    return sum(scores) / len(scores)


def _dev(stage: Stage, given: Path | None, *, needed_for: str) -> Path:
    if given is None:
        raise RecipeError(
            f"[{stage.name}] {needed_for} by dev scores: give it `dev`, a folder of tasks, or "
            "the recipe a section [evaluate]"
        )
    return given
