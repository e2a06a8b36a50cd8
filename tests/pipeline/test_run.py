"""A recipe from a bare corpus to scores, and what it refuses before it begins."""

from __future__ import annotations

import errno
import json
import resource
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluate_doubles import write_task
from training_doubles import checkpoint, toy_rows, write_lines

import culet
from culet.errors import CuletError, InputError, RecipeError
from culet.evaluate import results
from culet.files.atomic import locked
from culet.pipeline import read_recipe, run_recipe
from culet.pipeline import scores as measure
from culet.train.log import read_log

RECIPE = """
[run]
folder = "{folder}/run"
device = "cpu"
threads = 1

[start]
corpus = ["{folder}/pairs.jsonl"]
vocab_size = 400

[start.shape]
num_layers = 2
model_dim = 16
ffn_dim = 24
num_heads = 2
head_dim = 8
projection_dim = 24
embedding_dim = 16
widths = [16, 8]

[prefinetune]
steps = 4
batch_size = 8
max_tokens = 64
eval_every = 2

[[prefinetune.sources]]
path = "{folder}/pairs.jsonl"

[finetune]
steps = 2
batch_size = 8
num_negatives = 1
max_tokens = 64

[[finetune.sources]]
path = "{folder}/negatives.jsonl"

[evaluate]
tasks = "{folder}/tasks"
"""


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def make(folder: Path) -> Path:
    rows = toy_rows(24, negatives=1)
    write_lines(folder / "pairs.jsonl", toy_rows(36))
    write_lines(folder / "negatives.jsonl", rows)
    write_task(
        folder / "tasks/Animals",
        type="retrieval",
        metric="ndcg_at_10",
        files={
            "corpus.jsonl": [
                {"id": f"d{i}", "title": "", "text": row["positive"]} for i, row in enumerate(rows)
            ],
            "queries.jsonl": [{"id": f"q{i}", "text": row["query"]} for i, row in enumerate(rows)],
            "qrels.tsv": "query-id\tcorpus-id\tscore\n"
            + "".join(f"q{i}\td{i}\t1\n" for i in range(24)),
        },
    )
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(folder=folder))
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return make(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A recipe that has run, and what it said."""
    path = make(tmp_path_factory.mktemp("finished"))
    said: list[str] = []
    before = torch.get_num_threads()
    assert run_recipe(path, say=said.append) == 0
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)
    return path, said


def test_every_stage_leaves_a_checkpoint_that_loads(finished: tuple[Path, list[str]]) -> None:
    run = finished[0].parent / "run"
    for stage, steps in (("start", 0), ("prefinetune", 4), ("finetune", 2)):
        embedder = culet.load(run / stage / "checkpoint", device="cpu")
        assert embedder.widths == (16, 8)
        assert embedder.encode_query(["cat barn 2?"]).shape == (1, 16)
        assert len(read_log(run / stage / "log.jsonl")) == steps
        assert (run / stage / "done.json").exists()
        assert (run / stage / "recipe.toml").exists()


def test_a_run_says_what_it_does_and_where_the_model_is(finished: tuple[Path, list[str]]) -> None:
    path, said = finished
    assert said[0].startswith("start: training a tokenizer of 400 tokens")
    assert [line.rpartition(" is ")[0] for line in said if "mean score" in line] == [
        "prefinetune: after step 2 the mean score of 1 tasks",
        "prefinetune: after step 4 the mean score of 1 tasks",
    ]
    assert said[-1].endswith(
        f"the model of stage finetune is in {path.parent}/run/finetune/checkpoint"
    )


def test_running_it_again_does_nothing_but_show_the_table(
    finished: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = finished
    run = path.parent / "run"
    files = {
        f: f.stat().st_mtime_ns
        for f in run.rglob("*")
        if f.suffix in (".safetensors", ".jsonl", ".json")
    }
    before = {f: time for f, time in files.items() if f.name != "run.json"}
    said: list[str] = []
    run_recipe(path, say=said.append)
    assert said[:-1] == [
        f"{name}: finished before, nothing to do" for name in ("start", "prefinetune", "finetune")
    ]
    assert {f: f.stat().st_mtime_ns for f in before} == before
    assert not [folder for folder in run.iterdir() if "." in folder.name]
    table = capsys.readouterr().out
    for words in ("mean of 1 tasks", "start", "prefinetune", "finetune", "finetune 8d"):
        assert words in table


def test_only_what_changed_and_what_follows_is_run_again(tmp_path: Path) -> None:
    path = make(tmp_path)
    run_recipe(path, ["prefinetune.eval_every=0"], say=lambda line: None)
    said: list[str] = []
    run_recipe(path, ["prefinetune.eval_every=0", "finetune.seed=1"], say=said.append)
    assert said[:2] == [
        f"{name}: finished before, nothing to do" for name in ("start", "prefinetune")
    ]
    assert said[2].startswith("finetune: settings or data have changed; the earlier run is kept")


def test_a_dry_run_says_what_would_run_and_writes_nothing(recipe: Path) -> None:
    said: list[str] = []
    assert run_recipe(recipe, ["finetune.steps=7"], dry_run=True, say=said.append) == 0
    rows = [line.split() for line in said]
    assert rows[0] == ["stage", "would", "steps", "tokens", "time", "disk"]
    assert [row[:3] for row in rows[1:4]] == [
        ["start", "runs", "-"],
        ["prefinetune", "runs", "4"],
        ["finetune", "runs", "7"],
    ]
    assert 500 < int(rows[2][3]) < 900  # 4 steps of 8 pairs of two short texts and their prompts
    assert rows[3][4] == "k"  # three texts each, in 7 steps
    assert said[4] == f"evaluate     scores {recipe.parent}/tasks"
    assert "time of finetune: measured for a moment" in said
    assert said[-1].startswith("in all: about ")
    assert ", without start, evaluate; disk " in said[-1]
    assert not (recipe.parent / "run").exists()


def test_a_dry_run_says_what_is_finished(finished: tuple[Path, list[str]]) -> None:
    said: list[str] = []
    run_recipe(finished[0], ["finetune.seed=1"], dry_run=True, say=said.append)
    assert [" ".join(line.split()) for line in said[1:3]] == [
        "start finished",
        "prefinetune finished",
    ]
    assert said[3].split()[:6] == ["finetune", "again:", "settings", "or", "inputs", "changed"]
    assert "time of finetune: from its own log" in said
    tokens = sum(line["tokens"] for line in read_log(finished[0].parent / "run/finetune/log.jsonl"))
    assert said[3].split()[7] == str(tokens)  # 2 steps, as there were


def test_the_scores_alone_can_be_asked_for(
    finished: tuple[Path, list[str]], recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    run_recipe(finished[0], only="evaluate", say=said.append)
    assert len(said) == 1
    assert "the model of stage finetune is in" in said[0]
    assert "finetune 8d" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"there is no model in .* to evaluate; run the stages"):
        run_recipe(recipe, only="evaluate")


def test_widths_are_scored_once_each(
    finished: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    again = ["evaluate.widths=[8, 16, 8]"]
    assert run_recipe(finished[0], again, only="evaluate", say=lambda line: None) == 0
    head = capsys.readouterr().out.partition("\n")[0]
    columns = [cell.strip() for cell in head.strip("| \n").split("|")]
    assert columns == ["type", "task", "start", "prefinetune", "finetune 8d", "finetune"]


REFUSED = (
    r"^\[evaluate\] widths: truncate_to must be one of the trained widths \({}\), got {}; "
    "a prefix of another width was never trained and would be a poor embedding$"
)


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(
    ("overrides", "trained", "width"),
    [
        (["evaluate.widths=[8, 999]"], "16, 8", 999),
        (["evaluate.widths=[12]"], "16, 8", 12),
        (["evaluate.widths=[8]", "prefinetune.loss.widths=[16, 4]"], "16, 4", 8),
        (["evaluate.widths=[4]", "finetune.loss.widths=[16]"], "16,", 4),
    ],
)
def test_a_width_that_will_not_be_trained_is_refused_before_anything_is_done(
    recipe: Path, overrides: list[str], trained: str, width: int, dry_run: bool
) -> None:
    with pytest.raises(InputError, match=REFUSED.format(trained, width)):
        run_recipe(recipe, overrides, dry_run=dry_run)
    assert not (recipe.parent / "run").exists()


def test_widths_that_stages_bring_into_being_may_be_scored(recipe: Path) -> None:
    for overrides in (
        ["evaluate.widths=[4]", "prefinetune.loss.widths=[16, 4]"],
        ["evaluate.widths=[12]", "start.shape.widths=[16, 12]"],
    ):
        assert run_recipe(recipe, overrides, dry_run=True, say=lambda line: None) == 0


def test_widths_of_a_model_that_lies_there_are_those_it_has(
    finished: tuple[Path, list[str]],
) -> None:
    # the recipe as it is now would train 12; what is scored was made before
    overrides = ["start.shape.widths=[16, 12]", "evaluate.widths=[12]"]
    with pytest.raises(InputError, match=REFUSED.format("16, 8", 12)):
        run_recipe(finished[0], overrides, only="evaluate")
    overrides[1] = "evaluate.widths=[8]"
    assert run_recipe(finished[0], overrides, only="evaluate", say=lambda line: None) == 0


def test_widths_are_looked_at_once_more_before_anything_is_scored(
    finished: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "check_widths", lambda *_: None)
    monkeypatch.setattr(results, "evaluate_folder", None)
    with pytest.raises(InputError, match=REFUSED.format("16, 8", 12)):
        run_recipe(finished[0], ["evaluate.widths=[12]"], only="evaluate")


def test_a_task_that_fails_costs_no_other_score_and_the_exit_code_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make(tmp_path)
    shutil.copytree(tmp_path / "tasks/Animals", tmp_path / "tasks/Broken")
    facts = (tmp_path / "tasks/Broken/task.json").read_text()
    (tmp_path / "tasks/Broken/task.json").write_text(facts.replace("Animals", "Broken"))
    (tmp_path / "tasks/Broken/queries.jsonl.gz").unlink()
    said: list[str] = []
    assert run_recipe(path, ["prefinetune.eval_every=0"], say=said.append) == 1
    out = capsys.readouterr().out
    assert "mean of 1 tasks" in out
    assert "failed: Broken: InputError: " in out
    assert said[-1].startswith("done in ")
    for stage in ("start", "prefinetune", "finetune"):
        assert list((tmp_path / f"run/results/culet__{stage}").rglob("Animals.json"))
    shutil.rmtree(tmp_path / "tasks/Animals")
    assert run_recipe(path, ["prefinetune.eval_every=0"], only="evaluate", say=said.append) == 1
    assert "is in" not in capsys.readouterr().out


def test_nothing_to_do_is_said(finished: tuple[Path, list[str]]) -> None:
    said: list[str] = []
    run_recipe(finished[0], dry_run=True, say=said.append)
    assert said[-1] == "nothing to do"


def test_a_disk_that_is_too_small_is_said_in_advance(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from culet.pipeline import plan as planning

    monkeypatch.setattr(planning.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=9))
    said: list[str] = []
    run_recipe(recipe, ["finetune.steps=7"], dry_run=True, say=said.append)
    assert said[-1] == "the disk is too small for this"
    assert said[-2].endswith("of 9 B free")


def test_the_status_is_a_table_of_what_is_there(
    finished: tuple[Path, list[str]], recipe: Path
) -> None:
    said: list[str] = []
    run_recipe(finished[0], status=True, say=said.append)
    rows = [line.split() for line in said]
    assert rows[0] == ["stage", "kind", "state", "step", "loss", "when", "size"]
    assert [row[:3] for row in rows[1:]] == [
        ["start", "start", "finished"],
        ["prefinetune", "prefinetune", "finished"],
        ["finetune", "finetune", "finished"],
    ]
    last = read_log(finished[0].parent / "run/prefinetune/log.jsonl")[-1]
    assert rows[2][3:5] == ["4/4", f"{last['loss']:.4g}"]
    said.clear()
    run_recipe(recipe, status=True, say=said.append)
    assert said[1].split() == ["start", "start", "not", "begun"]
    assert not (recipe.parent / "run").exists()


def test_stages_that_need_no_torch_are_shown_and_planned_without_it(tmp_path: Path) -> None:
    rows = write_lines(tmp_path / "pairs.jsonl", toy_rows(6))
    path = tmp_path / "recipe.toml"
    path.write_text(
        f'[run]\nfolder = "{tmp_path}/run"\n[prepare]\nsources = [{{path = "{rows}"}}]\n'
        f'[generate]\ninputs = ["{rows}"]\n[generate.queries]\nper_document = 1\n'
        '[generate.endpoint]\nurl = "http://127.0.0.1:9"\nmodel = "m"\n'
    )
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "from culet.pipeline import run_recipe\n"
        f"for way in ('status', 'dry_run'): run_recipe(Path({str(path)!r}), **{{way: True}})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.count("not begun") == 2
    assert done.stdout.count("runs") == 2


def test_the_stages_above_can_be_taken_as_they_are(tmp_path: Path) -> None:
    path = make(tmp_path)
    quiet = ["prefinetune.eval_every=0"]
    with pytest.raises(InputError, match=r"finetune reads stage prefinetune, which is left out, b"):
        run_recipe(path, quiet, begin="finetune")
    run_recipe(path, quiet, only="start", say=lambda line: None)
    assert sorted(f.name for f in (tmp_path / "run").iterdir()) == ["start"]
    run_recipe(path, quiet, only="prefinetune", say=lambda line: None)
    assert sorted(f.name for f in (tmp_path / "run").iterdir()) == ["prefinetune", "start"]
    (tmp_path / "pairs.jsonl").unlink()  # what the first two stages read has gone
    with pytest.raises(InputError, match=r"pairs\.jsonl does not exist"):
        run_recipe(path, quiet)
    said: list[str] = []
    run_recipe(path, quiet, begin="finetune", say=said.append)
    assert said[-1].endswith(
        f"the model of stage finetune is in {tmp_path}/run/finetune/checkpoint"
    )
    assert (tmp_path / "run/results").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": "mine"}, "the recipe has no stage mine; it has: start, prefinetune, finetune, e"),
        ({"begin": "start", "only": "start"}, "--from and --only exclude each other; give one"),
    ],
)
def test_a_choice_of_stages_that_cannot_be_is_refused(
    recipe: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        run_recipe(recipe, **options)


def test_the_note_of_an_earlier_pipeline_is_no_change(tmp_path: Path) -> None:
    path = make(tmp_path)
    quiet = ["prefinetune.eval_every=0"]
    run_recipe(path, quiet, only="start", say=lambda line: None)
    (tmp_path / "run/start/pipeline.json").write_text('{"stamp": "0123456789abcdef"}')
    said: list[str] = []
    run_recipe(path, quiet, only="start", say=said.append)
    assert said[0] == "start: finished before, nothing to do"


@pytest.mark.parametrize("harm", ["gone", "changed", "no longer readable"])
def test_a_finished_stage_whose_files_were_harmed_runs_again(harm: str, tmp_path: Path) -> None:
    path = make(tmp_path)
    quiet = ["prefinetune.eval_every=0"]
    run_recipe(path, quiet, say=lambda line: None)
    folder = tmp_path / "run/prefinetune"
    weights = folder / "checkpoint/model.safetensors"
    before = weights.read_bytes()
    message = f"checkpoint/model.safetensors {'is missing' if harm == 'gone' else 'has changed s'}"
    if harm == "gone":
        shutil.rmtree(folder / "checkpoint")
        message = "is missing: the stage runs again"
    elif harm == "changed":
        weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    else:
        (folder / "done.json").write_text("{")
        message = r"done\.json cannot be read"
    said: list[str] = []
    run_recipe(path, quiet, status=True, say=said.append)
    assert said[2].split()[:3] == ["prefinetune", "prefinetune", "damaged"]
    said.clear()
    with pytest.warns(UserWarning, match=message):
        run_recipe(path, quiet, say=said.append)
    assert weights.read_bytes() == before
    finished = [line for line in said if "finished before" in line]
    assert finished == [f"{name}: finished before, nothing to do" for name in ("start", "finetune")]


@pytest.mark.parametrize("kilobytes", [2, 24, 100])
def test_a_full_disk_leaves_nothing_half_written_and_the_same_command_goes_on(
    kilobytes: int, tmp_path: Path
) -> None:
    path = make(tmp_path)
    quiet = ["prefinetune.eval_every=0", "prefinetune.save_every=2"]
    run = tmp_path / "run"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # no file may grow beyond so much, which fails in the same place as a disk without room
    resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes << 10, before[1]))
    try:
        with pytest.raises(InputError, match="File too large"):
            run_recipe(path, quiet, say=lambda line: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [file for file in run.rglob("*") if "partial" in file.name] == []
    finished = [file.parent.name for file in run.rglob("done.json")]
    assert finished == (["start"] if kilobytes == 100 else [])
    run_recipe(path, quiet, say=lambda line: None)
    assert len(list(run.rglob("done.json"))) == 3


def test_a_log_that_cannot_be_written_is_a_sentence_too(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from culet.train.log import Report

    def full(*args: Any, **fields: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Report, "write", full)
    folder = recipe.parent / "run/prefinetune"
    with pytest.raises(InputError, match=f"prefinetune: {folder}: No space left on device; what w"):
        run_recipe(recipe, ["prefinetune.eval_every=0"], say=lambda line: None)


def test_a_folder_that_cannot_be_made_is_a_sentence(recipe: Path) -> None:
    file = recipe.parent / "pairs.jsonl"
    with pytest.raises(InputError, match=r"cannot create .*pairs\.jsonl/run: Not a directory"):
        run_recipe(recipe, [f"run.folder={file}/run"], say=lambda line: None)


def test_a_second_run_in_the_same_folder_is_refused(recipe: Path) -> None:
    folder = read_recipe(recipe).run.folder
    with locked(folder, what="a run"), pytest.raises(InputError) as refused:
        run_recipe(recipe, say=lambda line: None)
    assert str(refused.value) == (
        f"{folder} is in use by a run of another process; wait for it to end, or end it"
    )
    assert not folder.exists()


def test_one_process_of_several_says_what_would_run(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    said: list[str] = []
    run_recipe(recipe, dry_run=True, say=said.append)
    run_recipe(recipe, status=True, say=said.append)
    assert said == []


def test_a_stage_can_start_from_any_checkpoint(
    tmp_path: Path, finished: tuple[Path, list[str]]
) -> None:
    path = make(tmp_path)
    text = path.read_text()
    text = (
        "[run]"
        + text.partition("[run]")[2].partition("[start]")[0]
        + "\n[finetune]"
        + (text.partition("[finetune]")[2].partition("[evaluate]")[0])
    )
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"nothing to start from; add a section \[start\], or"):
        read_recipe(path)
    start = finished[0].parent / "run/start/checkpoint"
    run_recipe(path, [f"finetune.init={start}"], say=lambda line: None)
    assert (tmp_path / "run/finetune/checkpoint").exists()
    assert not (tmp_path / "run/start").exists()


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        (
            "pretune.steps=3",
            RecipeError,
            "unknown section: pretune; known are: run, start, deco",
        ),
        (
            "finetune.stepz=3",
            RecipeError,
            r"\[finetune\] has unknown keys: stepz; known are: steps",
        ),
        (
            "finetune.optim.lr=fast",
            RecipeError,
            "finetune.optim.lr must be of type float, got 'fast'",
        ),
        (
            "finetune.loss.samtone=three",
            RecipeError,
            "finetune.loss.samtone must be one of 'off', 'o",
        ),
        (
            "finetune.loss.temperature=0",
            RecipeError,
            r"\[finetune.loss\] temperature must be above 0",
        ),
        ("finetune.steps=0", RecipeError, r"\[finetune\] steps and save_every must be at least 1"),
        ("run.device=tpu", RecipeError, "run.device must be one of 'auto', 'cpu', 'cuda', 'mps'"),
        ("evaluate.after=['pretune']", RecipeError, r"\[evaluate\] after must name stages"),
        ("finetune.sources.0.path=none.jsonl", InputError, r"none\.jsonl does not exist"),
        ("start.corpus=['none.jsonl']", InputError, r"none\.jsonl does not exist"),
        ("evaluate.tasks=none", InputError, "none: expected a folder of task folders"),
        ("start.shape.widths=[8]", InputError, "begin with the full width 16"),
    ],
)
def test_a_wrong_recipe_is_refused_before_anything_is_done(
    recipe: Path, override: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run_recipe(recipe, [override])
    assert not (recipe.parent / "run").exists()


def test_a_recipe_needs_a_folder_to_run_in_and_tasks_to_evaluate(recipe: Path) -> None:
    text = recipe.read_text()
    recipe.write_text(text.partition("[evaluate]")[0])
    with pytest.raises(RecipeError, match=r"prefinetune.eval_every needs a section \[evaluate\]"):
        read_recipe(recipe)
    recipe.write_text("[start]" + text.partition("[start]")[2])
    with pytest.raises(RecipeError, match=r"needs a section \[run\] with a folder"):
        read_recipe(recipe)


def test_a_dry_run_refuses_what_the_run_refuses(recipe: Path, tmp_path: Path) -> None:
    def refused(*overrides: str) -> str:
        with pytest.raises(CuletError) as dry:
            run_recipe(recipe, overrides, dry_run=True, say=lambda line: None)
        return str(dry.value)

    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert str(other) in refused(f"prefinetune.init={other}")
    # the model that stage start has yet to make is 16 wide
    assert "loss.widths must name the full width 16" in refused("prefinetune.loss.widths=[64,8]")
    write_lines(tmp_path / "pairs.jsonl", [{"question": "q", "answer": "p"}] * 9)
    message = refused(f"prefinetune.init={checkpoint(tmp_path / 'model')}")
    assert "the row has question, answer; culet reads query (or anchor)" in message
