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
from typing import Annotated

import typer

from culet import __version__
from culet.cli.corpus import corpus
from culet.cli.embed import embed
from culet.cli.evaluate import evaluate
from culet.cli.generate import generate
from culet.cli.info import info
from culet.cli.search import search
from culet.cli.signals import exit_code_of
from culet.cli.train import train
from culet.terminal.lines import complain, set_level, show
from culet.terminal.streams import prepare_streams

app = typer.Typer(
    help="Train, evaluate and use small text-embedding models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verb in (embed, search, train, evaluate, info, corpus, generate):
    app.command()(verb)


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
