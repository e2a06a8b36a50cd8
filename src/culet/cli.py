"""The command `culet`: one subcommand a verb.

Each verb reads its arguments, calls the function that does the work, and shows the result. What
is imported here makes `culet --help` slow, so the work is imported when it is asked for.
Results go to standard output; progress, warnings and errors to standard error. Exit codes: 0 done,
1 the work ran and something in it failed, 2 an error the user can mend, 130 interrupted.
"""

from __future__ import annotations

import json
import sys
import warnings
from contextlib import nullcontext
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from culet import __version__
from culet.corpora.cli import corpus
from culet.errors import CuletError, InputError, Interrupted, MissingExtra
from culet.generate_cli import generate

if TYPE_CHECKING:
    from culet.embedder import Embedder
    from culet.evaluate import TaskResult
    from culet.textio import TextRow

app = typer.Typer(
    help="Train, evaluate and use small text-embedding models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class OnLong(StrEnum):
    """What happens to a text longer than the model reads."""

    truncate = "truncate"
    error = "error"


class Precision(StrEnum):
    """How vectors are stored when they are scored."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    int8 = "int8"
    binary = "binary"


ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Checkpoint folder or hub id. Default: the packaged model."),
]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda or mps. Default: the best one.")]
PrecisionOption = Annotated[
    str | None,
    typer.Option(help="float32, bfloat16, int8 or int4. Default: the best of the device."),
]
ThreadsOption = Annotated[int | None, typer.Option(help="CPU threads. Default: one a core.")]
WidthOption = Annotated[
    int | None, typer.Option("--truncate-to", help="A trained width. Default: the full one.")
]
TaskOption = Annotated[
    str | None,
    typer.Option("--task", help="Task of the query: search, similarity, classification, code, …"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]


def main() -> None:
    """Run the command line and exit with its code."""
    warnings.showwarning = _show_warning
    try:
        code = app(standalone_mode=False)
        if code == 130:  # newer parsers turn the interrupt into an exit code themselves
            _say("culet: interrupted")
    except CuletError as error:
        _say(f"culet: {error}")
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        _say("culet: interrupted")
        code = 130
    except BrokenPipeError:  # the reader of our output has left; that is not an error
        sys.stderr.close()
        code = 0
    except Exception as error:
        # The parser's own errors know how to show themselves; anything else is a bug of ours.
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        code = getattr(error, "exit_code", 2)
    sys.exit(code if isinstance(code, int) else 0)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(f"culet {__version__}")
        raise typer.Exit


@app.command()
def embed(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="INPUT",
            help="A file (.txt: one text a line, .jsonl, .csv, .tsv, .parquet), or - for stdin.",
        ),
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option("--text", "-t", help="A text itself; may be repeated.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help=".npy, .jsonl or .parquet. Default: JSONL to stdout."),
    ] = None,
    model: ModelOption = None,
    query: Annotated[bool, typer.Option("--query", help="The texts are queries.")] = False,
    document: Annotated[
        bool, typer.Option("--document", help="The texts are documents (the default).")
    ] = False,
    task: TaskOption = None,
    field: Annotated[str, typer.Option(help="Field or column that holds the text.")] = "text",
    titles_field: Annotated[
        str | None, typer.Option(help="Field or column that holds the title.")
    ] = None,
    truncate_to: WidthOption = None,
    on_long: Annotated[
        OnLong, typer.Option(help="Cut over-long texts and say so, or stop.")
    ] = OnLong.truncate,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Turn texts into vectors, in their order."""
    from culet.textio import TextRow, count_texts, read_texts
    from culet.vectorio import EmbeddingWriter, embed_rows, json_lines

    if query and document:
        raise InputError("--query and --document exclude each other; give one")
    if document and task:
        raise InputError("--task is the task of a query; it has no meaning with --document")
    if (source is None) == (not text):
        raise InputError("give either an INPUT (a file, or - for stdin) or --text, and not both")
    if source is None:
        rows = iter([TextRow(item) for item in text or ()])
    else:
        rows = read_texts(source, field=field, titles_field=titles_field)
    total = len(text or ()) if source is None else count_texts(source)
    writer = EmbeddingWriter(out) if out is not None else None
    embedder = _load(model, device, precision, threads)

    def to_stdout(batch: list[TextRow], embedding: Any) -> None:
        sys.stdout.writelines(json_lines(batch, embedding))
        sys.stdout.flush()

    try:
        with writer or nullcontext():
            count = embed_rows(
                embedder,
                rows,
                writer.write if writer else to_stdout,
                side="query" if query or task else "document",
                task=task or "search",
                truncate_to=truncate_to,
                on_long=on_long.value,
                total=total,
                progress=False if quiet else None,
            )
    finally:
        if writer is not None and writer.kept is not None:
            _say(f"culet: the first {writer.num_rows:,} vectors are kept in {writer.kept}")
    if out is not None:
        _say(f"{count:,} vectors of {truncate_to or embedder.dim} numbers in {out}")


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
    from culet.display import hits_json, show_hits, show_skipped
    from culet.search import search_corpus

    if not corpus.exists():
        raise InputError(f"{corpus} does not exist; expected a folder, a text file or a JSONL")
    embedder = _load(model, device, precision, threads)
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
        report=_say,
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
    run_recipe = _extra("culet.pipeline", extra="train", purpose="culet train").run_recipe
    try:
        code = run_recipe(
            recipe, overrides or [], dry_run=dry_run, begin=begin, only=only, status=status
        )
    except Interrupted as stop:
        _say(f"culet: {stop}")
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
    from culet.progress import Progress

    evaluation = _extra("culet.evaluate", extra="eval", purpose="culet evaluate")
    tasks = {folder: _num_tasks(evaluation, folder, only) for folder in folders}
    embedder = _load(model, device, precision, threads)
    # None names the full width in results, so that it is one column under both of its names.
    widths = [None if width == embedder.dim else width for width in truncate_to or [embedder.dim]]
    precisions = [str(item) for item in vector_precision or [Precision.float32]]
    scores = sum(tasks.values()) * len(widths) * len(precisions)
    results: list[TaskResult] = []
    failures: dict[str, str] = {}
    with Progress("evaluating", total=scores, unit="scores", show=not quiet) as bar:

        def note(result: TaskResult) -> None:
            bar.advance(1, task=result.info.name, score=100 * result.main_score)

        for folder in folders:
            outcome = evaluation.evaluate_folder(
                embedder,
                folder,
                out,
                name=embedder.name,
                revision=embedder.fingerprint,
                only=only,
                widths=widths,
                precisions=precisions,
                on_result=note,
            )
            results += outcome.results
            failures |= outcome.failures
    evaluation.print_report({embedder.name: results}, failures=failures)
    _say(f"results are in {out}")
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
    from culet.checkpoint import Checkpoint
    from culet.display import checkpoint_json, show_checkpoint
    from culet.generating_info import generating_json, read_described, show_generating
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


def _num_tasks(evaluation: Any, folder: Path, only: list[str] | None) -> int:
    infos = evaluation.list_tasks(folder)
    return sum(1 for info in infos if not only or info.name in only)


def _load(
    model: str | None, device: str | None, precision: str | None, threads: int | None
) -> Embedder:
    from culet.loading import load

    return load(model, device=device, precision=precision, threads=threads)


def _extra(module: str, *, extra: str, purpose: str) -> Any:
    """Import a part of culet that needs an extra, or say which one is missing."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "culet":
            raise
        raise MissingExtra(error.name, extra=extra, purpose=purpose) from error


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    _say(f"warning: {message}")


if __name__ == "__main__":
    main()
