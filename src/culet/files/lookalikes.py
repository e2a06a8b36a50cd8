"""What a file is that is not what its name says: the usual outcomes of a download gone wrong."""

from __future__ import annotations

from pathlib import Path

LFS_POINTER = b"version https://git-lfs"
_POINTER = "a Git LFS pointer, which only names the real file; fetch that with: git lfs pull"
_KINDS = (
    (LFS_POINTER, _POINTER),
    (b"GGUF", "a GGUF file"),
    (b"<!doctype html", "a web page, probably an error page in place of the file; get it again"),
    (b"<html", "a web page, probably an error page in place of the file; get it again"),
    (b"PK\x03\x04", "a zip archive, which is also what torch.save writes"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"PAR1", "a Parquet file"),
)


def unreadable(path: Path, kind: str, why: object) -> str:
    """Return the sentence for a file that is not the kind that was expected.

    Args:
        path: The file.
        kind: What it should be, with its article.
        why: What the reader says, where the first bytes show nothing better.
    """
    found = lookalike(path)
    return f"{path} is not {kind}: {why if found is None else f'it is {found}'}"


def lookalike(path: Path) -> str | None:
    """Return what the first bytes of a file show it to be, None if they show nothing known."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            first = file.read(64)
    except OSError:
        return None
    if not first:
        return "an empty file; copy or download it again"
    if not first.strip(b"\0"):
        return "a file that begins with zeros, probably of a download cut short; get it again"
    known = first.lower()
    return next((kind for magic, kind in _KINDS if known.startswith(magic.lower())), None)
