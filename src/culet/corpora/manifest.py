"""The manifest of a corpus: its packages, the rows that came of them, checksums of its files.

It is written last and removed before a file changes, so it never describes half-written files.
Its checksums show whether the files have changed since.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from culet.corpora.assemble import FILES, RULES, Account
from culet.corpora.corpus import Corpus
from culet.errors import InputError

MANIFEST = "manifest.json"


def pinned(manifest: Path, corpus: Corpus) -> tuple[list[str], dict[str, list[str]]]:
    """Return the packages of a manifest with their versions, and the checksums of their files.

    An index has no versions to ask for; its checksum shows whether it is still the same.

    Raises:
        InputError: When the file is no manifest of this corpus, method and rules.
    """
    try:
        stored = json.loads(manifest.read_bytes())
        name, way = stored["corpus"], (stored["method"], stored["rules"])
        files = {
            entry["id"].partition("==")[0]
            + ("" if entry["id"].startswith("index:") else f"=={entry['version']}"): [
                file["sha256"] for file in entry["files"]
            ]
            for entry in stored["packages"]
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{manifest} is not a manifest of a corpus: {error!r}") from error
    if (name, way) != (corpus.name, (corpus.method, RULES)):
        raise InputError(
            f"{manifest} is of {name} by method {way[0]} and rules {way[1]}; this is {corpus.name} "
            f"by method {corpus.method} and rules {RULES}, which gives other rows"
        )
    return list(files), files


def planned(
    corpus: Corpus, records: Sequence[dict[str, Any]], failed: dict[str, str]
) -> dict[str, Any]:
    """Return a manifest without results, as it is before the files are assembled.

    Args:
        corpus: The corpus.
        records: The record of each package that was read.
        failed: Package to what was wrong with it.
    """
    inputs = [[r["id"], r["version"], sums_of(r)] for r in records]
    key = json.dumps([corpus.name, corpus.method, RULES, inputs, sorted(failed)])
    return {
        "corpus": corpus.name,
        "about": corpus.about,
        "licence": corpus.licence,
        "method": corpus.method,
        "rules": RULES,
        "inputs": hashlib.sha256(key.encode()).hexdigest(),
        "packages": list(records),
        "left_out": failed,
    }


def with_results(manifest: dict[str, Any], account: Account, home: Path) -> dict[str, Any]:
    """Return a planned manifest with the counts of rows, and the files as they now are."""
    for record in manifest["packages"]:
        record["kept"] = dict(account.packages.get(record["id"], {}))
    return manifest | {
        "files": _outputs(home),
        "counts": dict(account.kept),
        "dropped": dict(account.dropped.most_common()),
        "parts": dict(account.parts.most_common()),
        "languages": dict(account.languages.most_common()),
    }


def read_manifest(home: Path) -> dict[str, Any]:
    """Return the manifest in a folder, an empty one if there is none that can be read."""
    try:
        stored = json.loads((home / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def mismatch(manifest: dict[str, Any], home: Path) -> str | None:
    """Return how the files of a folder differ from its manifest, None if they do not."""
    files = manifest.get("files")
    if not isinstance(files, list):  # versions before this one kept no sums
        return "its manifest does not say which files it has"
    listed = {entry.get("name"): entry for entry in files if isinstance(entry, dict)}
    try:
        there = {entry["name"]: entry for entry in _outputs(home)}
    except OSError as error:
        return f"not all of it can be read ({error})"
    changed = [name for name in FILES.values() if listed.get(name) != there.get(name)]
    return f"{', '.join(changed)} gone or changed" if changed else None


def _outputs(home: Path) -> list[dict[str, Any]]:
    paths = [home / name for name in FILES.values() if (home / name).is_file()]
    return [{"name": p.name, "bytes": p.stat().st_size, "sha256": sha256_of(p)} for p in paths]


def sums_of(record: dict[str, Any]) -> list[str]:
    """Return the SHA-256 of each file that a package was read from."""
    return [file["sha256"] for file in record["files"]]


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
