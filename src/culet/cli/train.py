"""The verb `culet train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from culet.cli.options import JsonOption, QuietOption
from culet.errors import InputError, Interrupted, need
from culet.terminal.lines import complain, show, silent


def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe in TOML.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="finetune.steps=200; may be repeated."),
    ] = None,
    begin: Annotated[
        str | None,
        typer.Option("--from", metavar="STAGE", help="Take the stages above it as they lie there."),
    ] = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="STAGE", help="Run this stage and no other.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check it; show what would run, and what it takes.")
    ] = False,
    status: Annotated[bool, typer.Option("--status", help="Show what is there.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run a recipe, or go on with one that was interrupted; also under torchrun."""
    if not recipe.is_file():
        raise InputError(f"{recipe} is not a file; expected a recipe in TOML")
    if as_json and not (dry_run or status):
        raise InputError("--json is for --dry-run and --status; a run says how it goes in lines")
    run_recipe = need("culet.pipeline", extra="train", purpose="culet train").run_recipe
    try:
        code = run_recipe(
            recipe,
            overrides or [],
            dry_run=dry_run,
            begin=begin,
            only=only,
            status=status,
            as_json=as_json,
            say=silent if quiet and not as_json else show,
        )
    except Interrupted as stop:
        complain(f"culet: {stop}")
        raise SystemExit(130) from None  # an Exit of 130 would be reported a second time
    if code:
        raise typer.Exit(code)
