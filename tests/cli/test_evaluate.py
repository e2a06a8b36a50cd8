from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from culet import loading

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder with one task that is scored at once."""
    pytest.importorskip("scipy")
    pytest.importorskip("sklearn")
    from evaluate_doubles import write_task

    rows = [
        {"a": "red planet", "b": "red planet mars", "score": 5},
        {"a": "red planet", "b": "bread", "score": 0},
        {"a": "bread oven", "b": "oven", "score": 3},
    ]
    facts = {"type": "sts", "metric": "cosine_spearman", "languages": ["eng-Latn"]}
    write_task(tmp_path / "tasks" / "Near", **facts, files={"pairs.jsonl": rows})
    return tmp_path / "tasks"


def test_evaluate_scores_every_width_and_writes_results(
    run: Run, tasks: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    widths = ("--truncate-to", 64, "--truncate-to", 32)
    code, out, err = run("evaluate", tasks, "-o", results, *widths)
    assert code == 0, err
    assert "Near" in out
    assert "32d" in out
    assert list(results.rglob("*.json"))
    assert err.endswith(f"results, computed in float32 by words, are in {results}\n")


def test_evaluate_refuses_a_width_that_was_not_trained(
    run: Run, tasks: Path, tmp_path: Path
) -> None:
    code, out, err = run("evaluate", tasks, "-o", tmp_path / "r", "--truncate-to", 48)
    assert (code, out) == (2, "")
    assert err == (
        "culet: truncate_to must be one of the trained widths (64, 32), got 48; a prefix of "
        "another width was never trained and would be a poor embedding\n"
    )
    assert not (tmp_path / "r").exists()


def test_evaluate_scores_a_width_and_a_precision_that_come_twice_once(
    run: Run, tasks: Path, tmp_path: Path
) -> None:
    twice = ("--truncate-to", 32, "--truncate-to", 32) + ("--vector-precision", "int8") * 2
    code, out, err = run("evaluate", tasks, tasks, "-o", tmp_path / "results", *twice)
    assert (code, out.count("32d int8")) == (0, 1), err


def test_evaluate_passes_over_folders_without_the_tasks_that_are_asked_for(
    run: Run, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tasks / "Near", other / "Far")
    facts = json.loads((other / "Far" / "task.json").read_text())
    (other / "Far" / "task.json").write_text(json.dumps(facts | {"name": "Far"}))
    results = ("-o", tmp_path / "results")
    code, out, err = run("evaluate", tasks, other, *results, "--only", "Far")
    assert (code, "Far" in out, "Near" in out) == (0, True, False), err
    code, out, err = run("evaluate", tasks, other, *results, "--only", "Far", "--only", "Near")
    assert (code, "Far" in out, "Near" in out) == (0, True, True), err
    monkeypatch.setattr(loading, "load", None)  # refused before that
    message = "culet: unknown task Wide; the folder{} {}\n"
    assert run("evaluate", tasks, other, *results, "--only", "Far", "--only", "Wide") == (
        2,
        "",
        message.format("s have", "Far, Near"),
    )
    expected = message.format(" has", "Near")
    assert run("evaluate", tasks, *results, "--only", "Wide") == (2, "", expected)
    shutil.copytree(tasks / "Near", other / "Near")
    code, _, err = run("evaluate", tasks, other, *results)
    assert (code, f"{tasks} and {other} both have a task Near; evaluate them" in err) == (2, True)


def test_evaluate_checks_where_results_go_before_a_model_is_loaded(
    run: Run, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_load(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(loading, "load", no_load)
    file = tmp_path / "t.txt"
    file.touch()
    for out in (file, file / "deeper" / "still"):
        expected = f"culet: cannot write results to {out}: {file} is a file; name a folder\n"
        assert run("evaluate", tasks, "-o", out) == (2, "", expected)
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)
    code, _, err = run("evaluate", tasks, "-o", tmp_path / "new" / "results")
    assert (code, f"{tmp_path} cannot be written; name another folder" in err) == (2, True)


def test_evaluate_names_no_place_where_nothing_was_written(
    run: Run, tasks: Path, tmp_path: Path
) -> None:
    (tasks / "Near" / "pairs.jsonl.gz").write_bytes(b"")
    code, _, err = run("evaluate", tasks, "-o", tmp_path / "results")
    assert (code, "are in" in err) == (1, False)


def test_evaluate_shows_floors_beside_the_model(run: Run, tasks: Path, tmp_path: Path) -> None:
    beside = ["--beside", "letters", "--beside", "tf-idf"]
    code, out, _ = run("evaluate", tasks, "-o", tmp_path / "results", *beside)
    head = [cell.strip() for cell in out.splitlines()[0].strip("|").split("|")]
    assert (code, head[:4]) == (0, ["type", "task", "letters", "tf-idf"])
    assert len(head) == 5


def test_evaluate_answers_in_json(run: Run, tasks: Path, tmp_path: Path) -> None:
    code, out, _ = run(
        "evaluate", tasks, "-o", tmp_path / "results", "--json", "--beside", "letters"
    )
    found = json.loads(out)
    assert code == 0
    assert {(score["model"], score["task"]) for score in found["scores"]} >= {
        ("letters", "Near"), ("words", "Near"),
    }  # fmt: skip
    for score in found["scores"]:
        parts = [subset["main_score"] for subset in score["subsets"].values()]
        assert score["main_score"] == pytest.approx(sum(parts) / len(parts))
    assert (found["failures"], found["folder"]) == ({}, str(tmp_path / "results"))


DOCS = Path(__file__).parents[2] / "docs" / "evaluation.md"


COMMANDS = re.findall(r"^culet (evaluate .*?)(?: +#.*)?$", DOCS.read_text("utf-8"), re.M)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_docs_run(
    run: Run, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    (tmp_path / "demo" / "data").mkdir(parents=True)
    tasks.rename(tmp_path / "demo" / "data" / "eval")
    monkeypatch.chdir(tmp_path)
    own = command.replace(" 512", " 64").replace(" 128", " 32")  # the double's widths
    code, out, err = run(*own.split())
    assert (code, "Near" in out) == (0, True), err


def test_a_score_that_is_not_a_number_is_named_and_the_exit_code_is_1(
    run: Run, tasks: Path, tmp_path: Path
) -> None:
    from evaluate_doubles import write_task

    rows = [{"a": "red planet", "b": text, "score": 3} for text in ("bread", "mars", "")]
    facts = {"type": "sts", "metric": "cosine_spearman", "languages": ["eng-Latn"]}
    write_task(tasks / "Constant", **facts, files={"pairs.jsonl": rows})
    code, out, _ = run("evaluate", tasks, "-o", tmp_path / "results")
    assert code == 1
    assert "failed: Constant: its score is not a number, so it is left out of all means: " in out
    assert "all pairs have one score" in out
    assert "nan" not in out
    assert "mean of 1 tasks" in out
