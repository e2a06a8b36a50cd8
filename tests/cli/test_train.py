from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from culet import errors
from culet.errors import Interrupted
from culet.terminal.lines import show

Run = Callable[..., tuple[int, str, str]]


def test_train_hands_recipe_and_overrides_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tmp_path / "a.toml"
    recipe.write_text("")
    seen: list[object] = []

    def run_recipe(path: Path, overrides: list[str], **options: object) -> int:
        seen.extend([path, overrides, options])
        return 3

    pipeline = types.ModuleType("culet.pipeline")
    pipeline.run_recipe = run_recipe  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "culet.pipeline", pipeline)
    asked = {"dry_run": True, "begin": "mine", "only": "merge", "status": True}
    asked |= {"as_json": False, "say": show}
    flags = ["--dry-run", "--from", "mine", "--only", "merge", "--status"]
    code, _, _ = run("train", recipe, "--set", "a.b=1", "--set", "c=2", *flags)
    assert (code, seen) == (3, [recipe, ["a.b=1", "c=2"], asked])


def test_a_missing_extra_says_how_to_install_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.toml").write_text("")

    def not_there(name: str) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(errors, "import_module", not_there)
    code, _, err = run("train", tmp_path / "a.toml")
    assert code == 2
    assert err == (
        "culet: culet train needs the package 'torch', which is not installed; "
        "install it with: pip install 'culet[train]'\n"
    )


def test_an_interrupted_run_says_once_where_it_stopped(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from culet import pipeline

    def stopped(*_: object, **__: object) -> int:
        raise Interrupted("stopped after step 3 of 9")

    (tmp_path / "recipe.toml").touch()
    monkeypatch.setattr(pipeline, "run_recipe", stopped)
    assert run("train", tmp_path / "recipe.toml") == (130, "", "culet: stopped after step 3 of 9\n")


def test_json_is_for_what_is_shown_and_not_for_a_run(run: Run, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").touch()
    code, _, err = run("train", tmp_path / "recipe.toml", "--json")
    assert (code, "--json is for --dry-run and --status" in err) == (2, True)
