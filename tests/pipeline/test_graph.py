"""Sections as a graph: what a stage reads, by default and by name, and what is refused."""

from __future__ import annotations

from dataclasses import is_dataclass
from inspect import signature
from pathlib import Path

import pytest

from culet.checkpoints.embedding import read_embedding_model
from culet.errors import RecipeError
from culet.files.settings import identity
from culet.loading import PACKAGED
from culet.pipeline import Recipe, read_recipe
from culet.pipeline.kinds import KINDS, Kind
from culet.pipeline.precheck import check_inputs

SOURCES = '[{path = "pairs.jsonl"}]'
START = '[start]\ncorpus = ["pairs.jsonl"]\n'
TUNE = f"steps = 2\nsources = {SOURCES}\n"


def read(folder: Path, text: str) -> Recipe:
    path = folder / "recipe.toml"
    path.write_text('[run]\nfolder = "r"\n' + text)
    return read_recipe(path)


def test_a_stage_that_is_like_another_has_the_keys_of_its_tables_too(tmp_path: Path) -> None:
    recipe = read(
        tmp_path,
        f"{START}[finetune]\n{TUNE}[finetune.optim]\nlr = 0.5\nwarmup_steps = 20\n"
        '[b]\nlike = "finetune"\n[b.optim]\nlr = 0.25\n'
        '[c]\nlike = "b"\nsources = [{path = "other.jsonl"}]\n',
    )
    rates = {name: recipe.stages[name].config.optim for name in ("finetune", "b", "c")}
    assert [(r.lr, r.warmup_steps) for r in rates.values()] == [(0.5, 20), (0.25, 20), (0.25, 20)]
    assert [s.path for s in recipe.stages["c"].config.sources] == [Path("other.jsonl")]


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_every_kind_has_a_stage_that_can_be_run(kind: Kind) -> None:
    contract = kind.contract()
    assert is_dataclass(contract.config)
    assert list(signature(contract.run).parameters) == [
        "config",
        "folder",
        "job",
        *(spec.key for spec in contract.inputs),
    ]


def test_a_stage_reads_the_nearest_one_above_that_gives_what_it_takes(tmp_path: Path) -> None:
    recipe = read(
        tmp_path,
        START
        + f"[prefinetune]\n{TUNE}[mine]\nsources = {SOURCES}\n[finetune]\n{TUNE}"
        + f'[again]\nkind = "finetune"\n{TUNE}',
    )
    inits = {name: stage.inputs.get("init") for name, stage in recipe.stages.items()}
    assert inits == {
        "start": None,
        "prefinetune": Path("r/start/checkpoint"),
        "mine": Path("r/prefinetune/checkpoint"),
        "finetune": Path("r/prefinetune/checkpoint"),  # mine gives data and no model
        "again": Path("r/finetune/checkpoint"),
    }
    assert recipe.stages["finetune"].needs == ("prefinetune",)


@pytest.mark.parametrize(
    ("init", "path", "needs"),
    [
        ("start", "r/start/checkpoint", ("start",)),
        ("@start", "r/start/checkpoint", ("start",)),
        ("@start/elsewhere", "r/start/elsewhere", ("start",)),
        ("./start", "start", ()),
        ("some/model", "some/model", ()),
    ],
)
def test_an_input_is_a_stage_or_a_path(
    init: str, path: str, needs: tuple[str, ...], tmp_path: Path
) -> None:
    recipe = read(tmp_path, START + f"[prefinetune]\n{TUNE}[finetune]\ninit = {init!r}\n{TUNE}")
    stage = recipe.stages["finetune"]
    assert stage.inputs["init"] == Path(path)
    assert stage.needs == needs
    # a path is one of the stage's settings, as it has always been; a stage is not
    assert stage.config.init == (None if needs else Path(path))


def test_any_path_can_lie_in_the_folder_of_a_stage(tmp_path: Path) -> None:
    recipe = read(
        tmp_path,
        START
        + f"[mine]\nsources = {SOURCES}\n[finetune]\nsteps = 2\n"
        + 'sources = [{path = "@mine"}, {path = "@mine/data/x"}, {path = "pairs.jsonl"}]\n',
    )
    stage = recipe.stages["finetune"]
    paths = [source.path for source in stage.config.sources]
    assert paths == [Path("r/mine/data"), Path("r/mine/data/x"), Path("pairs.jsonl")]
    assert stage.needs == ("start", "mine")
    assert stage.files == (Path("pairs.jsonl"),)


