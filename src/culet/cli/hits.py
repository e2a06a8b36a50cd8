"""Hits and checkpoints as a person reads them in a terminal, and as JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from culet.checkpoints.embedding import Checkpoint
from culet.search.documents import Corpus
from culet.search.exact import Hit, Hits
from culet.text.prompts import Prompts

_SHOWN_LINES = 4
_SHOWN_REASONS = 3
# Controls of terminals, halves of characters, and what turns the direction of writing: printed as
# they are, text from files could clear the screen, write elsewhere, or look other than it is.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_WORD = re.compile(r"\w{4,}")  # shorter ones are mostly grammar


def visible(text: str) -> str:
    """Return one line of text as it may be printed: control characters as they are escaped."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def show_hits(hits: Hits, console: Console, *, root: Path | None = None) -> None:
    """Print each hit: place and score, title, and its first lines with the question's words.

    Args:
        hits: The answer.
        console: Where to.
        root: The folder of the corpus, so that the places shown can be opened from here.
    """
    words = {word.lower() for word in _WORD.findall(hits.question)}
    for rank, hit in enumerate(hits.hits, start=1):
        chunk = hit.chunk
        path = visible(chunk.path if root is None else str(root / chunk.path))
        head = Text.assemble(
            (f"{rank:>2}. ", "dim"), (path, "bold cyan"), (f":{_lines(hit)}", "cyan")
        )
        head.append(f"  {hit.score:.3f}", style="bold green")
        if chunk.id is not None:
            head.append(f"  {visible(chunk.id)}", style="dim")
        _print(console, head)
        if chunk.title and chunk.title != chunk.path:
            _print(console, Text(f"    {visible(chunk.title)}", style="italic magenta"))
        for line in _first_lines(hit):
            _print(console, _marked(f"    {line}", words))
        console.print()


def show_skipped(corpus: Corpus, console: Console) -> None:
    """Print how much was left out of a corpus, with a few examples."""
    if not corpus.skipped:
        return
    examples = [visible(f"{item.path} ({item.reason})") for item in corpus.skipped[:_SHOWN_REASONS]]
    more = len(corpus.skipped) - len(examples)
    listed = "; ".join(examples) + (f"; and {more} more" if more > 0 else "")
    console.print(
        f"left out {len(corpus.skipped)}: {listed}", style="dim", markup=False, highlight=False
    )


def hits_json(hits: Hits, corpus: Corpus, *, model: str, fingerprint: str) -> dict[str, Any]:
    """Return a search as JSON: everything that was found and everything that was left out."""
    return {
        "question": hits.question,
        "model": model,
        "fingerprint": fingerprint,
        "num_files": corpus.num_files,
        "num_chunks": hits.num_chunks,
        "hits": [
            {
                "rank": rank,
                "score": round(hit.score, 6),
                "path": hit.chunk.path,
                "first_line": hit.chunk.first_line,
                "last_line": hit.chunk.last_line,
                "title": hit.chunk.title,
                "id": hit.chunk.id,
                "text": hit.chunk.text,
            }
            for rank, hit in enumerate(hits.hits, start=1)
        ],
        "skipped": [{"path": item.path, "reason": item.reason} for item in corpus.skipped],
    }


