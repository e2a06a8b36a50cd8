"""SHA256SUMS: the sums of the files of a folder that culet wrote, as `sha256sum -c` reads them.

Shapes and names cannot show that two tensors of one shape were swapped, that a bit flipped or that
a prompt was edited; sums can. Only what a model is read from is in it: model cards are edited, and
recipes are not fetched from hubs.
"""

from __future__ import annotations

import re
from pathlib import Path

from culet.errors import CheckpointError
from culet.files.fingerprint import sha256

SUMS_FILE = "SHA256SUMS"
_SUMMED = (".json", ".safetensors")
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def write_sums(folder: Path) -> None:
    """Write the sums of a folder's files."""
    files = sorted(file for file in folder.rglob("*") if file.suffix in _SUMMED)
    lines = (f"{sha256(file)}  {file.relative_to(folder).as_posix()}\n" for file in files)
    (folder / SUMS_FILE).write_text("".join(lines), encoding="utf-8")


def check_sums(folder: Path) -> int | None:
    """Return how many files are as they were written, None for a folder without sums.

    Raises:
        CheckpointError: If a file is missing or another than was written, or the sums cannot be
            read.
    """
    path = folder / SUMS_FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    found = [_LINE.fullmatch(line) for line in lines]
    changed = []
    for match in found:
        if match is None or Path(match[2]).is_absolute() or ".." in Path(match[2]).parts:
            raise CheckpointError(f"{path} is damaged: a line is no SHA-256 and a name")
        file = folder / match[2]
        if not file.is_file():
            changed.append(f"{match[2]} (missing)")
        elif sha256(file) != match[1]:
            changed.append(match[2])
    if changed:
        raise CheckpointError(
            f"{folder} is not as culet wrote it: {', '.join(changed)}; copy or download it again, "
            f"or remove {SUMS_FILE} if you made the change"
        )
    return len(found)
