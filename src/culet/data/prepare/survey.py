"""What a preparation knows of all rows so far, on disk, safe against being killed.

verdicts.u8, keys.bin, signatures.u16   a fixed-size entry a row, appended by the first pass
verdicts-<pass>.u8                      all verdicts as a later pass left them
state.json                              written last: how much of the files counts
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from culet.data.prepare.chunks import Position
from culet.data.prepare.dedup import KEY, MAX_ROWS
from culet.data.prepare.examine import Facts, RowTally
from culet.errors import InputError
from culet.files.atomic import new_file, write_json

SAVE_SECONDS = 10.0  # between saves of a pass over rows


class Survey:
    """The state of a preparation.

    Args:
        folder: Where it is kept.
        keep: Examples kept of each reason.

    Attributes:
        position: Where the present pass stands.
        done: Names of finished passes.
        tally: What was counted so far.
        ends: For each file read to its end, rows of all files up to there.
        notes: Whatever else a pass must remember.
        seconds: Time spent in each pass, interrupted runs included.
        verdicts: uint8 [R], in memory once the first pass is done: one byte a row.
    """

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder = folder
        self.position = Position()
        self.done: list[str] = []
        self.tally = RowTally(keep=keep)
        self.ends: list[int] = []
        self.notes: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        self.verdicts = np.zeros(0, np.uint8)
        self._verdict_file = "verdicts.u8"
        self._present, self._before, self._began = "", 0.0, time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "state.json").exists():
            self._load(keep)

    @property
    def keys(self) -> Path:
        """The file of keys."""
        return self.folder / "keys.bin"

    @property
    def signatures(self) -> Path:
        """The file of signatures."""
        return self.folder / "signatures.u16"

    @contextmanager
    def doing(self, name: str) -> Iterator[bool]:
        """Yield whether a pass is to be done; mark it done, and time it, when it ends well."""
        if name in self.done:
            yield False
            return
        self._present, self._before = name, self.seconds.get(name, 0.0)
        self._began = time.monotonic()
        yield True
        self.done.append(name)
        self.position = Position()
        self.save(verdicts=name)

    def append(self, facts: Facts, after: Position, *, file_ended: bool) -> None:
        """Add the facts of the next rows, and save that they count."""
        if after.number > MAX_ROWS:
            raise InputError(f"more than {MAX_ROWS:,} rows; prepare them in several runs")
        widths = (1, KEY.itemsize, 2 * facts.signatures.shape[1])
        arrays = (facts.verdicts, facts.keys, facts.signatures)
        names = ("verdicts.u8", "keys.bin", "signatures.u16")
        for name, array, width in zip(names, arrays, widths, strict=True):
            path = self.folder / name
            with path.open("r+b" if path.exists() else "wb") as file:
                if len(array):
                    # what an earlier run wrote beyond its last save is overwritten
                    file.seek(self.position.number * width)
                    file.truncate()
                    file.write(array.tobytes())
                    file.flush()
                    os.fsync(file.fileno())
        if file_ended:
            self.ends.append(after.number)
        self.position = after
        self.save()

    def load_verdicts(self) -> None:
        """Read all verdicts into memory."""
        rows = self.ends[-1] if self.ends else 0
        self.verdicts = np.fromfile(self.folder / self._verdict_file, np.uint8, rows)

    def save(self, *, verdicts: str | None = None) -> None:
        """Write the state; with `verdicts`, all of them first, under that name."""
        if verdicts is not None and len(self.verdicts):
            name = f"verdicts-{verdicts}-{self.position.number}.u8"
            with new_file(self.folder / name) as aside:
                self.verdicts.tofile(aside)
            old, self._verdict_file = self._verdict_file, name
        else:
            old = self._verdict_file
        now = time.monotonic()
        self.seconds[self._present] = round(self._before + now - self._began, 3)
        state = {
            "position": asdict(self.position),
            "done": self.done,
            "tally": self.tally.to_json(),
            "ends": self.ends,
            "notes": self.notes,
            "seconds": self.seconds,
            "verdicts": self._verdict_file,
        }
        write_json(self.folder / "state.json", state)
        if old != self._verdict_file:
            (self.folder / old).unlink(missing_ok=True)

    def _load(self, keep: int) -> None:
        state = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
        self.position = Position(**state["position"])
        self.done = state["done"]
        self.tally = RowTally.from_json(state["tally"], keep=keep)
        self.ends = state["ends"]
        self.notes = state["notes"]
        self.seconds = state["seconds"]
        self._verdict_file = state["verdicts"]
