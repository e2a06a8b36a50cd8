"""The licence that a package states in its own files, and whether it is a free one."""

from __future__ import annotations

import json
import re
from email.parser import BytesHeaderParser

_FREE = re.compile(
    r"\b(?:MIT|X11|Expat|ISC|BSD|0BSD|Apache|[AL]?GPL|GFDL|FDL|MPL|PSF|Python|CC0|CC-BY(?!-NC)|"
    r"CC BY(?!-NC)|Artistic|Perl|Zlib|Unlicense|WTFPL|Boost|BSL-1\.0|EPL|CDDL|Ruby|HPND|WordNet|"
    r"Princeton|public[- ]domain|OSI Approved|Mozilla|Eclipse|GNU|Blue ?Oak|Unicode|NCSA|"
    r"PostgreSQL|OFL|MulanPSL)(?![A-Za-uw-z])",
    re.IGNORECASE,
)
_NOT_FREE = re.compile(
    r"proprietary|commercial|BUSL|-NC\b|non-?commercial|UNLICENSED|see licen[cs]e", re.IGNORECASE
)
# How files of /usr/share/doc name a licence when they are not in the machine-readable form.
_KNOWN = {
    "Apache-2.0": r"Apache License,?\s+Version 2",
    "MPL-2.0": r"Mozilla Public License,? v(?:ersion|\.)?\s*2",
    "GFDL": r"GNU Free Documentation License|common-licenses/GFDL",
    "LGPL": r"common-licenses/LGPL|Lesser General Public",
    "GPL": r"common-licenses/GPL|GNU General Public",
    "CC-BY-SA": r"Attribution[- ]Share ?Alike|CC[- ]BY[- ]SA",
    "CC-BY": r"Creative Commons Attribution(?![- ](?:Share|Non))",
    "BSD": r"common-licenses/BSD|Redistributions? of source code must retain",
    "MIT": r"Permission is hereby granted, free of charge",
    "Artistic": r"common-licenses/Artistic",
    "PSF-2.0": r"PYTHON SOFTWARE FOUNDATION LICENSE",
    "WordNet": r"WordNet.{0,40}(?:Copyright|licen[cs]e)|Princeton University",
    "public-domain": r"public domain",
}
_MAX_CHARS = 200


def is_licence_file(name: str) -> bool:
    """Whether a member of a package states its licence."""
    parts = name.split("/")
    return (
        (name.startswith("usr/share/doc/") and parts[-1] == "copyright")
        or (len(parts) in (2, 3) and parts[-2:] == ["debian", "copyright"])
        or (len(parts) == 2 and parts[1] in ("PKG-INFO", "package.json"))
        or (len(parts) == 2 and parts[0].endswith(".dist-info") and parts[1] == "METADATA")
    )


def licence_of(name: str, data: bytes) -> str | None:
    """Return the licence that such a file states, or None if it states none."""
    file = name.rpartition("/")[2]
    if file == "package.json":
        return _of_package_json(data)
    if file in ("METADATA", "PKG-INFO"):
        return _of_metadata(data)
    return _of_copyright(data.decode("utf-8", "replace"))


def is_free(licence: str | None) -> bool:
    """Whether a licence allows rows to be made and passed on, judged by its name.

    A choice ("(MIT OR Proprietary)") counts as free, no licence does not.
    """
    return bool(licence and _FREE.search(licence) and not _NOT_FREE.search(licence))


def _of_package_json(data: bytes) -> str | None:
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    licence = fields.get("license") or fields.get("licenses")
    several = licence if isinstance(licence, list) else [licence]
    names = [item.get("type") if isinstance(item, dict) else item for item in several]
    return _short(" OR ".join(name for name in names if isinstance(name, str)))


def _of_metadata(data: bytes) -> str | None:
    headers = BytesHeaderParser().parsebytes(data[: 1 << 20])
    if expression := headers.get("License-Expression"):
        return _short(str(expression))
    classifiers = [
        str(value).rpartition(" :: ")[2]
        for value in headers.get_all("Classifier", [])
        if str(value).startswith("License :: ") and str(value) != "License :: OSI Approved"
    ]
    stated = str(headers.get("License") or "")
    # Some packages have the whole licence here; a name is one short line.
    if stated and "\n" not in stated and len(stated) <= 80 and is_free(stated):
        return _short(stated)
    return _short(", ".join(classifiers)) or _by_words(stated)


def _of_copyright(text: str) -> str | None:
    """Return the licences of a debian/copyright file, by its fields (DEP 5) or by its words."""
    if re.match(r"\s*Format(?:-Specification)?:", text):
        names = re.findall(r"^License:[ \t]*(\S[^\n]*)", text, re.MULTILINE)
        unique = list(dict.fromkeys(name.strip() for name in names))
        if unique:
            return _short(", ".join(unique))
    return _by_words(text)


def _by_words(text: str) -> str | None:
    found = [name for name, words in _KNOWN.items() if re.search(words, text, re.IGNORECASE)]
    if "LGPL" in found and not re.search(r"common-licenses/GPL|GNU General Public", text):
        found = [name for name in found if name != "GPL"]
    return _short(", ".join(found))


def _short(licence: str) -> str | None:
    licence = " ".join(licence.split())
    if len(licence) > _MAX_CHARS:
        licence = licence[:_MAX_CHARS].rpartition(", ")[0] + ", …"
    return licence or None
