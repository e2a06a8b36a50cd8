"""Groups of languages, by which scores are averaged: what a model reads well and what not."""

from __future__ import annotations

from collections.abc import Sequence

from culet.evaluate.tasks import WHOLE, TaskInfo

GROUPS = ("English", "European", "East Asian", "other languages", "across languages", "code")

_CODE = frozenset({"python-Code", "sql", "c-sharp", "java", "javascript", "go", "ruby", "php"})
_EAST_ASIAN = frozenset(["cmn", "jpn", "kor", "wuu", "yue", "zho"])
_EUROPEAN = frozenset({
    "als", "ast", "bel", "bos", "bre", "bul", "cat", "ces", "cor", "cym", "dan", "deu", "dsb",
    "ell", "est", "eus", "fao", "fin", "fra", "fry", "fur", "gla", "gle", "glg", "gsw", "hrv",
    "hsb", "hun", "isl", "ita", "lat", "lav", "lij", "lim", "lit", "lmo", "ltg", "ltz", "lvs",
    "mkd", "mlt", "nds", "nld", "nno", "nob", "nor", "oci", "pms", "pol", "por", "ron", "rus",
    "scn", "slk", "slv", "spa", "sqi", "srd", "srp", "swe", "swg", "szl", "ukr", "vec", "ydd",
    "yid",
})  # fmt: skip
_SHORT = {  # subsets of some tasks go by ISO 639-1
    "ar": "ara",
    "cs": "ces",
    "da": "dan",
    "de": "deu",
    "en": "eng",
    "es": "spa",
    "fr": "fra",
    "hi": "hin",
    "it": "ita",
    "ja": "jpn",
    "ko": "kor",
    "nl": "nld",
    "pl": "pol",
    "pt": "por",
    "ro": "ron",
    "ru": "rus",
    "tr": "tur",
    "vi": "vie",
    "zh": "zho",
}


def group_of(info: TaskInfo, subset: str) -> str:
    """Return the one of GROUPS that a subset of a task counts towards."""
    codes = _codes(info, subset)
    if codes & _CODE:
        return "code"
    languages = {code.partition("-")[0] for code in codes}
    if len(languages) > 1:
        return "across languages"
    for name, members in (
        ("English", {"eng"}),
        ("European", _EUROPEAN),
        ("East Asian", _EAST_ASIAN),
    ):
        if languages <= members:
            return name
    return "other languages"


def _codes(info: TaskInfo, subset: str) -> set[str]:
    """Return the languages that a subset's name spells out, else all of the task."""
    if subset != WHOLE:
        parts = [part.replace("_", "-") for part in subset.split("-")]
        known = {code.partition("-")[0] for code in info.languages}
        named = [_SHORT.get(part, part) for part in parts]
        if all(_is_language(name, known) for name in named):
            return set(named)
    return set(info.languages)


def _is_language(name: str, known: Sequence[str] | set[str]) -> bool:
    code = name.partition("-")[0]
    return code in known or code in _SHORT.values()
