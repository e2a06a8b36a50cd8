"""Packages in a folder on disk, found by the file names that their tools give them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)

from culet.corpora.places.fetch import MissingPackage
from culet.corpora.readers.packages import Found, Wanted
from culet.errors import InputError


class Folder:
    """Finds packages among the files of a folder, by name, without a network.

    Args:
        folder: Holds .deb, .whl, .tar.gz, .tgz, index and source files, also in subfolders.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder; expected one that holds packages")
        self._folder = folder
        self._files = sorted(path for path in folder.rglob("*") if path.is_file())

    def prepare(self, items: Iterable[Wanted]) -> None:
        """Do nothing: the names of all files are known."""

    def find(self, item: Wanted) -> Found:
        """Return the newest file that matches by name; for a source, all files of its version.

        Raises:
            MissingPackage: When no file is the package.
        """
        matching: dict[str, list[Path]] = {}
        for path in self._files:
            version = _version(item, path)
            if version is not None and item.version in ("", version):
                matching.setdefault(version, []).append(path)
        if not matching:
            raise MissingPackage(f"{self._folder} holds no file that is the package {item.id}")
        version = max(matching, key=_natural)
        files = matching[version] if item.kind == "src" else matching[version][:1]
        return Found(item, version, local=tuple(files))


def _version(item: Wanted, path: Path) -> str | None:
    """Return the version if the file is the package, by its name."""
    name = path.name.replace("%3a", ":")
    if item.kind == "index":
        plain = re.sub(r"\.(?:xz|gz|bz2)$", "", name)
        # apt keeps indices under their whole address, with _ for /
        same = plain == item.name.rpartition("/")[2] or plain.endswith(item.name.replace("/", "_"))
        return "on disk" if same else None
    if item.kind == "pypi":
        try:
            if name.endswith(".whl"):
                project, version, *_ = parse_wheel_filename(name)
            else:
                project, version = parse_sdist_filename(name)
        except (InvalidWheelFilename, InvalidSdistFilename):
            return None
        return str(version) if project == canonicalize_name(item.name) else None
    if item.kind == "npm":
        flat = re.escape(item.name.lstrip("@").replace("/", "-"))
        match = re.fullmatch(rf"{flat}-(\d[\w.+-]*)\.tgz", name)
    elif item.kind == "deb":
        match = re.fullmatch(rf"{re.escape(item.name)}_([^_]+)_\w+\.deb", name)
    else:
        match = re.fullmatch(
            rf"{re.escape(item.name)}_([^_]+?)(?:-[^-_]+)?\.(?:orig|debian)(?:-\w+)?\.tar\.\w+",
            name,
        )
    return match[1] if match else None


def _natural(version: str) -> list[tuple[int, str]]:
    return [(int(p), "") if p.isdigit() else (-1, p) for p in re.findall(r"\d+|\D+", version)]
