"""The verb `culet generate`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from culet.cli.options import TEXT_FILE, QuietOption, given_text, write_json
from culet.errors import InputError, need
from culet.terminal.lines import visible

if TYPE_CHECKING:
    from culet.generation.writer import Writer


def generate(
    checkpoint: Annotated[
        Path, typer.Argument(help="A decoder (folder or .gguf) or an encoder-decoder.")
    ],
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", "-p", help="A text; may be repeated.")
    ] = None,
    source: Annotated[str | None, typer.Option("--input", "-i", help=TEXT_FILE)] = None,
    field: Annotated[
        str, typer.Option(help="The field of the input that holds the text.")
    ] = "text",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A .jsonl file. Default: stdout.")
    ] = None,
    beams: Annotated[int, typer.Option(help="Texts kept at each step; 1 is greedy.")] = 1,
    max_new_tokens: Annotated[int, typer.Option(help="Limit on the tokens of a text.")] = 64,
    length_penalty: Annotated[float, typer.Option(help="Above 1 prefers longer beams.")] = 1.0,
    batch_size: Annotated[int, typer.Option(help="Prompts in a batch.")] = 16,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    precision: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Continue prompts with a decoder, or answer them with an encoder-decoder."""
    if (prompt is None) == (source is None):
        raise InputError("give texts as --prompt TEXT, or a file of them as --input FILE")
    if out is not None and out.suffix != ".jsonl":
        raise InputError(f"--out must name a .jsonl file, got {out}")
    writer = _writer(checkpoint, device, precision)
    from culet.generation.decode import GenerationConfig
    from culet.terminal.progress import Progress

    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        beams=beams,
        length_penalty=length_penalty,
        batch_size=batch_size,
    )
    texts, total = _texts(prompt, source, field)
    show = False if quiet else None
    with (
        _lines(out) as file,
        Progress("generating", total=total, unit="texts", show=show) as progress,
    ):
        for written in writer.write(texts, config, done=progress.advance):
            line = json.dumps(asdict(written), ensure_ascii=False)
            if file is not None:
                print(line, file=file, flush=True)
                continue
            if as_json:
                write_json(f"{line}\n")
            else:
                print("\n".join(map(visible, written.text.split("\n"))))
            sys.stdout.flush()


def _writer(checkpoint: Path, device: str, precision: str) -> Writer:
    need("culet.generation.writer", extra="torch", purpose="generating text")
    from culet.checkpoints.recognize import read_generating
    from culet.generation.writer import Writer

    return Writer(read_generating(checkpoint), device=device, precision=precision)


def _texts(
    prompts: list[str] | None, source: str | None, field: str
) -> tuple[Iterator[str], int | None]:
    """Return the prompts, and their number if it is known."""
    from culet.files.texts import count_texts, read_texts

    if prompts is not None or source is None:
        return map(given_text, prompts or ()), len(prompts or ())
    rows = read_texts(source, field=field)
    return (row.text for row in rows), count_texts(source)


@contextmanager
def _lines(out: Path | None) -> Iterator[IO[str] | None]:
    """Yield the file, None for standard output; a file is written whole or not at all."""
    from culet.files.atomic import new_file

    if out is None:
        yield None
        return
    with new_file(out) as aside, aside.open("w", encoding="utf-8") as file:
        yield file
