"""The licence ledger: what each training source is, under which licence, and how much was used.

A source states it in a `source.json` beside its data (name, licence, origin), in the
`manifest.json` of `culet corpus`, or the recipe does. The ledger is written beside prepared data as
`ledger.json`, found again by whatever trains on that data, and ends as a table in the model's card
(`culet.stages.provenance`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from culet.errors import InputError
from culet.files.atomic import new_file

LEDGER = "ledger.json"
FACTS = ("source.json", "manifest.json")
UNSTATED = "not stated"


@dataclass(frozen=True)
class LedgerEntry:
    """One source.

    Attributes:
        source: Its name.
        licence: The licence of its rows, SPDX where there is such a name, or "not stated".
        origin: Where anyone finds it: package names, a repository and revision, an address.
        attribution: Whom to name, if the licence asks for it.
        made_by: The model that wrote its texts, if a model did.
        rows_read: Rows that were read.
        rows_kept: Rows that training sees.
        fingerprint: Of the files that were read; see `culet.files.fingerprint.of_files`.
    """

    source: str
    licence: str = UNSTATED
    origin: str = ""
    attribution: str = ""
    made_by: str = ""
    rows_read: int = 0
    rows_kept: int = 0
    fingerprint: str = ""


def source_facts(path: Path) -> LedgerEntry | None:
    """Return what a JSON file beside a data file, or in a data folder, states about it.

    Raises:
        InputError: If there is one and it is not an object of JSON.
    """
    folder = path if path.is_dir() else path.parent
    file = next((folder / name for name in FACTS if (folder / name).exists()), None)
    if file is None:
        return None
    raw = _object(file)
    return LedgerEntry(
        source=str(raw.get("name") or raw.get("corpus") or folder.name),
        licence=str(raw.get("licence") or raw.get("license") or UNSTATED),
        origin=_origin(raw),
        attribution=str(raw.get("attribution") or ""),
        made_by=str(raw.get("made_by") or ""),
    )


def card_licence(folder: Path) -> str | None:
    """Return the licence in the front matter of a model's README.md."""
    try:
        lines = (folder / "README.md").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    if not lines or lines[0].strip() != "---":
        return None
    for line in takewhile(lambda line: line.strip() != "---", lines[1:]):
        key, _, value = line.partition(":")
        if key.strip() == "license" and value.strip():
            return value.strip().strip("\"'")
    return None


def ledger_text(entries: Iterable[LedgerEntry]) -> str:
    """Return the content of a ledger's file."""
    return json.dumps({"sources": [asdict(entry) for entry in entries]}, indent=2) + "\n"


def write_ledger(path: Path, entries: Iterable[LedgerEntry]) -> None:
    """Write a ledger."""
    with new_file(path) as aside:
        aside.write_text(ledger_text(entries), encoding="utf-8")


def joined(entries: Sequence[LedgerEntry], name: str) -> LedgerEntry:
    """Return one entry, under another name, for rows made from the rows of several sources."""
    if len(entries) == 1:
        return replace(entries[0], source=name)

    def all_of(field: str) -> str:
        return ", ".join(dict.fromkeys(v for entry in entries if (v := getattr(entry, field))))

    return LedgerEntry(
        name,
        licence=all_of("licence") or UNSTATED,
        origin=all_of("source"),
        attribution=all_of("attribution"),
        made_by=all_of("made_by"),
    )


def write_ledgers(out: Path, read: Mapping[str, Iterable[Path]]) -> None:
    """Write what rows were made of into each folder `out`/data/<name>, and all of it into `out`.

    Args:
        out: A stage's folder.
        read: What each of its sources was made of, by name.
    """
    entries = {name: ledger_of(paths) for name, paths in read.items()}
    for name, own in entries.items():
        write_ledger(out / "data" / name / LEDGER, own)
    write_ledger(out / LEDGER, merged(entry for own in entries.values() for entry in own))


def read_ledger(path: Path) -> list[LedgerEntry]:
    """Return the entries of a ledger.

    Raises:
        InputError: If it is not one.
    """
    known = {field.name for field in fields(LedgerEntry)}
    try:
        return [
            LedgerEntry(**{key: value for key, value in entry.items() if key in known})
            for entry in _object(path)["sources"]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: expected a ledger with a list `sources`, each with its name under `source`; "
            f"got {error!r}"
        ) from error


def ledger_of(paths: Iterable[Path]) -> list[LedgerEntry]:
    """Return what is known of training data: one entry a source, in order of first use.

    In the folder of each file, or in each folder, and up to two above it, a `ledger.json` is
    looked for: of it the source whose name the folder has counts, or all if none has. Without a
    ledger the source's own file counts; without either its licence is not stated.
    """
    return merged(entry for path in paths for entry in _entries(path))


def merged(entries: Iterable[LedgerEntry]) -> list[LedgerEntry]:
    """Return each entry once, different ones of one name under names of their own."""
    found: dict[str, LedgerEntry] = {}
    for entry in dict.fromkeys(entries):
        name, number = entry.source, 1
        while name in found:
            number += 1
            name = f"{entry.source} ({number})"
        found[name] = replace(entry, source=name)
    return list(found.values())


def _entries(path: Path) -> list[LedgerEntry]:
    folder = path if path.is_dir() else path.parent
    for place in (folder, *folder.parents[:2]):
        if (place / LEDGER).exists():
            all_of_it = read_ledger(place / LEDGER)
            own = [entry for entry in all_of_it if entry.source in (folder.name, path.name)]
            return own or all_of_it
    facts = source_facts(path)
    return [facts if facts is not None else LedgerEntry(source=path.name)]


def _origin(raw: Mapping[str, Any]) -> str:
    if raw.get("origin"):
        return str(raw["origin"])
    packages = raw.get("packages")
    if isinstance(packages, list) and packages:
        names = [p.get("id", "?") if isinstance(p, dict) else p for p in packages]
        shown = ", ".join(map(str, names[:5]))
        return shown + (f" and {len(packages) - 5} more" if len(packages) > 5 else "")
    parts = [str(raw[key]) for key in ("repo", "url", "rev") if isinstance(raw.get(key), str)]
    return " ".join(parts)


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected an object of JSON, got {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected an object of JSON, got {type(value).__name__}")
    return value