def test_stages_that_are_alike_start_from_the_same(tmp_path: Path) -> None:
    recipe = read(
        tmp_path,
        START
        + f'[a]\nkind = "finetune"\n{TUNE}[b]\nlike = "a"\nseed = 3\n[c]\nlike = "b"\nsteps = 9\n'
        + '[merge]\nmodels = ["a", "b", "@c", "other/model"]\n',
    )
    assert [recipe.stages[name].kind.name for name in "abc"] == ["finetune"] * 3
    assert {recipe.stages[name].inputs["init"] for name in "abc"} == {Path("r/start/checkpoint")}
    configs = [recipe.stages[name].config for name in "abc"]
    assert [(c.steps, c.seed) for c in configs] == [(2, 0), (2, 3), (9, 3)]
    merge = recipe.stages["merge"]
    places = [Path(f"r/{name}/checkpoint") for name in "abc"]
    assert merge.inputs == {"models": (*places, Path("other/model")), "dev": None}
    assert merge.needs == ("a", "b", "c")
    assert merge.files == (Path("other/model"),)


ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "file", sorted([*ROOT.glob("recipes/*.toml"), *ROOT.glob("demo/*.toml")]), ids=lambda f: f.name
)
def test_every_recipe_of_the_project_can_be_read(file: Path) -> None:
    recipe = read_recipe(file)
    assert "model" in list(recipe.stages.values())[-1].gives


def test_runs_of_the_first_version_keep_their_fingerprints() -> None:
    """A setting that came later must be marked so; see `culet.files.settings.LATER`."""
    config = read_recipe(ROOT / "demo/recipe.toml").stages["finetune"].config
    settings = identity(config)
    assert set(settings) == {
        "steps", "sources", "batch_size", "num_negatives", "max_tokens", "dropout", "loss", "optim",
        "chunking", "seed", "compute_dtype", "save_dtype", "save_every", "eval_every",
        "skip_bad_records",
    }  # fmt: skip
    assert set(settings["sources"][0]) == {"path", "weight", "task", "name", "batch_by"}
    assert set(settings["loss"]) == {
        "temperature", "learn_temperature", "hardness", "directions", "samtone", "literal",
        "spread_out", "distill", "distill_distance", "widths",
    }  # fmt: skip


DOCS = (ROOT / "docs/training.md").read_text(encoding="utf-8")


def test_the_documented_graph_is_one(tmp_path: Path) -> None:
    example = next(b for b in DOCS.split("```") if b.startswith("toml") and "[merge]" in b)
    recipe = read(tmp_path, START + example.removeprefix("toml"))
    assert recipe.stages["merge"].needs == ("finetune-a", "finetune-b")
    assert recipe.stages["finetune-b"].config.mixture_number == 2
    assert recipe.stages["finetune-b"].inputs["mixture"] == Path("r/search_mixture/mixtures.json")
    search = recipe.stages["search_mixture"]
    assert (search.config.sources, search.config.start) == (("web", "code"), (3.0, 1.0))


