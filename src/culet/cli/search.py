"""The verb `culet search`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from culet.cli.options import (
    DeviceOption,
    JsonOption,
    ModelOption,
    PrecisionOption,
    QuietOption,
    TaskOption,
    ThreadsOption,
    WidthOption,
    given_text,
    load_model,
    print_json,
)
from culet.errors import InputError
from culet.terminal.lines import say


def search(
    corpus: Annotated[
        list[Path], typer.Argument(help="Folders of text and code, files, or a JSONL.")
    ],
    question: Annotated[str, typer.Argument(help="What to look for.")],
    k: Annotated[int, typer.Option("-k", "--top-k", help="How many places to show.")] = 5,
    weak_below: Annotated[
        float, typer.Option(help="Hits of a lower score are marked as weak.")
    ] = 0.3,
    model: ModelOption = None,
    task: TaskOption = None,
    truncate_to: WidthOption = None,
    as_json: JsonOption = False,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Keep the vectors for the next search.")
    ] = True,
    field: Annotated[str, typer.Option(help="Field of a JSONL that holds the text.")] = "text",
    gitignore: Annotated[
        bool, typer.Option("--gitignore/--no-gitignore", help="Leave out what git ignores.")
    ] = True,
    skip_bad: Annotated[bool, typer.Option(help="Leave out bad lines of a JSONL.")] = False,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Find the places in a folder that answer a question."""
    from culet.cli.hits import hits_json, show_hits, show_skipped
    from culet.search.exact import search_corpus

    for path in corpus:
        if not path.exists():
            raise InputError(f"{path} does not exist; expected a folder, a text file or a JSONL")
    embedder = load_model(model, device, precision, threads)
    hits, read = search_corpus(
        embedder,
        corpus,
        given_text(question),
        k=k,
        task=task or "search",
        truncate_to=truncate_to,
        text_field=field,
        on_bad_line="skip" if skip_bad else "error",
        gitignore=gitignore,
        cached=cache,
        progress=False if quiet else None,
        report=say,
    )
    if as_json:
        names = {"model": embedder.name, "fingerprint": embedder.fingerprint}
        print_json(hits_json(hits, read, **names, weak_below=weak_below))
        return
    root = corpus[0] if corpus[0].is_dir() else corpus[0].parent
    show_hits(hits, Console(), root=root if len(corpus) == 1 else None, weak_below=weak_below)
    if not quiet:
        show_skipped(read, Console(stderr=True))
