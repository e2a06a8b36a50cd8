"""Memory of the stages that read any number of rows: prepare, mine and teach, at several sizes.

Rows are made on the fly and each size runs in a process of its own, whose peak resident memory is
reported; runs of other sizes stay in the results file. Random vectors stand in for those of the
packaged model, which only identifies the run: it is the stage that is measured.

    python benchmarks/data_memory.py prepare --rows 100000 1000000 --folder /some/disk
    python benchmarks/data_memory.py mine teach --rows 100000 400000
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import resource
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import RESULTS, write

WIDTH = 256
LANGUAGES = 400  # of the rows; hard negatives are looked for within one
STAGES = ("prepare", "mine", "teach")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="+", choices=STAGES)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 400_000])
    parser.add_argument("--folder", type=Path, default=Path("runs/data-memory"))
    args = parser.parse_args()
    found = earlier(args.stages, args.rows)
    for stage in args.stages:
        for rows in args.rows:
            place = args.folder / f"{stage}-{rows}"
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            write_rows(place / "rows.jsonl.gz", rows)
            context = multiprocessing.get_context("spawn")
            with context.Pool(1) as pool:
                found.append(pool.apply(measured, (stage, place, rows)))
            shutil.rmtree(place)
            print(json.dumps(found[-1]), flush=True)
    found.sort(key=lambda run: (STAGES.index(run["stage"]), run["rows"]))
    write("data_memory", {"runs": found})


def earlier(stages: list[str], sizes: list[int]) -> list[dict[str, Any]]:
    """Return the runs of the results file that are not to be measured again."""
    path = RESULTS / "data_memory.json"
    runs = json.loads(path.read_text())["runs"] if path.exists() else []
    return [run for run in runs if run["stage"] not in stages or run["rows"] not in sizes]


def write_rows(path: Path, number: int) -> None:
    """Write pairs of 28 words: one in 20 nearly an earlier one, one in 100 equal to it."""
    rng = np.random.default_rng(0)
    words = np.array([f"w{i:x}" for i in range(40_000)])
    kept: list[str] = []
    with gzip.open(path, "wt", compresslevel=1) as file:
        for first in range(0, number, 10_000):
            drawn = words[rng.integers(len(words), size=(min(10_000, number - first), 28))]
            kind = rng.random(len(drawn))
            for row, draw in zip(drawn.tolist(), kind, strict=True):
                if draw < 0.05 and kept:
                    row = kept[int(draw * 20 * len(kept))].split()
                    row[3] = row[3] if draw < 0.01 else "other"
                elif len(kept) < 5_000:
                    kept.append(" ".join(row))
                pair = {"query": " ".join(row[:8]), "positive": " ".join(row[8:])}
                pair["lang"] = f"l{int(draw * 1e6) % LANGUAGES}"
                file.write(json.dumps(pair) + "\n")


def measured(stage: str, folder: Path, rows: int) -> dict[str, Any]:
    """Run a stage and return its peak memory and time; in a process of its own."""
    began, before = time.monotonic(), peak()
    {"prepare": prepared, "mine": mined, "teach": taught}[stage](folder)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "stage": stage,
        "rows": rows,
        "megabytes": peak(),
        "megabytes_before": before,
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "seconds": round(time.monotonic() - began, 1),
    }


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def prepared(folder: Path) -> None:
    from culet.data.prepare.filters import LengthConfig
    from culet.data.prepare.minhash import NearConfig
    from culet.stages import prepare
    from culet.stages.contract import run_stage
    from culet.stages.prepare import DataSourceConfig, PrepareConfig

    source = DataSourceConfig(folder / "rows.jsonl.gz", licence="CC0-1.0")
    config = PrepareConfig((source,), length=LengthConfig(), near=NearConfig())
    run_stage(prepare.STAGE, config, out=folder / "prepare", name="prepare")


def mined(folder: Path) -> None:
    from culet.loading import PACKAGED
    from culet.stages import mine
    from culet.stages.contract import run_stage
    from culet.stages.mine import MineConfig, MineSource

    mine.load = lambda *args, **settings: StandIn()  # type: ignore[assignment]
    source = MineSource(folder / "rows.jsonl.gz", within=("lang",))
    run_stage(mine.STAGE, MineConfig((source,)), init=PACKAGED, out=folder / "mine", name="mine")


def taught(folder: Path) -> None:
    from culet.loading import PACKAGED
    from culet.stages import teach
    from culet.stages.contract import run_stage
    from culet.stages.teach import TaughtSource, TeachConfig

    teach.folder_teacher = lambda *args, **settings: StandIn()  # type: ignore[assignment]
    config = TeachConfig((TaughtSource(folder / "rows.jsonl.gz"),), teacher=PACKAGED)
    run_stage(teach.STAGE, config, out=folder / "teach", name="teach")


class StandIn:
    """An embedder and a teacher whose vectors are random."""

    name, fingerprint, dim, by_role, client = "stand-in", "stand-in", WIDTH, False, None

    def __init__(self) -> None:
        from culet.text.prompts import Prompts

        self.prompts = Prompts.from_names({})
        self._rng = np.random.default_rng(0)

    def stream_query(self, texts: Iterable[Any], **settings: Any) -> Iterator[np.ndarray]:
        """Yield vectors, a thousand at a time."""
        count = 0
        for count, _ in enumerate(texts, start=1):
            if count % 1000 == 0:
                yield self._vectors(1000)
        if count % 1000:
            yield self._vectors(count % 1000)

    stream_document = stream_query

    def embed(self, texts: Sequence[Any], advance: Callable[[int], None]) -> np.ndarray:
        """Return vectors."""
        advance(len(texts))
        return self._vectors(len(texts))

    def _vectors(self, number: int) -> np.ndarray:
        drawn = self._rng.standard_normal((number, WIDTH), dtype=np.float32)
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
