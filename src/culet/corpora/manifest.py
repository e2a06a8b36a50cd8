"""The manifest of a corpus: what it was made of, what came of it, and the sums of its files.

It is written last and removed before a file changes, so it never speaks of files half written.
What happened to them since, their sums tell.
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
    """Return the packages of a manifest with their versions, and the sums of their files.

    An index has no versions to ask for; its sum tells whether it is still the same.

    Raises:
        InputError: When the file is no manifest of this corpus, method and rules.
    """
    try:
        told = json.loads(manifest.read_bytes())
        name, way = told["corpus"], (told["method"], told["rules"])
        files = {
            entry["id"].partition("==")[0]
            + ("" if entry["id"].startswith("index:") else f"=={entry['version']}"): [
                file["sha256"] for file in entry["files"]
            ]
            for entry in told["packages"]
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
    """Return what a manifest says before the files are assembled.

    Args:
        corpus: The corpus.
        records: What is known of each package that was read.
        failed: Package to what was wrong with it.
    """
    inputs = [[r["id"], r["version"], sums_of(r)] for r in records]
    told = json.dumps([corpus.name, corpus.method, RULES, inputs, sorted(failed)])
    return {
        "corpus": corpus.name,
        "about": corpus.about,
        "licence": corpus.licence,
        "method": corpus.method,
        "rules": RULES,
        "inputs": hashlib.sha256(told.encode()).hexdigest(),
        "packages": list(records),
        "left_out": failed,
    }


def accounted(manifest: dict[str, Any], account: Account, home: Path) -> dict[str, Any]:
    """Return a planned manifest with what came of the rows, and the files as they now are."""
    for record in manifest["packages"]:
        record["kept"] = dict(account.packages.get(record["id"], {}))
    return manifest | {
        "files": _outputs(home),
        "counts": dict(account.kept),
        "dropped": dict(account.dropped.most_common()),
        "parts": dict(account.parts.most_common()),
        "languages": dict(account.languages.most_common()),
    }


def last_told(home: Path) -> dict[str, Any]:
    """Return the manifest that a folder holds, an empty one if it holds none that can be read."""
    try:
        told = json.loads((home / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def amiss(manifest: dict[str, Any], home: Path) -> str | None:
    """Return in what the files of a folder are not those of its manifest, None if they are."""
    files = manifest.get("files")
    if not isinstance(files, list):  # versions before this one kept no sums
        return "its manifest does not say which files it has"
    told = {entry.get("name"): entry for entry in files if isinstance(entry, dict)}
    try:
        there = {entry["name"]: entry for entry in _outputs(home)}
    except OSError as error:
        return f"not all of it can be read ({error})"
    changed = [name for name in FILES.values() if told.get(name) != there.get(name)]
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
