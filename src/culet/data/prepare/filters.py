"""Filters that judge a row by itself: its length, whether its sides differ, its language."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from culet.errors import RecipeError, need
from culet.text.keys import normalised

# Two names of one language, older codes among them.
_ALIASES = (
    {"he", "iw"},
    {"id", "in"},
    {"yi", "ji"},
    {"nb", "no"},
    {"fil", "tl"},
    {"zh", "cmn"},
)
# Written so alike that a short text does not tell them apart, or one name for several.
_CONFUSED = (
    {"no", "nb", "nn", "da"},
    {"sr", "hr", "bs", "sh", "me"},
    {"id", "ms"},
    {"cs", "sk"},
    {"zh", "yue", "wuu"},
    {"pt", "gl"},
)
_IDENTIFIED_CHARACTERS = 200  # what is looked at of a text; more costs time and tells no more


@dataclass(frozen=True)
class LengthConfig:
    """Bounds on characters; a row outside goes.

    Attributes:
        min_query: Fewest characters of a query.
        max_query: Most characters of a query; 0 sets no bound.
        min_positive: Fewest characters of a positive, or of a row that is one text.
        max_positive: Most characters of one; 0 sets no bound.
        identical: Let pairs stay whose two sides say the same; they teach nothing.
    """

    min_query: int = 2
    max_query: int = 2000
    min_positive: int = 2
    max_positive: int = 20_000
    identical: bool = False

    def __post_init__(self) -> None:
        for side in ("query", "positive"):
            low, high = getattr(self, f"min_{side}"), getattr(self, f"max_{side}")
            if low < 0 or (high and high < low):
                raise RecipeError(f"max_{side} must be 0 or at least min_{side}, got {high}, {low}")


@dataclass(frozen=True)
class LanguageConfig:
    """Language of rows, as declared in their `lang` field and as identified from their texts.

    A declared language is `xx` of both sides, `xx-yy` of query and positive, or `code-…`: a text
    in English and code. It is never guessed where it is not declared: see `identify_undeclared`.

    Attributes:
        keep: Languages (`xx`) that both sides must be in; empty lets all stay. A declared language
            counts as itself, an identified one also as those it is easily taken for.
        identify: Identify the language of each text and let rows go whose text is clearly in
            another language than declared.
        identify_undeclared: With `keep`, judge rows that declare nothing by what is identified;
            otherwise they stay.
        min_chars: Shorter texts are not identified: they say too little.
        min_confidence: Probability from which an identification counts.
    """

    keep: tuple[str, ...] = ()
    identify: bool = True
    identify_undeclared: bool = False
    min_chars: int = 40
    min_confidence: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.min_confidence <= 1:
            raise RecipeError(f"min_confidence must be in (0, 1], got {self.min_confidence}")


class Identifier(Protocol):
    """Tells the language of a text."""

    labels: frozenset[str]

    def __call__(self, text: str) -> tuple[str, float]:
        """Return the ISO 639-1 code (or 639-3 where there is none) and its probability."""


class LanguageIdentifier:
    """py3langid: naive Bayes over byte n-grams, its model inside the wheel, numpy only.

    Raises:
        MissingExtra: If it is not installed.
    """

    def __init__(self) -> None:
        langid = need("py3langid.langid", extra="data", purpose="identifying languages")
        self._model = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
        self.labels = frozenset(self._model.labels)

    def __call__(self, text: str) -> tuple[str, float]:
        """Return the language of a text and its probability."""
        label, probability = self._model.classify(text[:_IDENTIFIED_CHARACTERS])
        return str(label), float(probability)


def length_reason(query: str | None, positive: str, config: LengthConfig) -> str | None:
    """Return why a row goes for its lengths, or None."""
    sides = [("positive", positive)] if query is None else [("query", query)]
    if query is not None:
        sides.append(("positive", positive))
    for side, text in sides:
        low, high = getattr(config, f"min_{side}"), getattr(config, f"max_{side}")
        size = len(text.strip())
        if size < low:
            return "short"
        if high and size > high:
            return "long"
    if query is not None and not config.identical and normalised(query) == normalised(positive):
        return "identical"
    return None


def declared(lang: str | None, sides: int) -> tuple[str | None, ...]:
    """Return the declared language of each side; "code" for code, None where it is not declared.

    >>> declared("en-zh-TW", 2), declared("de", 2), declared("code-python", 2)
    (('en', 'zh'), ('de', 'de'), ('en', 'code'))
    """
    if not lang:
        return (None,) * sides
    parts = lang.replace("_", "-").split("-")
    if parts[0] == "code":
        return ("en", "code") if sides == 2 else ("code",)
    languages = [part for part in parts if part.islower() and 2 <= len(part) <= 3]
    if not languages:
        return (None,) * sides
    return (languages[0], languages[-1])[:sides] if sides == 2 else (languages[-1],)


def language_reason(
    texts: Sequence[str], lang: str | None, config: LanguageConfig, identify: Identifier | None
) -> str | None:
    """Return why a row goes for its language, or None.

    Args:
        texts: Its sides.
        lang: Its `lang` field.
        config: What stays.
        identify: Tells languages; None if `config.identify` is off.
    """
    for text, language in zip(texts, declared(lang, len(texts)), strict=True):
        if language == "code":
            continue
        if (
            config.keep
            and language is not None
            and not any(_same(language, kept) for kept in config.keep)
        ):
            return "language"
        if identify is None or len(text) < config.min_chars:
            continue
        if language is None:
            if not (config.keep and config.identify_undeclared):
                continue
            found, probability = identify(text)
            wrong = not any(_alike(found, kept) for kept in config.keep)
        else:
            if language not in identify.labels:
                continue
            found, probability = identify(text)
            wrong = not _alike(found, language)
        if wrong and probability >= config.min_confidence:
            return "language"
    return None


def _same(left: str, right: str) -> bool:
    return left == right or {left, right} in _ALIASES


def _alike(left: str, right: str) -> bool:
    """Whether identification may take one for the other."""
    return _same(left, right) or any({left, right} <= group for group in _CONFUSED)
