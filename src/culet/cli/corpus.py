"""The verb `culet corpus`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from culet.errors import InputError


def corpus(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="Corpora; see --list.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Each corpus gets a folder in it.")
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Show what can be built.")] = False,
    packages: Annotated[
        list[str] | None,
        typer.Option(
            "--package",
            metavar="NAME[==VERSION]",
            help="Read this in place of the corpus's own list; may be repeated.",
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            metavar="MANIFEST", help="Read what this manifest.json lists, the same files."
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--from", help="A folder of packages on disk; nothing is downloaded."),
    ] = None,
    pypi: Annotated[
        str | None, typer.Option(help="A simple index. Default: pip's own, else the public one.")
    ] = None,
    debian: Annotated[
        str | None, typer.Option(help="A Debian archive. Default: apt's own, else the public one.")
    ] = None,
    npm: Annotated[
        str | None, typer.Option(help="An npm registry. Default: npm's own, else the public one.")
    ] = None,
    suite: Annotated[str | None, typer.Option(help="A Debian release. Default: bookworm.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Build training pairs, texts and facts from public packages, or go on building."""
    from culet.corpora.catalogue import CORPORA, find

    if show:
        _show_list(as_json)
        return
    if not names:
        raise InputError(f"give the NAME of a corpus; the known are {', '.join(CORPORA)}")
    if out is None:
        raise InputError("give the folder the corpora are written to: --out FOLDER")
    wanted = [find(name) for name in dict.fromkeys(names)]
    if (packages or like) and len(wanted) > 1:
        raise InputError("--package and --like are for one corpus; give one NAME with them")
    if packages and like:
        raise InputError("--package and --like exclude each other; give one")
    from culet.corpora.build import build
    from culet.corpora.places.hosts import find_hosts

    hosts = find_hosts(pypi=pypi, debian=debian, npm=npm, suite=suite)
    results = []
    for one in wanted:
        built = build(
            one,
            out,
            packages=packages or (),
            like=like,
            hosts=hosts,
            folder=folder,
            say=_say,
            progress=False if quiet else None,
        )
        counts = ", ".join(f"{count:,} {kind}" for kind, count in built.counts.items() if count)
        _say(f"{one.name}: {counts or 'no rows'} in {built.folder}")
        results.append(
            {"corpus": one.name, "folder": str(built.folder), "counts": built.counts}
            | ({"left_out": built.failed} if built.failed else {})
        )
    if as_json:
        print(json.dumps(results, ensure_ascii=False, indent=2))
    if left := sum(len(result.get("left_out", ())) for result in results):
        _say(f"{left:,} packages are left out; the manifest says why")
        raise typer.Exit(1)


def _show_list(as_json: bool) -> None:
    from culet.corpora.catalogue import CORPORA

    if as_json:
        told = [
            {
                "name": c.name,
                "about": c.about,
                "licence": c.licence,
                "kind": c.kind,
                "packages": c.packages,
            }
            for c in CORPORA.values()
        ]
        print(json.dumps(told, ensure_ascii=False, indent=2))
        return
    for c in CORPORA.values():
        print(f"{c.name}\n    {c.about}\n    licence: {c.licence}; packages: {len(c.packages)}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
