"""Length and language filters, on texts whose answer is plain."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import pytest

from culet.data.prepare.filters import (
    LanguageConfig,
    LanguageIdentifier,
    LengthConfig,
    declared,
    language_reason,
    length_reason,
)
from culet.errors import MissingExtra, RecipeError

ENGLISH = "The committee will publish its final report at the end of the month."
GERMAN = "Der Ausschuss wird seinen Abschlussbericht am Ende des Monats veröffentlichen."


class Told:
    """An identifier that knows what it was told."""

    labels = frozenset({"en", "de", "fr"})

    def __init__(self, known: Mapping[str, tuple[str, float]]) -> None:
        self.known = known
        self.asked: list[str] = []

    def __call__(self, text: str) -> tuple[str, float]:
        self.asked.append(text)
        return self.known[text]


TOLD = {ENGLISH: ("en", 0.99), GERMAN: ("de", 0.99)}


@pytest.mark.parametrize(
    ("query", "positive", "reason"),
    [
        ("abc", "defgh", None),
        ("a ", "defgh", "short"),
        ("abc", "d", "short"),
        ("abcdefghijk", "defgh", "long"),
        ("abc", "d" * 21, "long"),
        ("Same Text", "same  text", "identical"),
        (None, "a text of its own", None),
        (None, "d" * 21, "long"),
        (None, "d", "short"),
    ],
)
def test_length_bounds(query: str | None, positive: str, reason: str | None) -> None:
    config = LengthConfig(min_query=2, max_query=10, min_positive=2, max_positive=20)
    assert length_reason(query, positive, config) == reason


def test_without_an_upper_bound_no_text_is_long_and_equal_sides_may_stay() -> None:
    config = LengthConfig(max_query=0, max_positive=0, identical=True)
    assert length_reason("q" * 100_000, "q" * 100_000, config) is None


def test_bounds_that_exclude_all_are_refused() -> None:
    with pytest.raises(RecipeError, match="max_query must be 0 or at least min_query, got 5, 9"):
        LengthConfig(min_query=9, max_query=5)


@pytest.mark.parametrize(
    ("lang", "sides", "languages"),
    [
        ("de", 2, ("de", "de")),
        ("en-fr", 2, ("en", "fr")),
        ("zh-CN", 2, ("zh", "zh")),
        ("en-zh-TW", 2, ("en", "zh")),
        ("pt_BR", 2, ("pt", "pt")),
        ("code-python", 2, ("en", "code")),
        ("code-python", 1, ("code",)),
        ("en-mul", 2, ("en", "mul")),
        ("de", 1, ("de",)),
        (None, 2, (None, None)),
        ("", 1, (None,)),
    ],
)
def test_what_a_row_declares(
    lang: str | None, sides: int, languages: tuple[str | None, ...]
) -> None:
    assert declared(lang, sides) == languages


@pytest.mark.parametrize(
    ("texts", "lang", "settings", "reason"),
    [
        ((ENGLISH, GERMAN), "en-de", {}, None),
        ((GERMAN, ENGLISH), "en-de", {}, "language"),
        ((ENGLISH, ENGLISH), "en-de", {"min_confidence": 1.0}, None),
        ((ENGLISH, "kurz"), "en-de", {}, None),
        ((ENGLISH,), None, {}, None),
        ((GERMAN,), None, {"keep": ("en",)}, None),
        ((GERMAN,), None, {"keep": ("en",), "identify_undeclared": True}, "language"),
        ((ENGLISH, GERMAN), "en-de", {"keep": ("en",)}, "language"),
        ((ENGLISH, GERMAN), "en-de", {"keep": ("en", "de")}, None),
        ((ENGLISH, ENGLISH), "xx", {}, None),  # nothing the identifier knows
        ((ENGLISH, GERMAN), "code-c", {}, None),  # code is never identified
        (
            (GERMAN, "int main() { return 0; } /* and more than forty characters */"),
            "code-c",
            {},
            "language",
        ),
    ],
)
def test_language(
    texts: tuple[str, ...], lang: str | None, settings: dict[str, Any], reason: str | None
) -> None:
    assert language_reason(texts, lang, LanguageConfig(**settings), Told(TOLD)) == reason


def test_languages_are_kept_by_declaration_alone_without_an_identifier() -> None:
    config = LanguageConfig(keep=("en",), identify=False)
    assert language_reason((GERMAN, GERMAN), "de", config, None) == "language"
    assert language_reason((GERMAN, GERMAN), "en", config, None) is None


def test_languages_hard_to_tell_apart_count_as_one() -> None:
    told = Told({ENGLISH: ("da", 1.0)})
    told.labels = frozenset({"nb", "da", "de"})
    assert language_reason((ENGLISH,), "nb", LanguageConfig(), told) is None
    assert language_reason((ENGLISH,), "de", LanguageConfig(), told) == "language"


@pytest.mark.parametrize(
    ("keep", "stay", "go"),
    [
        ("cs", ["cs", "cs-CZ", "cs-cs"], ["sk", "cs-sk", "sk-cs"]),
        ("nb", ["nb", "no"], ["da", "nn", "no-da"]),
        ("no", ["no", "nb", "nb-no"], ["da", "nn"]),
        ("pt", ["pt", "pt_BR"], ["gl", "pt-gl"]),
        ("hr", ["hr"], ["sr", "bs", "sh"]),
        ("id", ["id", "in"], ["ms"]),
        ("he", ["he", "iw"], ["yi"]),
        ("zh", ["zh", "zh-CN", "cmn"], ["yue", "wuu"]),
        ("en", ["en", "code-python"], ["de"]),
        ("de", ["de"], ["code-python"]),
    ],
)
def test_a_declared_language_is_kept_by_its_own_names_alone(
    keep: str, stay: list[str], go: list[str]
) -> None:
    config = LanguageConfig(keep=(keep,), identify=False)
    for langs, reason in ((stay, None), (go, "language")):
        assert [language_reason((GERMAN,) * 2, lang, config, None) for lang in langs] == [
            reason for _ in langs
        ]


def test_a_kept_declared_language_may_be_identified_as_one_like_it() -> None:
    told = Told({ENGLISH: ("sk", 1.0)})
    told.labels = frozenset({"cs", "sk"})
    config = LanguageConfig(keep=("cs",), identify_undeclared=True)
    assert language_reason((ENGLISH,), "cs", config, told) is None
    assert language_reason((ENGLISH,), None, config, told) is None
    assert language_reason((ENGLISH,), "sk", config, told) == "language"


def test_the_real_identifier() -> None:
    pytest.importorskip("py3langid")
    identify = LanguageIdentifier()
    assert {"en", "de", "ja", "sw"} <= identify.labels
    for text, language in ((ENGLISH, "en"), (GERMAN, "de")):
        found, probability = identify(text)
        assert found == language
        assert 0.9 < probability <= 1


def test_a_missing_identifier_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)  # an import of it fails
    with pytest.raises(MissingExtra, match=r"identifying languages needs .*'culet\[data\]'"):
        LanguageIdentifier()
