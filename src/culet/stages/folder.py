"""A stage's output folder: finished, unfinished or of another run, identified by fingerprint.

checkpoint/   what the stage is for
recipe.toml   the resolved settings
log.jsonl     a line per step
state/        what an interrupted run resumes from; removed once it is finished
done.json     written last: the stage is finished, and these are the files it vouches for

A finished stage is trusted as long as every file it vouches for is there and unchanged.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from culet.errors import InputError
from culet.files import fingerprint
from culet.files.atomic import new_file
from culet.files.settings import to_toml

# pipeline.json was written by an earlier culet
_UNVOUCHED = ("run.json", "recipe.toml", "log.jsonl", "done.json", "pipeline.json")


@dataclass(frozen=True)
class FolderState:
    """What lies in a stage's folder.

    Attributes:
        result: What the stage recorded when it finished; None if it is not finished.
        damage: Why a finished stage is not trusted, or None.
    """

    result: dict[str, Any] | None = None
    damage: str | None = None

    @property
    def output(self) -> str | None:
        """Return the fingerprint of all files of the finished stage, wherever they lie."""
        if self.result is None:
            return None
        return fingerprint.of_settings(self.result.get("files"))


def inspect(path: Path) -> FolderState:
    """Return whether the stage in a folder is finished, with every file it vouches for checked."""
    done = path / "done.json"
    try:
        result = json.loads(done.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return FolderState()
    except (OSError, ValueError) as error:
        return FolderState(damage=f"{done} cannot be read ({error})")
    if not isinstance(result, dict):
        return FolderState(damage=f"{done} does not hold a result")
    if "files" not in result:  # written by an earlier culet, which did not record them
        if not (path / "checkpoint").is_dir():
            return FolderState(damage=f"{path / 'checkpoint'} is missing")
        result["files"] = _fingerprints(path)
        return FolderState(result)
    for name, recorded in result["files"].items():
        if not (path / name).is_file():
            return FolderState(damage=f"{path / name} is missing")
        if fingerprint.of_files([path / name]) != recorded:
            return FolderState(damage=f"{path / name} has changed since")
    return FolderState(result)


def recorded_fingerprint(path: Path) -> str | None:
    """Return the fingerprint of a folder's run: None without one, "unknown" if unreadable."""
    record = path / "run.json"
    if not record.exists():
        return None
    try:
        return str(json.loads(record.read_text(encoding="utf-8"))["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown"


def _fingerprints(path: Path) -> dict[str, str]:
    """Return the fingerprint of every file that a stage vouches for, by its place in the folder."""
    files = {}
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path)
        hidden = any(part.startswith(".") for part in name.parts)
        if file.is_file() and not hidden and name.parts[0] not in ("state", *_UNVOUCHED):
            files[name.as_posix()] = fingerprint.of_files([file])
    return files


class StageFolder:
    """The folder of one stage.

    Args:
        path: The folder.
        fingerprint: Of this run's settings and data; a folder of another one is moved aside,
            and one of this fingerprint that was moved aside before is put back.
        settings: The resolved settings, as tables.
        writes: False only reads: another process writes the folder, and has opened it before.
    """

    def __init__(
        self, path: Path, *, fingerprint: str, settings: dict[str, Any], writes: bool = True
    ) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self.moved_to: Path | None = None
        self.taken_from: Path | None = None
        if not writes:
            self._result = inspect(path).result
            return
        self.moved_to = self._move_other_run()
        self.taken_from = self._take_back()
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot create {path}: {error.strerror or error}") from error
        found = inspect(path)
        if found.damage:
            warnings.warn(
                f"{path} was finished, but {found.damage}: the stage runs again", stacklevel=2
            )
            (path / "done.json").unlink()
        self._result = found.result
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

    @property
    def answers(self) -> Path:
        """Return where the answers of an endpoint are kept: beside the folder, for any run."""
        return self.path.with_name(f"{self.path.name}-answers.sqlite")

    def result(self) -> dict[str, Any] | None:
        """Return what `finish` recorded, or None if the stage is not finished."""
        return self._result

    def reported_result(self, name: str, say: Callable[[str], None]) -> dict[str, Any] | None:
        """Report what a stage finds in its folder, and return `result()`.

        Args:
            name: Name of the stage in messages.
            say: Takes lines for the person watching.
        """
        if self.moved_to:
            say(
                f"{name}: settings or data have changed; the earlier run is kept in {self.moved_to}"
            )
        if self.taken_from:
            say(f"{name}: restored: {self.taken_from}, a run of these settings and data")
        if self._result:
            say(f"{name}: finished before, nothing to do")
        return self._result

    def finish(self, result: dict[str, Any]) -> None:
        """Record that the stage is finished: the last thing it does to the folder.

        Every other file in the folder but the log, the state and hidden ones is vouched for.
        """
        self._result = result | {"files": _fingerprints(self.path)}
        self._write("done.json", json.dumps(self._result, indent=2) + "\n")

    def _write(self, name: str, text: str) -> None:
        with new_file(self.path / name) as aside:
            aside.write_text(text, encoding="utf-8")

    def _move_other_run(self) -> Path | None:
        """Move a folder of other settings or data aside, so that nothing is lost or mixed."""
        other = recorded_fingerprint(self.path)
        if other in (None, self.fingerprint):
            return None
        aside = self._kept(other)
        number = 1
        while aside.exists():
            number += 1
            aside = self.path.with_name(f"{self.path.name}.{other}-{number}")
        _rename(self.path, aside)
        return aside

    def _take_back(self) -> Path | None:
        """Put back what an earlier change of settings or data moved aside, if this is its run."""
        kept = self._kept(self.fingerprint)
        if self.path.exists() or not (kept / "run.json").exists():
            return None
        _rename(kept, self.path)
        return kept

    def _kept(self, fingerprint: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{fingerprint}")


def _rename(old: Path, new: Path) -> None:
    try:
        old.rename(new)
    except OSError as error:
        raise InputError(f"cannot move {old} to {new.name}: {error.strerror or error}") from error
