"""The command `culet`: one subcommand per verb, each in a file of its own.

A verb reads its arguments, calls the function that does the work, and shows the result. What is
imported at the top of its file makes `culet --help` slow, so the work is imported when it is
asked for. Results go to standard output; progress, warnings and errors to standard error. Exit
codes: 0 done, 1 the work ran and something in it failed, 2 an error the user can fix,
130 interrupted, 143 and 129 ended by SIGTERM and SIGHUP.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Annotated

import typer

from culet import __version__
from culet.cli.corpus import corpus
from culet.cli.embed import embed
from culet.cli.evaluate import evaluate
from culet.cli.generate import generate
from culet.cli.info import info
from culet.cli.kept import cache
from culet.cli.search import search
from culet.cli.signals import exit_code_of
from culet.cli.train import train
from culet.terminal.lines import complain, set_level, show
from culet.terminal.streams import prepare_streams

app = typer.Typer(
    help="Train, evaluate and use small text-embedding models.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_HELP: dict[Callable[..., None], tuple[str, tuple[str, ...]]] = {
    embed: (
        "runtime",
        ("culet embed texts.txt -o vectors.npy", "echo 'a cut gem' | culet embed - --query"),
    ),
    search: (
        "runtime",
        ("culet search docs 'how does a run resume?'", "culet search src docs 'lock' -k 3 --json"),
    ),
    train: ("training", ("culet train recipe.toml", "culet train recipe.toml --dry-run")),
    evaluate: ("evaluation", ("culet evaluate tasks", "culet evaluate tasks -m model --json")),
    info: ("runtime", ("culet info", "culet info google/embeddinggemma-300m --json")),
    corpus: ("corpora", ("culet corpus --list", "culet corpus python-docs --out data")),
    generate: ("decoders", ("culet generate model -p 'Once upon a time'",)),
    cache: ("runtime", ("culet cache", "culet cache clear")),
}
for verb, (page, examples) in _HELP.items():
    lines = "\n".join(["Examples:", *(f"  {line}" for line in examples)])
    app.command(epilog=f"\b\n{lines}\n\nMore: docs/{page}.md of culet's sources")(verb)


def main() -> None:
    """Run the command line and exit with its code."""
    prepare_streams()
    set_level(0)
    warnings.showwarning = _show_warning
    sys.exit(exit_code_of(lambda: app(standalone_mode=False)))


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", "-V", help="Print the version.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say more: names that an error leaves out.")
    ] = False,
) -> None:
    if verbose:
        set_level(1)
    if version:
        show(f"culet {__version__}")
        raise typer.Exit


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    complain(f"warning: {message}")