def test_the_documentation_lists_every_kind_with_what_it_reads_and_gives() -> None:
    rows = {}
    for line in DOCS.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 3:
            rows |= dict.fromkeys(cells[0].replace("`", "").split(", "), cells)
    for kind in KINDS.values():
        _, takes, gives = rows[kind.name]
        contract = kind.contract()
        assert all(f"`{spec.key}`" in takes for spec in contract.inputs), kind.name
        assert all(output in gives for output in contract.gives), kind.name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"has no stage; add a section such as \[start\]"),
        ("x = 3\n", "x must be a section, got x = 3"),
        (f'["a.b"]\nkind = "finetune"\n{TUNE}', r"named with letters, digits, - and _.*\[a\.b\]"),
        (f'[a]\nkind = "tune"\n{TUNE}', r"\[a\] has the unknown kind 'tune'; known are: run, st"),
        ("[a]\nsteps = 2\n", "has an unknown section: a; known are: .*give it one of these as `k"),
        (f"[finetune]\n{TUNE}", r"\[finetune\] has nothing to start from; add a section \[start\]"),
        (f"{START}[adapt]\n", r"\[adapt\] has nothing to start from.*`decoder` to \[adapt\]"),
        (f"{START}[merge]\n", r"\[merge\] has nothing to start from.*`models` to \[merge\]"),
        (f"{START}[merge]\nmodels = 'start'\n", "merge.models must be a list of stages or paths"),
        (
            f"{START}[finetune]\ninit = 3\n{TUNE}",
            "finetune.init must name a stage or a path, got 3",
        ),
        (
            f"[finetune]\ninit = '@start'\n{TUNE}{START}",
            r"\[finetune\] '@start': there is no stage start above it; those above: none",
        ),
        (
            f"{START}[finetune]\nsteps = 2\nsources = [{{path = '@mine'}}]\n",
            r"\[finetune\] '@mine': there is no stage mine above it; those above: start",
        ),
        (
            f"{START}[mine]\nsources = {SOURCES}\n[finetune]\ninit = 'mine'\n{TUNE}",
            r"\[finetune\] init = 'mine': expected a stage that gives model; mine gives data",
        ),
        (f"{START}[b]\nlike = 'a'\n", r"\[b\] like = 'a': there is no section of that name above"),
        (
            f"{START}[finetune]\nmixture_number = 0\n{TUNE}",
            r"\[finetune\] mixture_number must be at least 1, got 0",
        ),
        (
            f"{START}[search_mixture.trial]\nsteps = 1\n"
            "sources = [{path = 'a/x.jsonl'}, {path = 'b/x.jsonl'}]\n",
            "sources of a search need different names, got .'x.jsonl', 'x.jsonl'.",
        ),
        (
            f"{START}[search_mixture.trial]\nsteps = 1\nmixing = {{size_exponent = 0.5}}\n"
            "sources = [{path = 'a.jsonl'}, {path = 'b.jsonl'}]\n",
            "a search is over shares of the batches.*got size_exponent = 0.5; leave trial.mixing o",
        ),
        (
            f"{START}[finetune]\nmixture_number = 2\n{TUNE}",
            r"\[finetune\] mixture_number = 2 needs a `mixture`: the name of a stage search_mix",
        ),
        (
            f"{START}[finetune]\n{TUNE}[merge]\nmodels = ['start', 'finetune']\n"
            "method = 'weighted'\nweights = [1.0, 2.0, 3.0]\n",
            r"\[merge\] expected a weight for each of 2 models, got \[1.0, 2.0, 3.0\]",
        ),
        (
            f"{START}[adapt]\ndecoder = 'd.gguf'\nseed = -1\n",
            r"\[adapt\] seed must be from 0 to 2\^63 - 1, got -1",
        ),
        ("[start]\ncorpus = ['x']\nseed = -1\n", r"\[start\] seed must be from 0 to 2"),
        (
            "[decoder]\nsteps = 1\nsources = [{path = 'x'}]\nseed = -1\n",
            r"\[decoder\] seed must be from 0 to 2\^63 - 1, got -1",
        ),
    ],
)
def test_a_wrong_graph_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    run = '[run]\nfolder = "r"\n'
    path.write_text(text + run if text.startswith("x") else run + text)
    with pytest.raises(RecipeError, match=message):
        read_recipe(path)


def prepared(folder: Path, table: str) -> Recipe:
    (folder / "pairs.jsonl").write_text('{"query": "q", "positive": "p"}\n')
    sources = f'sources = [{{path = "{folder}/pairs.jsonl", licence = "CC0"}}]\n'
    return read(folder, f"{START}[prepare]\n{sources}{table}")


@pytest.mark.parametrize(
    ("model", "path", "needs"),
    [
        ('model = "@start"', "r/start/checkpoint", ("start",)),
        ('model = "google/embeddinggemma-300m"', "google/embeddinggemma-300m", ()),
        ("", None, ()),
    ],
)
def test_consistency_goes_by_a_stage_a_hub_id_or_the_packaged_model(
    model: str, path: str | None, needs: tuple[str, ...], tmp_path: Path
) -> None:
    recipe = prepared(tmp_path, f"[prepare.consistency]\n{model}\n")
    stage = recipe.stages["prepare"]
    assert stage.config.consistency.model == (path and Path(path))
    assert stage.needs == needs
    assert stage.files == (tmp_path / "pairs.jsonl",)
    if not needs:
        check_inputs(recipe, ["prepare"])
    if path is None:
        packaged = read_embedding_model(PACKAGED).fingerprint
        assert packaged in stage.contract.reads(stage.config, stage.inputs)


def test_a_file_of_answers_need_not_be_there(tmp_path: Path) -> None:
    asked = '[prepare.grades.endpoint]\nurl = "http://127.0.0.1:9"\nmodel = "m"\n'
    recipe = prepared(tmp_path, f'[prepare.grades]\ncache = "no/answers.sqlite"\n{asked}')
    assert recipe.stages["prepare"].config.grades.cache == Path("no/answers.sqlite")
    check_inputs(recipe, ["prepare"])
