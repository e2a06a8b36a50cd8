"""Where packages come from: the hosts that were asked for, else those of this machine's own tools.

pip, npm and apt each know an index or mirror from the environment or a configuration file. Where
nothing is set, the public hosts are used. Addresses are left out of everything that is written.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PYPI = "https://pypi.org/simple"
DEBIAN = "https://deb.debian.org/debian"
NPM = "https://registry.npmjs.org"
SUITE = "bookworm"  # the release all packages of the catalogue were read from


@dataclass(frozen=True)
class Hosts:
    """Addresses without a slash at the end.

    Attributes:
        pypi: A simple index (PEP 503), such as https://pypi.org/simple.
        debian: A Debian archive: the folder with dists/ and pool/.
        npm: An npm registry.
        suite: Release of the Debian archive, such as "bookworm".
    """

    pypi: str = PYPI
    debian: str = DEBIAN
    npm: str = NPM
    suite: str = SUITE


def find_hosts(
    *,
    pypi: str | None = None,
    debian: str | None = None,
    npm: str | None = None,
    suite: str | None = None,
    environment: Mapping[str, str] | None = None,
    home: Path | None = None,
    root: Path = Path("/"),
) -> Hosts:
    """Return the hosts asked for, else those of CULET_*, else the machine's, else the public ones.

    Args:
        pypi: A simple index.
        debian: A Debian archive.
        npm: An npm registry.
        suite: A Debian release.
        environment: `os.environ` if None.
        home: The user's folder if None.
        root: The root of the file system; another one in tests.
    """
    env = os.environ if environment is None else environment
    home = Path.home() if home is None else home
    chosen = {
        "pypi": pypi or env.get("CULET_PYPI") or _pip_index(env, home, root) or PYPI,
        "debian": debian or env.get("CULET_DEBIAN") or _apt_archive(root) or DEBIAN,
        "npm": npm or env.get("CULET_NPM") or _npm_registry(env, home, root) or NPM,
        "suite": suite or env.get("CULET_SUITE") or SUITE,
    }
    return Hosts(**{name: value.strip().rstrip("/") for name, value in chosen.items()})


def _pip_index(env: Mapping[str, str], home: Path, root: Path) -> str | None:
    found = env.get("PIP_INDEX_URL")
    files = [
        home / ".config/pip/pip.conf",
        home / ".pip/pip.conf",
        home / "Library/Application Support/pip/pip.conf",
        root / "etc/pip.conf",
    ]
    if "PIP_CONFIG_FILE" in env:
        files.insert(0, Path(env["PIP_CONFIG_FILE"]))
    for file in files:
        if found:
            break
        settings = configparser.RawConfigParser(strict=False)
        try:
            settings.read_string(_read(file))
        except configparser.Error:
            continue
        found = settings.get("global", "index-url", fallback=None)
    return found if found and found.startswith(("http://", "https://")) else None


def _npm_registry(env: Mapping[str, str], home: Path, root: Path) -> str | None:
    for name in ("npm_config_registry", "NPM_CONFIG_REGISTRY"):
        if value := env.get(name):
            return value
    for file in (home / ".npmrc", root / "usr/etc/npmrc", root / "etc/npmrc"):
        if found := re.search(r"^\s*registry\s*=\s*\"?([^\s\"]+)", _read(file), re.MULTILINE):
            return found[1]
    return None


def _apt_archive(root: Path) -> str | None:
    """Return the first Debian archive among apt's sources; others have other packages."""
    folder = root / "etc/apt/sources.list.d"
    try:
        extra = sorted(folder.iterdir())
    except OSError:
        extra = []
    for file in [root / "etc/apt/sources.list", *extra]:
        for address in _addresses(_read(file), deb822=file.suffix == ".sources"):
            if re.fullmatch(r"https?://\S+/debian/?", address):
                return address
    return None


def _addresses(text: str, *, deb822: bool) -> Iterator[str]:
    if deb822:
        for line in re.findall(r"^URIs:(.*)$", text, re.MULTILINE):
            yield from line.split()
    else:
        yield from re.findall(r"^\s*deb\s+(?:\[[^\]]*\]\s+)?(\S+)", text, re.MULTILINE)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
