"""A stage's output folder: finished, unfinished or another run's, told by a fingerprint.

checkpoint/   what the stage is for
recipe.toml   the resolved settings
log.jsonl     a line a step
state/        what an interrupted run resumes from; gone once it is finished
done.json     written last: the stage is finished
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from culet.atomic import new_file
from culet.recipe import to_toml


class StageFolder:
    """The folder of one stage.

    Args:
        path: The folder.
        fingerprint: What this run is a run of; a folder of another fingerprint is moved aside.
        settings: The resolved settings, as tables.
    """

    def __init__(self, path: Path, *, fingerprint: str, settings: dict[str, Any]) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self.moved_to = self._move_other_run()
        path.mkdir(parents=True, exist_ok=True)
        self._write("run.json", json.dumps({"fingerprint": fingerprint}))
        self._write("recipe.toml", to_toml(settings))

    @property
    def checkpoint(self) -> Path:
        """Return where the stage's checkpoint goes."""
        return self.path / "checkpoint"

    @property
    def state(self) -> Path:
        """Return where the resumable state goes."""
        return self.path / "state"

    @property
    def log(self) -> Path:
        """Return where the log goes."""
        return self.path / "log.jsonl"

    def result(self) -> dict[str, Any] | None:
        """Return what `finish` recorded, or None if the stage is not finished."""
        done = self.path / "done.json"
        if not done.exists():
            return None
        result: dict[str, Any] = json.loads(done.read_text())
        return result

    def finish(self, result: dict[str, Any]) -> None:
        """Record that the stage is finished."""
        self._write("done.json", json.dumps(result, indent=2) + "\n")

    def _write(self, name: str, text: str) -> None:
        with new_file(self.path / name) as aside:
            aside.write_text(text, encoding="utf-8")

    def _move_other_run(self) -> Path | None:
        """Move a folder of other settings or data aside, so that nothing is lost or mixed."""
        record = self.path / "run.json"
        if not record.exists():
            return None
        theirs = json.loads(record.read_text())["fingerprint"]
        if theirs == self.fingerprint:
            return None
        aside = self.path.with_name(f"{self.path.name}.{theirs}")
        number = 1
        while aside.exists():
            number += 1
            aside = self.path.with_name(f"{self.path.name}.{theirs}-{number}")
        self.path.rename(aside)
        return aside
