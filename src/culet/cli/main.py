"""The command `culet`: one subcommand a verb.

Each verb reads its arguments, calls the function that does the work, and shows the result. What
is imported here makes `culet --help` slow, so the work is imported when it is asked for.
Results go to standard output; progress, warnings and errors to standard error. Exit codes: 0 done,
1 the work ran and something in it failed, 2 an error the user can mend, 130 interrupted, 143 and
129 ended by SIGTERM and SIGHUP.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from culet import __version__
from culet.cli.corpus import corpus
from culet.cli.embed import embed
from culet.cli.generate import generate
from culet.cli.options import (
    DeviceOption,
    JsonOption,
    ModelOption,
    PrecisionOption,
    QuietOption,
    TaskOption,
    ThreadsOption,
    WidthOption,
    load_model,
    say,
)
from culet.errors import CuletError, InputError, Interrupted, need

if TYPE_CHECKING:
    from types import FrameType

    from culet.evaluate import TaskResult

app = typer.Typer(
    help="Train, evaluate and use small text-embedding models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Precision(StrEnum):
    """How vectors are stored when they are scored."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    int8 = "int8"
    binary = "binary"


def main() -> None:
    """Run the command line and exit with its code."""
    warnings.showwarning = _show_warning
    code: Any
    with ending_by_signal() as ended_by:
        try:
            code = app(standalone_mode=False)
            sys.stdout.flush()
            if code == 130:  # newer parsers turn the interrupt into an exit code themselves
                code = _interrupted(ended_by)
        except CuletError as error:
            say(f"culet: {error}")
            code = 2
        except (KeyboardInterrupt, typer.Abort):
            code = _interrupted(ended_by)
        except BrokenPipeError:
            code = _reader_left()
        except SystemExit as stop:  # the parser makes a 1 of a closed pipe
            closed = isinstance(stop.__context__, BrokenPipeError)
            code = _reader_left() if closed else stop.code
        except Exception as error:
            # The parser's own errors know how to show themselves; anything else is a bug of ours.
            show = getattr(error, "show", None)
            if show is None:
                raise
            show()
            code = getattr(error, "exit_code", 2)
    sys.exit(code if isinstance(code, int) else 0)


@contextmanager
def ending_by_signal() -> Iterator[list[int]]:
    """Let SIGTERM and SIGHUP end the work as Ctrl-C does; yield the signals that came.

    A second SIGTERM ends it at once. What the shell ignores (nohup) stays ignored.
    """
    came: list[int] = []
    process = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
        if os.getpid() != process:  # a forked worker, which has nothing to tidy up
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        came.append(number)
        raise KeyboardInterrupt

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [signal.Signals[name] for name in names]
    numbers = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, end)
    try:
        yield came
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _interrupted(ended_by: list[int]) -> int:
    if not ended_by:
        say("culet: interrupted")
        return 130
    say(f"culet: ended by {signal.Signals(ended_by[0]).name}")
    return 128 + ended_by[0]


def _reader_left() -> int:
    """Return 0: that the reader of our output has left is not an error."""
    # What is still to be written at exit goes nowhere.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
    return 0


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(f"culet {__version__}")
        raise typer.Exit


app.command()(embed)


