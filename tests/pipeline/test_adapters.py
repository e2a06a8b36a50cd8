"""What the pipeline hands from stage to stage: mixtures that were found, scores of a soup."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training_doubles import checkpoint, toy_rows, write_lines

from culet.data.batches.sources import MixingConfig, SourceConfig
from culet.embedder import Embedder
from culet.errors import InputError, RecipeError
from culet.loading import load
from culet.pipeline import adapters, read_recipe, run, run_recipe
from culet.pipeline.adapters import Trial
from culet.pipeline.run import run_stages
from culet.stages import mine, prepare, teachers
from culet.stages.trials import Attempt
from culet.stages.tune_settings import TuneConfig, with_mixture, with_shares
from culet.train.contrastive_step import LossConfig
from culet.train.processes import World

CONFIG = TuneConfig(
    steps=1,
    sources=(SourceConfig(path=Path("x/web.jsonl")), SourceConfig(path=Path("y"), name="code")),
)


def found(
    folder: Path, *shares: list[float], sources: tuple[str, ...] = ("web.jsonl", "code")
) -> Path:
    path = folder / "mixtures.json"
    kept = [{"shares": list(point), "score": 0.5} for point in shares]
    path.write_text(json.dumps({"sources": sources, "kept": kept, "mixtures": kept}))
    return path


def test_a_mixture_gives_each_source_its_share_by_name(tmp_path: Path) -> None:
    path = found(tmp_path, [0.75, 0.25], [0.0, 1.0])
    assert [s.weight for s in with_mixture(CONFIG, path, 1).sources] == [0.75, 0.25]
    second = with_mixture(CONFIG, path, 2)
    assert [(s.name, s.weight) for s in second.sources] == [("code", 1.0)]  # none of the other
    turned = found(tmp_path, [0.75, 0.25], sources=("code", "web.jsonl"))
    assert [s.weight for s in with_mixture(CONFIG, turned, 1).sources] == [0.25, 0.75]


def test_the_shares_of_a_mixture_are_those_of_the_batches(tmp_path: Path) -> None:
    sized = replace(CONFIG, mixing=MixingConfig(size_exponent=1.0, size_cap=9))
    assert with_mixture(sized, found(tmp_path, [0.75, 0.25]), 1).mixing == MixingConfig()


def test_a_mixture_without_any_taught_source_needs_no_map_to_the_teacher() -> None:
    web, code = CONFIG.sources
    loss = LossConfig(distill_projection="learned")
    taught = replace(CONFIG, sources=(web, replace(code, teacher=Path("t"))), loss=loss)
    for share, projection in ((0.5, "learned"), (0.0, "prefix")):
        found = with_shares(taught, {"web.jsonl": 1 - share, "code": share}, where="the search")
        assert found.loss.distill_projection == projection


def test_a_trial_judges_shares_and_not_how_often_a_source_may_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = (
        write_lines(tmp_path / "a.jsonl", toy_rows(6)),
        write_lines(tmp_path / "b.jsonl", toy_rows(6)),
    )
    a, b = (SourceConfig(path=path, name=name) for path, name in zip(rows, "ab", strict=True))
    config = TuneConfig(steps=5, batch_size=3, sources=(replace(a, max_epochs=1.0), b))
    monkeypatch.setattr(adapters, "mean_score", lambda *args: 0.25)
    trial = Trial(config, checkpoint(tmp_path / "start"), tmp_path, "cpu")
    assert trial(Attempt({"a": 1.0, "b": 0.0}, 0, tmp_path / "out")) == 0.25
    assert len((tmp_path / "out/log.jsonl").read_text().splitlines()) == 5


def test_a_mixture_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"holds 1 mixtures that are far enough apart, and number 2.*raise its `k"
    ):
        with_mixture(CONFIG, found(tmp_path, [0.5, 0.5]), 2)
    for keep, remedy in ((1, "; raise `keep` of the search, which is 1$"), (2, "; search .*rch$")):
        file = found(tmp_path, [0.5, 0.5])
        file.write_text(json.dumps(json.loads(file.read_text()) | {"keep": keep, "apart": 0.1}))
        with pytest.raises(InputError, match=remedy):
            with_mixture(CONFIG, file, 2)
    other = found(tmp_path, [0.5, 0.5], sources=("web", "code"))
    with pytest.raises(InputError, match=r"is about the sources web, code; the stage has web\.js"):
        with_mixture(CONFIG, other, 1)
    other.write_text("{")
    with pytest.raises(InputError, match=r"mixtures\.json does not hold the mixtures of a search"):
        with_mixture(CONFIG, other, 1)
    with pytest.raises(InputError, match="the search is about the sources code; the stage has"):
        with_shares(CONFIG, {"code": 1.0}, where="the search")


SEARCH = """[run]
folder = "{0}/r"
[search_mixture]
init = "{0}/m"
dev = "{0}/dev"
random = 3
rounds = 0
[search_mixture.trial]
steps = 1
sources = [{{path = "{0}/a.jsonl"}}, {{path = "{0}/b.jsonl"}}]
[finetune]
init = "{0}/m"
mixture = "search_mixture"
mixture_number = 2
steps = 1
batch_size = 4
sources = [{{path = "{0}/a.jsonl"}}, {{path = "{0}/b.jsonl"}}]
"""


@pytest.mark.filterwarnings("ignore")  # greenlet makes the sampler faster and is not needed
def test_a_search_that_keeps_others_is_noticed_by_the_stage_that_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    checkpoint(tmp_path / "m")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/task.json").write_text("{}")
    for name in "ab":
        write_lines(tmp_path / f"{name}.jsonl", toy_rows(6))
    (tmp_path / "recipe.toml").write_text(SEARCH.format(tmp_path))
    tried: list[float] = []

    def score(self: Trial, attempt: Attempt) -> float:
        tried.append(attempt.shares["a.jsonl"])
        return tried[-1]

    monkeypatch.setattr(Trial, "__call__", score)

    def go(*settings: str) -> list[str]:
        said: list[str] = []
        overrides = [f"search_mixture.{setting}" for setting in settings]
        recipe = read_recipe(tmp_path / "recipe.toml", overrides)
        run_stages(recipe, list(recipe.stages), world=World(device="cpu"), say=said.append)
        return said

    def trained_on() -> float:
        recipe = tomllib.loads((tmp_path / "r/finetune/recipe.toml").read_text())
        return float(recipe["finetune"]["sources"][0]["weight"])

    with pytest.raises(InputError, match="number 2 is asked for; raise `keep` of the search"):
        go("keep=1")
    shares = sorted(tried, reverse=True)
    go("keep=2", "apart=0.0")
    assert trained_on() == shares[1]
    between = shares[0] - (shares[1] + shares[2]) / 2  # the third is so far from the best
    assert "finetune: settings or data have" in " ".join(go("keep=2", f"apart={between}"))
    assert trained_on() == shares[2]
    assert len(tried) == 4
    # one more that is kept changes nothing for who takes the second
    assert "finetune: finished before, nothing to do" in go("keep=3", f"apart={between}")
    assert go("keep=3", f"apart={between}") == [
        f"{name}: finished before, nothing to do" for name in ("search_mixture", "finetune")
    ]


def test_a_greedy_soup_without_dev_tasks_is_refused(tmp_path: Path) -> None:
    models = [str(checkpoint(tmp_path / name)) for name in ("a", "b")]
    path = tmp_path / "recipe.toml"
    path.write_text(f'[run]\nfolder = "r"\n[merge]\nmodels = {models}\nmethod = "greedy"\n')
    with pytest.raises(
        RecipeError, match=r"\[merge\] a greedy soup goes by dev scores: give it `d"
    ):
        read_recipe(path)


@pytest.mark.parametrize("given", ["dev", "evaluate"])
def test_a_greedy_soup_is_made_again_for_other_dev_tasks(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [str(checkpoint(tmp_path / name)) for name in ("a", "b")]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "task.json").write_text(json.dumps(name))
    asked: list[str] = []

    def score(folder: Path, tasks: Path, **rest: Any) -> float:
        asked.append(tasks.name)
        return 0.5

    monkeypatch.setattr(run, "mean_score", score)
    path = tmp_path / "recipe.toml"
    for name in ("one", "one", "two", "one"):
        dev = f'dev = "{tmp_path}/{name}"\n' if given == "dev" else ""
        path.write_text(
            f'[run]\nfolder = "{tmp_path}/r"\n'
            f'[merge]\nmodels = {models}\nmethod = "greedy"\n{dev}'
            f'[evaluate]\ntasks = "{tmp_path}/{name}"\n'
        )
        run_stages(read_recipe(path), ["merge"], world=World(device="cpu"), say=lambda line: None)
    # the second time nothing is new; the fourth takes up what the third moved aside
    assert asked == ["one"] * 3 + ["two"] * 3


def test_a_soup_by_given_weights_does_not_depend_on_the_tasks(tmp_path: Path) -> None:
    models = [str(checkpoint(tmp_path / name)) for name in ("a", "b")]
    path = tmp_path / "recipe.toml"
    path.write_text(
        f'[run]\nfolder = "r"\n[merge]\nmodels = {models}\n[evaluate]\ntasks = "{tmp_path}"\n'
    )
    assert tmp_path not in read_recipe(path).stages["merge"].files


def test_stages_that_embed_keep_to_the_threads_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows = checkpoint(tmp_path / "m"), write_lines(tmp_path / "rows.jsonl", toy_rows(20))
    sources = f'sources = [{{path = "{rows}", name = "rows", licence = "CC0"}}]\n'
    mined = sources.replace(', licence = "CC0"', "")
    path = tmp_path / "recipe.toml"
    path.write_text(
        f'[run]\nfolder = "{tmp_path}/r"\nthreads = 1\n'
        f'[prepare]\n{sources}[prepare.consistency]\nmodel = "{model}"\n'
        f'[mine]\ninit = "{model}"\n{mined}'
        f'[teach]\nteacher = "{model}"\nsources = [{{path = "{rows}"}}]\n'
    )
    asked = []

    def counted(*args: Any, **settings: Any) -> Embedder:
        asked.append(settings["threads"])
        return load(*args, **settings)

    for module in (prepare, mine, teachers):
        monkeypatch.setattr(module, "load", counted)
    run_recipe(path, say=lambda line: None)
    assert asked == [1, 1, 1]