def checkpoint_json(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what a checkpoint folder says about itself, as JSON."""
    config, encoder = checkpoint.config, checkpoint.config.encoder
    files = sorted(path for path in checkpoint.folder.rglob("*") if path.is_file())
    names = {path: path.relative_to(checkpoint.folder).as_posix() for path in files}
    return {
        "folder": str(checkpoint.folder),
        "fingerprint": checkpoint.fingerprint,
        "num_parameters": config.num_parameters(),
        "num_embedding_parameters": encoder.vocab_size * encoder.model_dim,
        "stored_as": sorted({str(tensor.dtype) for tensor in checkpoint.tensors.values()}),
        "num_layers": encoder.num_layers,
        "global_layers": list(encoder.global_layers),
        "window": encoder.window,
        "model_dim": encoder.model_dim,
        "ffn_dim": encoder.ffn_dim,
        "num_heads": encoder.num_heads,
        "num_kv_heads": encoder.num_kv_heads,
        "head_dim": encoder.head_dim,
        "vocab_size": encoder.vocab_size,
        "max_length": encoder.max_length,
        "pooling": config.pooling,
        "projection_dim": config.projection_dim,
        "embedding_dim": config.embedding_dim,
        "widths": list(config.widths),
        "prompts": checkpoint.prompts,
        "files": {names[path]: path.stat().st_size for path in files},
        "notes": list(checkpoint.notes),
    }


def show_checkpoint(checkpoint: Checkpoint, console: Console) -> None:
    """Print what a checkpoint folder says about itself."""
    facts = checkpoint_json(checkpoint)
    prompts = Prompts.from_names(checkpoint.prompts)
    local = facts["num_layers"] - len(facts["global_layers"])
    heads = f"{facts['num_heads']} heads of {facts['head_dim']}, {facts['num_kv_heads']} key/value"
    sizes: dict[str, int] = facts["files"]
    rows: dict[str, str | Text] = {
        "folder": Text(facts["folder"], style="bold cyan"),
        "fingerprint": facts["fingerprint"],
        "parameters": f"{facts['num_parameters']:,} "
        f"({facts['num_embedding_parameters']:,} of them token embeddings), "
        f"stored as {', '.join(facts['stored_as'])}",
        "encoder": f"{facts['num_layers']} layers ({local} local ±{facts['window']} tokens, "
        f"{len(facts['global_layers'])} global), {facts['model_dim']} wide, "
        f"feed-forward {facts['ffn_dim']}, {heads}",
        "head": f"{facts['pooling']} pooling, {facts['model_dim']} → {facts['projection_dim']} → "
        f"{facts['embedding_dim']}",
        "widths": ", ".join(map(str, facts["widths"])),
        "max length": f"{facts['max_length']:,} tokens",
        "vocabulary": f"{facts['vocab_size']:,} tokens",
    }
    for name, lines in (
        ("prompts", _prompt_lines(prompts)),
        ("files", [f"{name}  {readable_size(size)}" for name, size in sizes.items()]),
        ("total", [readable_size(sum(sizes.values()))]),
        ("notes", facts["notes"]),
    ):
        rows[name] = "\n".join(lines)
    show_rows(rows, console)


def show_rows(rows: Mapping[str, str | Text], console: Console) -> None:
    """Print names and what is said of each, in two columns; names without a word are left out."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        if value:
            style = value.style if isinstance(value, Text) else "yellow" if name == "notes" else ""
            lines = str(value).split("\n")
            table.add_row(name, Text("\n".join(map(visible, lines)), style=style))
    console.print(table)


def _prompt_lines(prompts: Prompts) -> list[str]:
    """Return each prompt once, with all the names it goes by."""
    if prompts.empty:
        return ["none: texts are embedded as they are"]
    names: dict[str, list[str]] = {}
    for name, prompt in prompts.pairs:
        names.setdefault(prompt, []).append(name)
    return [f"{prompt!r}  {', '.join(known)}" for prompt, known in names.items()]


def _lines(hit: Hit) -> str:
    first, last = hit.chunk.first_line, hit.chunk.last_line
    return str(first) if first == last else f"{first}-{last}"


def _first_lines(hit: Hit) -> list[str]:
    """Return the first lines that say something, without a heading that repeats the title."""
    heading = (hit.chunk.title or "").rpartition(" > ")[2]
    lines = [visible(line.rstrip().expandtabs(4)) for line in hit.chunk.text.split("\n")]
    spoken = [line for line in lines if line.strip(" \t#=-~") not in ("", heading)]
    return spoken[:_SHOWN_LINES] or lines[:1]


def _marked(line: str, words: set[str]) -> Text:
    """Return the line with the words of the question in bold."""
    text = Text(line)
    for match in _WORD.finditer(line):
        if match[0].lower() in words:
            text.stylize("bold yellow", match.start(), match.end())
    return text


def _print(console: Console, text: Text) -> None:
    """Print one line: cropped in a terminal, whole elsewhere."""
    if console.is_terminal:
        console.print(text, no_wrap=True, overflow="ellipsis", crop=True)
    else:
        console.print(text, soft_wrap=True)


def readable_size(size_bytes: int) -> str:
    """Return a number of bytes as kB, MB or GB."""
    if size_bytes < 1_000_000:
        return f"{size_bytes / 1000:,.1f} kB"
    return f"{size_bytes / 1e6:,.1f} MB" if size_bytes < 1e9 else f"{size_bytes / 1e9:,.2f} GB"
