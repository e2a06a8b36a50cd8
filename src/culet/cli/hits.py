"""Hits of a search, as a person reads them in a terminal and as JSON."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from culet.search.documents import ChunkedCorpus
from culet.search.exact import Hit, Hits
from culet.terminal.lines import visible

_SHOWN_LINES = 4
_SHOWN_REASONS = 3
_WORD = re.compile(r"\w{4,}")  # shorter ones are mostly grammar


def show_hits(
    hits: Hits, console: Console, *, root: Path | None = None, weak_below: float = 0.0
) -> None:
    """Print each hit: place and score, title, and its first lines with the question's words.

    Args:
        hits: The answer.
        console: Where it is printed.
        root: The folder of the corpus, so that the places shown can be opened from here.
        weak_below: Hits of a lower score are marked as weak.
    """
    words = {word.lower() for word in _WORD.findall(hits.question)}
    for rank, hit in enumerate(hits.hits, start=1):
        chunk = hit.chunk
        path = visible(chunk.path if root is None else str(root / chunk.path))
        head = Text.assemble(
            (f"{rank:>2}. ", "dim"), (path, "bold cyan"), (f":{_line_range(hit)}", "cyan")
        )
        head.append(f"  {hit.score:.3f}", style="bold green")
        if hit.score < weak_below:
            head.append(" weak", style="yellow")
        if chunk.id is not None:
            head.append(f"  {visible(chunk.id)}", style="dim")
        _print(console, head)
        if chunk.title and chunk.title != chunk.path:
            _print(console, Text(f"    {visible(chunk.title)}", style="italic magenta"))
        for line in _first_lines(hit):
            _print(console, _marked(f"    {line}", words))
        console.print()


def show_skipped(corpus: ChunkedCorpus, console: Console) -> None:
    """Print how much was left out of a corpus, with a few examples."""
    if not corpus.skipped:
        return
    examples = [visible(f"{item.path} ({item.reason})") for item in corpus.skipped[:_SHOWN_REASONS]]
    more = len(corpus.skipped) - len(examples)
    listed = "; ".join(examples) + (f"; and {more} more, all with --json" if more > 0 else "")
    console.print(
        f"left out {len(corpus.skipped)}: {listed}", style="dim", markup=False, highlight=False
    )


def hits_json(
    hits: Hits, corpus: ChunkedCorpus, *, model: str, fingerprint: str, weak_below: float = 0.0
) -> dict[str, Any]:
    """Return a search as JSON: everything that was found and everything that was left out."""
    return {
        "question": hits.question,
        "model": model,
        "fingerprint": fingerprint,
        "num_files": corpus.num_files,
        "num_chunks": hits.num_chunks,
        "weak_below": weak_below,
        "hits": [
            {
                "rank": rank,
                "score": round(hit.score, 6),
                "weak": hit.score < weak_below,
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


def _line_range(hit: Hit) -> str:
    first, last = hit.chunk.first_line, hit.chunk.last_line
    return str(first) if first == last else f"{first}-{last}"


def _first_lines(hit: Hit) -> list[str]:
    """Return the first lines with content, without a heading that repeats the title."""
    heading = (hit.chunk.title or "").rpartition(" > ")[2]
    lines = [visible(line.rstrip().expandtabs(4)) for line in hit.chunk.text.split("\n")]
    worded = [line for line in lines if line.strip(" \t#=-~") not in ("", heading)]
    return worded[:_SHOWN_LINES] or lines[:1]


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
