"""Tables, and seconds, bytes and counts as a person reads them: the one place that words them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from culet.terminal.lines import visible


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines whose columns are aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def show_rows(rows: Mapping[str, str | Text], console: Console) -> None:
    """Print names and their values in two columns, leaving out those without a value."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        if value:
            style = value.style if isinstance(value, Text) else "yellow" if name == "notes" else ""
            lines = str(value).split("\n")
            table.add_row(name, Text("\n".join(map(visible, lines)), style=style))
    console.print(table)


def duration(seconds: float | None) -> str:
    """Return a time span: "2.5 s", "41 s", "3 min 05 s", "2 h 10 min"; "?" where unknown."""
    if seconds is None:
        return "?"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(num_bytes: float | None) -> str:
    """Return a number of bytes such as "20 MB"; "?" where unknown."""
    if num_bytes is None:
        return "?"
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            digits = 0 if num_bytes >= 10 or unit == "B" else 1
            return f"{num_bytes:.{digits}f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def counted(count: int, unit: str) -> str:
    """Return a number with its unit, given in the plural: "1 vector", "2,000 vectors"."""
    return f"{count:,} {unit.removesuffix('s') if count == 1 else unit}"


def thousands(count: float | None, *, about: bool = False) -> str:
    """Return a count with thousands separators, or rounded such as "1.2 M"; "?" where unknown."""
    if count is None:
        return "?"
    if not about or count < 1000:
        return f"{count:,.0f}"
    for unit in ("k", "M", "G"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}" if count < 10 else f"{count:.0f} {unit}"
    return f"{count / 1000:.1f} T"


def measure(value: float | str) -> str:
    """Return a value beside a progress bar: three digits, or all of a count; text as it is."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value == 0 or abs(value) >= 1e-4 else f"{value:.1e}"
