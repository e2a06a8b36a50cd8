"""The log of a run: a JSON line for each step in a file, a bar or plain lines for a person."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from culet.files.atomic import new_file
from culet.terminal.progress import Progress


class Report:
    """The log of one stage, as a context manager around its loop.

    Args:
        what: Name of the stage.
        path: The JSONL file. Lines of steps that will be run again are dropped from it.
        start: Steps already done.
        steps: Steps in all.
    """

    def __init__(self, what: str, path: Path, *, start: int, steps: int) -> None:
        self._progress = Progress(what, total=steps, unit="steps", done=start)
        kept = [line for line in read_log(path) if line["step"] <= start]
        with new_file(path) as aside:  # a kill here must not lose the lines that stay
            aside.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a")
        self._rate: float | None = None

    def __enter__(self) -> Report:
        self._progress.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._progress.__exit__(kind, error, trace)

    def write(
        self,
        step: int,
        parts: dict[str, float],
        *,
        tokens: int,
        seconds: float,
        waited: float,
        source: str,
        texts_cut: int = 0,
    ) -> None:
        """Record one step: loss parts, speed, waiting time, texts cut and memory."""
        speed = tokens / seconds
        self._rate = speed if self._rate is None else 0.9 * self._rate + 0.1 * speed
        line: dict[str, Any] = {
            "step": step,
            "source": source,
            **parts,
            "tokens": tokens,
            "seconds": seconds,
            "waited_seconds": waited,
            "texts_cut": texts_cut,
            "peak_memory_mb": round(peak_memory_bytes() / 2**20),
        }
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        shown = {
            name: f"{value:.3g}"
            for name, value in parts.items()
            if name in ("loss", "contrastive", "spread_out", "distill")
        }
        self._progress.advance(
            1, **shown, **{"tok/s": f"{self._rate:,.0f}", "MB": line["peak_memory_mb"]}
        )


def peak_memory_bytes() -> int:
    """Return the peak memory of the process, or of the GPU where there is one."""
    import torch  # here: logs are read without it

    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a log; a kill may have left half of one at the end."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("}\n")]