@app.command()
def search(
    corpus: Annotated[Path, typer.Argument(help="A folder of text and code, a file, or a JSONL.")],
    question: Annotated[str, typer.Argument(help="What to look for.")],
    k: Annotated[int, typer.Option("-k", help="How many places to show.")] = 5,
    model: ModelOption = None,
    task: TaskOption = None,
    truncate_to: WidthOption = None,
    as_json: JsonOption = False,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Keep the vectors for the next search.")
    ] = True,
    field: Annotated[str, typer.Option(help="Field of a JSONL that holds the text.")] = "text",
    skip_bad: Annotated[bool, typer.Option(help="Leave out bad lines of a JSONL.")] = False,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Find the places in a folder that answer a question."""
    from culet.cli.hits import hits_json, show_hits, show_skipped
    from culet.search.exact import search_corpus

    if not corpus.exists():
        raise InputError(f"{corpus} does not exist; expected a folder, a text file or a JSONL")
    embedder = load_model(model, device, precision, threads)
    hits, read = search_corpus(
        embedder,
        corpus,
        question,
        k=k,
        task=task or "search",
        truncate_to=truncate_to,
        text_field=field,
        on_bad_line="skip" if skip_bad else "error",
        cached=cache,
        progress=False if quiet else None,
        report=say,
    )
    if as_json:
        found = hits_json(hits, read, model=embedder.name, fingerprint=embedder.fingerprint)
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return
    show_hits(hits, Console(), root=corpus if corpus.is_dir() else corpus.parent)
    if not quiet:
        show_skipped(read, Console(stderr=True))


@app.command()
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
) -> None:
    """Run a recipe, or go on with one that was interrupted; also under torchrun."""
    if not recipe.is_file():
        raise InputError(f"{recipe} is not a file; expected a recipe in TOML")
    run_recipe = need("culet.pipeline", extra="train", purpose="culet train").run_recipe
    try:
        code = run_recipe(
            recipe, overrides or [], dry_run=dry_run, begin=begin, only=only, status=status
        )
    except Interrupted as stop:
        say(f"culet: {stop}")
        raise SystemExit(130) from None  # an Exit of 130 would have `main` say it once more
    if code:
        raise typer.Exit(code)


@app.command()
def evaluate(
    folders: Annotated[list[Path], typer.Argument(help="Folders of task folders.")],
    model: ModelOption = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where results are written.")] = Path(
        "results"
    ),
    truncate_to: Annotated[
        list[int] | None, typer.Option(help="A width to score; may be repeated.")
    ] = None,
    vector_precision: Annotated[
        list[Precision] | None, typer.Option(help="Of the vectors; may be repeated.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="The name of a task; may be repeated.")
    ] = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Score a model on evaluation tasks by MTEB's protocols."""
    from culet.architecture.embedding_config import check_width
    from culet.terminal.progress import Progress

    evaluation = need("culet.evaluate", extra="eval", purpose="culet evaluate")
    tasks = _chosen_tasks(evaluation, folders, only)
    _check_folder(out)
    embedder = load_model(model, device, precision, threads)
    for width in truncate_to or ():
        check_width(width, embedder.widths)
    # None names the full width in results, so that it is one column under both of its names.
    asked = dict.fromkeys(truncate_to or [embedder.dim])
    widths = [None if width == embedder.dim else width for width in asked]
    precisions = [str(item) for item in dict.fromkeys(vector_precision or [Precision.float32])]
    scores = sum(map(len, tasks.values())) * len(widths) * len(precisions)
    results: list[TaskResult] = []
    failures: dict[str, str] = {}
    with Progress("evaluating", total=scores, unit="scores", show=not quiet) as bar:

        def note(result: TaskResult) -> None:
            bar.advance(1, task=result.info.name, score=100 * result.main_score)

        for folder, names in tasks.items():
            outcome = evaluation.evaluate_folder(
                embedder,
                folder,
                out,
                name=embedder.name,
                revision=embedder.fingerprint,
                only=names,
                widths=widths,
                precisions=precisions,
                on_result=note,
            )
            results += outcome.results
            failures |= outcome.failures
    evaluation.print_report({embedder.name: results}, failures=failures)
    if results:
        say(f"results, computed in {embedder.precision} by {embedder.backend}, are in {out}")
    if failures:
        raise typer.Exit(1)


@app.command()
def info(
    checkpoint: Annotated[
        str | None,
        typer.Argument(
            help="An embedding model, a decoder (folder or .gguf) or an encoder-decoder. "
            "Default: the packaged model."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a checkpoint and show what it is."""
    from culet.checkpoints.embedding import Checkpoint
    from culet.cli.hits import checkpoint_json, show_checkpoint
    from culet.cli.info import generating_json, read_described, show_generating
    from culet.loading import find_checkpoint

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # they are among the notes that are shown
        read = read_described(find_checkpoint(checkpoint))
    if as_json:
        facts = checkpoint_json(read) if isinstance(read, Checkpoint) else generating_json(read)
        print(json.dumps(facts, ensure_ascii=False, indent=2))
    elif isinstance(read, Checkpoint):
        show_checkpoint(read, Console())
    else:
        show_generating(read, Console())


app.command()(corpus)
app.command()(generate)


def _chosen_tasks(
    evaluation: Any, folders: list[Path], only: list[str] | None
) -> dict[Path, list[str]]:
    """Return the names of the tasks to score in each folder that has some of them.

    Raises:
        InputError: If a task is asked for that no folder has, or one that two have: their results
            would have one name.
    """
    names = {folder: [info.name for info in evaluation.list_tasks(folder)] for folder in folders}
    known = sorted({name for found in names.values() for name in found})
    if unknown := sorted(set(only or ()) - set(known)):
        have = "folder has" if len(names) == 1 else "folders have"
        raise InputError(f"unknown task {', '.join(unknown)}; the {have} {', '.join(known)}")
    chosen = {
        folder: [name for name in found if not only or name in only]
        for folder, found in names.items()
    }
    places: dict[str, Path] = {}
    for folder, found in chosen.items():
        for name in found:
            if name in places:
                raise InputError(
                    f"{places[name]} and {folder} both have a task {name}; evaluate them one by "
                    "one, with another --out each"
                )
            places[name] = folder
    return {folder: found for folder, found in chosen.items() if found}


def _check_folder(out: Path) -> None:
    """Raise InputError unless results can be written to a folder, which need not be there yet."""
    nearest = next(place for place in (out, *out.parents) if os.path.exists(place))
    if not nearest.is_dir():
        raise InputError(f"cannot write results to {out}: {nearest} is a file; name a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(
            f"cannot write results to {out}: {nearest} cannot be written; name another folder"
        )


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    say(f"warning: {message}")


if __name__ == "__main__":
    main()
