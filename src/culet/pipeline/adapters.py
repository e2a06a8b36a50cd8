"""What stages need of each other and may not import: training in a search, scores in a soup."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from culet.terminal.lines import silent

if TYPE_CHECKING:
    from culet.stages.trials import Attempt
    from culet.stages.tune_settings import TuneConfig


@dataclass(frozen=True)
class Trial:
    """Trains with some shares and returns the dev score; can be sent to another process.

    Attributes:
        config: The short finetune.
        init: Checkpoint it starts from.
        dev: Folder of tasks.
        device: Where it trains.
        threads: CPU threads of scoring; None leaves the backend's choice.
    """

    config: TuneConfig
    init: Path
    dev: Path
    device: str
    threads: int | None = None

    def __call__(self, attempt: Attempt) -> float:
        """Return the mean score of the dev tasks, from 0 to 1."""
        from culet.stages import tune
        from culet.stages.contract import run_stage
        from culet.stages.tune_settings import with_shares

        config = with_shares(self.config, dict(attempt.shares), where="the search")
        # the shares are judged; a corner of them could not fill the steps within limits
        unlimited = tuple(replace(source, max_epochs=None) for source in config.sources)
        checkpoint = run_stage(
            tune.STAGE,
            replace(config, sources=unlimited, seed=attempt.seed),
            init=self.init,
            out=attempt.folder,
            name="trial",
            device=self.device,
            say=silent,
        )
        return mean_score(checkpoint, self.dev, self.device, self.threads)


def mean_score(checkpoint: Path, tasks: Path, device: str, threads: int | None = None) -> float:
    """Return the mean main score of some tasks, from 0 to 1."""
    from culet.evaluate.evaluation import evaluate, mean_main_score
    from culet.evaluate.tasks import list_tasks, read_task
    from culet.loading import load

    embedder = load(checkpoint, device=device, threads=threads)
    return mean_main_score([evaluate(embedder, read_task(i.folder)) for i in list_tasks(tasks)])
