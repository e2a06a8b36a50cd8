"""The verb `culet corpus`."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from culet.cli.options import JsonOption, QuietOption, print_json
from culet.errors import InputError
from culet.terminal.lines import complain, say, show
from culet.terminal.tables import counted

if TYPE_CHECKING:
    from culet.corpora.build import Built
    from culet.corpora.corpus import Corpus


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
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Build training pairs, texts and facts from public packages, or go on building."""
    if show:
        _show_list(as_json)
        return
    wanted = _wanted(names, packages, like)
    if out is None:
        raise InputError("give the folder the corpora are written to: --out FOLDER")
    from culet.corpora.build import build
    from culet.corpora.places.hosts import find_hosts

    build_one = partial(
        build,
        out=out,
        packages=packages or (),
        like=like,
        hosts=find_hosts(pypi=pypi, debian=debian, npm=npm, suite=suite),
        folder=folder,
        say=say,
        progress=False if quiet else None,
    )
    _report(((one, build_one(one)) for one in wanted), as_json)


def _wanted(names: list[str] | None, packages: list[str] | None, like: Path | None) -> list[Corpus]:
    """Return the corpora to build, after checking that the options fit them."""
    from culet.corpora.catalogue import CORPORA, find

    if not names:
        raise InputError(f"give the NAME of a corpus; the known are {', '.join(CORPORA)}")
    wanted = [find(name) for name in dict.fromkeys(names)]
    if (packages or like) and len(wanted) > 1:
        raise InputError("--package and --like are for one corpus; give one NAME with them")
    if packages and like:
        raise InputError("--package and --like exclude each other; give one")
    return wanted


def _report(corpora: Iterable[tuple[Corpus, Built]], as_json: bool) -> None:
    """Say of each corpus, as it is built, what it holds; exit with 1 if packages are left out."""
    results = []
    for corpus, built in corpora:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in built.counts.items() if count)
        say(f"{corpus.name}: {counts or 'no rows'} in {built.folder}")
        results.append(
            {"corpus": corpus.name, "folder": str(built.folder), "counts": built.counts}
            | ({"left_out": built.failed} if built.failed else {})
        )
    if as_json:
        print_json(results)
    if left := sum(len(result.get("left_out", ())) for result in results):
        complain(f"{counted(left, 'packages')} left out; the manifest says why")
        raise typer.Exit(1)


def _show_list(as_json: bool) -> None:
    from culet.corpora.catalogue import CORPORA

    if as_json:
        fields = ("name", "about", "licence", "kind", "packages")
        print_json([{name: getattr(one, name) for name in fields} for one in CORPORA.values()])
        return
    for one in CORPORA.values():
        show(one.name)
        show(f"    {one.about}")
        show(f"    licence: {one.licence}; packages: {len(one.packages)}")
