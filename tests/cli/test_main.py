from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from word_embedder import WordEmbedder

from culet import loading
from culet.errors import CheckpointError

Run = Callable[..., tuple[int, str, str]]


def test_help_lists_the_verbs_and_version_prints_one_line(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert all(verb in out for verb in ("embed", "search", "train", "evaluate", "info"))
    assert run("--version") == (0, "culet 0.1.0\n", "")


VERBS = ("embed", "search", "train", "evaluate", "info", "corpus", "generate", "cache")


@pytest.mark.parametrize("verb", VERBS)
def test_every_page_of_help_has_an_example_and_names_a_page_of_the_docs(
    run: Run, verb: str
) -> None:
    code, out, _ = run(verb, "-h")
    assert (code, run(verb, "--help")[1]) == (0, out)
    assert f"\n  Examples:\n    culet {verb}" in out
    (page,) = re.findall(r"docs/(\w+\.md)", out)
    assert (Path(__file__).parents[2] / "docs" / page).is_file()


def test_short_names_of_help_and_version(run: Run) -> None:
    assert run("-h") == run("--help")
    assert run("-V") == run("--version")


def test_the_environment_names_model_and_threads(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[object, object]] = []

    def load(model: object, **options: object) -> WordEmbedder:
        seen.append((model, options["threads"]))
        return WordEmbedder()

    monkeypatch.setenv("CULET_MODEL", "some/model")
    monkeypatch.setenv("CULET_THREADS", "3")
    monkeypatch.setattr(loading, "load", load)
    run("embed", "-t", "mars")
    run("embed", "-t", "mars", "-m", "another", "--threads", 1)
    assert seen == [("some/model", 3), ("another", 1)]
    code, _, err = run("info")
    assert (code, "some/model" in err) == (2, True)


def test_the_cache_has_a_size_and_can_be_cleared(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CULET_CACHE", str(tmp_path / "kept"))
    (tmp_path / "a.txt").write_text("how to bake bread")
    run("search", tmp_path / "a.txt", "bread")
    other = tmp_path / "kept" / "of another program"
    other.write_text("stays")
    found = json.loads(run("cache", "--json")[1])
    assert (found["folder"], found["bytes"]["search"] > 0) == (str(tmp_path / "kept"), True)
    code, out, _ = run("cache")
    assert (code, str(tmp_path / "kept") in out, "total" in out) == (0, True, True)
    code, _, err = run("cache", "clear")
    assert (code, err.startswith("removed ")) == (0, True)
    assert not any(json.loads(run("cache", "size", "--json")[1])["bytes"].values())
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [other.name]


def test_quiet_says_errors_only_and_verbose_all_names(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.npy"
    assert run("embed", "-t", "mars", "-o", out) == (0, "", f"1 vector of 64 numbers in {out}\n")
    assert run("embed", "-t", "mars", "-o", out, "--overwrite", "-q") == (0, "", "")
    assert run("embed", "-q", "nowhere.txt")[2].startswith("culet: nowhere.txt is not a file")

    def load(*_: object, **__: object) -> None:
        error = CheckpointError("missing a and 6 more")
        error.add_note("missing: a, b, c, d, e, f, g")
        raise error

    monkeypatch.setattr(loading, "load", load)
    assert run("embed", "-t", "x")[2] == "culet: missing a and 6 more\n"
    err = run("-v", "embed", "-t", "x")[2]
    assert err == "culet: missing a and 6 more\nmissing: a, b, c, d, e, f, g\n"


def test_an_unknown_option_names_itself(run: Run) -> None:
    code, _, err = run("embed", "--nonsense")
    assert code == 2
    assert "--nonsense" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embed"], "give either an INPUT"),
        (["embed", "-", "-t", "x"], "give either an INPUT"),
        (["embed", "-t", "x", "--query", "--document"], "exclude each other"),
        (["embed", "-t", "x", "--document", "--task", "code"], "--task is the task of a query"),
        (["embed", "-t", "x", "--task", "sreach"], "unknown task 'sreach'"),
        (["embed", "-t", "x", "-o", "out.xyz"], "ends in .npy, .jsonl, .parquet"),
        (["embed", "-t", "word " * 99, "--on-long", "error"], "text 0 has 99 words"),
        (["embed", "nowhere.txt"], "nowhere.txt is not a file"),
        (["embed", "-t", "x", "--truncate-to", "31"], "trained widths (64, 32), got 31"),
        (["embed", "-t", "x", "--field", "a"], "--field cannot be used with --text, which has"),
        (["embed", "-", "--titles-field", "a"], "--titles-field cannot be used with standard inp"),
        (["embed", "-", "--field", "a", "--titles-field", "b"], "--field and --titles-field canno"),
        (["embed", "a.TXT.gz", "--field", "text"], "--field cannot be used with a.TXT.gz, which"),
        (["embed", "a.csv", "--query", "--titles-field", "b"], "queries have no titles"),
        (["embed", "-t", "x", "--resume"], "about the file of --out; give one"),
        (["embed", "-t", "x", "--overwrite"], "about the file of --out; give one"),
        (["search", "nowhere", "x"], "nowhere does not exist"),
        (["info", "nowhere"], "nowhere"),
        (["train", "nowhere.toml"], "nowhere.toml is not a file"),
        (["evaluate", "nowhere"], "nowhere"),
    ],
)
def test_what_a_user_can_mend_is_one_line_without_a_traceback(
    run: Run, arguments: list[str], message: str
) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("culet: ")
    assert len(err.splitlines()) == 1


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\nimport culet.cli.main\n"
        "heavy = {'torch', 'pyarrow', 'sklearn', 'scipy', 'numpy', 'tokenizers', 'huggingface_hub'}"
        "\nprint(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_ctrl_c_during_the_imports_is_quiet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from culet.__main__ import main

    class Interrupting:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "culet.cli.main":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "culet.cli.main")
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert (exit_.value.code, capsys.readouterr().err) == (130, "culet: interrupted\n")


def test_the_entry_point_is_light() -> None:
    program = (
        "import sys, culet.__main__\nprint(sorted({'typer', 'rich', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


IMPORTING_TORCH = """
import os, sys
class Watching:
    def find_spec(self, name, *_):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Watching())
from culet.__main__ import main
main()
"""


@pytest.mark.parametrize(("own", "seen"), [(None, "passive"), ("active", "active")])
def test_threads_that_wait_sleep_unless_the_user_says_otherwise(
    own: str | None, seen: str, tmp_path: Path
) -> None:
    (tmp_path / "recipe.toml").write_text("[run]\nfolder = 'x'\n[start]\n")
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if own is not None:
        environment["OMP_WAIT_POLICY"] = own
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING_TORCH, "train", str(tmp_path / "recipe.toml")],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.stdout == f"{seen}\n", done.stderr
