"""Texts as training wants them, and the reasons for which a row is dropped.

Readers hand over whatever they find; faults of rows are decided here, once, and counted.
"""

from __future__ import annotations

import re
import unicodedata

from culet.corpora.rows import ENGLISH

MAX_QUERY_CHARS = 2000
MAX_CHARS = 4000  # longer texts are cut at the end of a line, a sentence or a word
_SAMPLE_CHARS = 400  # the beginning is enough to recognise script and language
_SHARE_OF_SCRIPT = 0.4  # of the letters; names and commands stay Latin in every language
_SHARE_OF_ENGLISH = 0.12  # of the words of a line
_SHARE_OF_ENGLISH_LINES = 0.2  # of the characters

# Not the joiners U+200C and U+200D, which spell words of Persian and of Indic languages.
_INVISIBLE = re.compile(
    r"[\u00ad\u200b\u200e\u200f\u2028-\u202e\u2060-\u2064\ufeff\ud800-\udfff"
    r"\x00-\x08\x0b-\x1f\x7f]"
)
# A space between two ideographs or kana is where a line was broken.
_WRAPPED = re.compile(r"(?<=[\u3001-\u9fff\uff00-\uffef]) (?=[\u3001-\u9fff\uff00-\uffef])")
_MARKUP = re.compile(
    r"</?(?:p|b|i|u|a|em|br|li|ul|ol|td|tr|div|span|table|para|link|item|emph|literal|strong|tt|"
    r"code|pre|guilabel|keycap|gui|app|key|variable|switchinline|object|img)\b[^<>]{0,80}>|"
    r"&(?:amp|lt|gt|quot|nbsp|apos|#\d+|[A-Za-z]{2,20});|\\f[BIRP]\b|\\\(\w\w|\\\*\[",
)
# Script to the ranges of its letters and the languages written in it; all others are Latin.
_SCRIPTS = {
    "a-zA-Z\u00aa-\u024f\u1e00-\u1eff": "",
    "\u3400-\u9fff\U00020000-\U0003ffff": "zh yue wuu gan hak lzh",
    "\u3040-\u30ff\u3400-\u9fff": "ja",
    "\u1100-\u11ff\uac00-\ud7af": "ko",
    "\u0400-\u052f": "ru uk bg be mk sr kk ky mn tg tt ba cv ce os sah udm mhr mrj myv mdf ab av",
    "\u0370-\u03ff\u1f00-\u1fff": "el grc",
    "\u0590-\u05ff": "he yi",
    "\u0600-\u077f\ufb50-\ufdff\ufe70-\ufefc": "ar fa ur ug ps sd ckb arz",
    "\u0900-\u097f": "hi mr ne mai sa bho kok brx",
    "\u0980-\u09ff": "bn as",
    "\u0a00-\u0a7f": "pa",
    "\u0a80-\u0aff": "gu",
    "\u0b00-\u0b7f": "or",
    "\u0b80-\u0bff": "ta",
    "\u0c00-\u0c7f": "te",
    "\u0c80-\u0cff": "kn",
    "\u0d00-\u0d7f": "ml",
    "\u0d80-\u0dff": "si",
    "\u0e00-\u0e7f": "th",
    "\u0e80-\u0eff": "lo",
    "\u0f00-\u0fff": "bo dz",
    "\u1000-\u109f": "my",
    "\u1780-\u17ff": "km",
    "\u10a0-\u10ff\u1c90-\u1cbf": "ka",
    "\u0530-\u058f": "hy",
    "\u1200-\u139f": "am ti",
}
_LATIN, *_ = (re.compile(f"[{letters}]") for letters in _SCRIPTS)
_SCRIPT_OF = {
    lang: re.compile(f"[{letters}]")
    for letters, langs in _SCRIPTS.items()
    for lang in langs.split()
}
# Languages that are written in two scripts.
_EITHER = frozenset(["az", "bs", "crh", "ha", "kk", "ks", "ku", "mn", "pa", "sh", "sr", "tg", "uz"])
_ENGLISH_WORDS = frozenset(
    [
        "the",
        "and",
        "of",
        "to",
        "this",
        "that",
        "with",
        "you",
        "are",
        "from",
        "which",
        "when",
        "will",
    ]
)
_WORD = re.compile(r"[^\W\d_]+")


def tidy(text: str) -> str:
    """Return a text in NFC with single spaces, without invisible characters and empty lines."""
    if text.isascii() and text.isprintable():  # the fast path of most texts
        return " ".join(text.split())
    text = _INVISIBLE.sub("", unicodedata.normalize("NFC", text.replace("\r", "\n")))
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return _WRAPPED.sub("", "\n".join(line for line in lines if line))


def language(code: str) -> str:
    """Return the code of a language as rows have it: "pt_BR.UTF-8" → "pt-BR"."""
    code = code.partition(".")[0].replace("_", "-")
    base, at, variant = code.partition("@")
    parts = base.split("-")
    parts[1:] = [part.upper() if len(part) == 2 else part.title() for part in parts[1:]]
    named = "-".join([parts[0].lower(), *parts[1:]])
    return f"{named}-{'Latn' if variant.startswith('latin') else variant.title()}" if at else named


def cut(text: str, max_chars: int = MAX_CHARS) -> str:
    """Return the beginning of a text, to the end of a line, a sentence or at least a word."""
    if len(text) <= max_chars:
        return text
    head = text[:max_chars]
    for mark in ("\n", ". ", "。", " "):
        at = head.rfind(mark)
        if at > max_chars // 2:
            return head[: at + (0 if mark in "\n " else 1)].rstrip()
    return head


def in_script(text: str, lang: str) -> bool:
    """Whether enough letters are of the script the language is written in."""
    base = lang.partition("-")[0]
    if base in _EITHER:
        return True
    script = _SCRIPT_OF.get(base, _LATIN)
    if script is _LATIN and text.isascii():
        return any(char.isalnum() for char in text)
    text = text[:_SAMPLE_CHARS]
    letters = sum(map(str.isalpha, text))
    if not letters:
        return script is _LATIN and any(map(str.isalnum, text))
    return len(script.findall(text)) >= _SHARE_OF_SCRIPT * letters


def looks_english(text: str) -> bool:
    """Whether more than a few lines of a text are English, judged by its function words."""
    lines = text[:MAX_CHARS].split("\n")
    english = sum(len(line) for line in lines if _is_english(line))
    return english > _SHARE_OF_ENGLISH_LINES * sum(map(len, lines))


def _is_english(line: str) -> bool:
    words = _WORD.findall(line[:_SAMPLE_CHARS].lower())
    return len(words) >= 6 and (
        sum(word in _ENGLISH_WORDS for word in words) >= _SHARE_OF_ENGLISH * len(words)
    )


def has_markup(text: str) -> bool:
    """Whether tags, entities or troff escapes are left in a text."""
    if "<" not in text and "&" not in text and "\\" not in text:
        return False
    return _MARKUP.search(text) is not None


def fault_of_text(text: str, lang: str) -> str | None:
    """Return why a text cannot be used as one of a language, or None if it can."""
    if not any(char.isalnum() for char in text):
        return "empty"
    if lang.startswith("code-"):
        return None
    if has_markup(text):
        return "markup"
    if not in_script(text, lang):
        return "script"
    if lang.partition("-")[0] != ENGLISH and looks_english(text):
        return "english"
    return None


def fault_of_pair(query: str, positive: str, lang: str) -> str | None:
    """Return why a pair cannot be used, or None if it can.

    Args:
        query: Tidied.
        positive: Tidied.
        lang: As in `Pair.lang`.
    """
    if lang.startswith("code-"):
        first, second = ENGLISH, lang
    else:
        first, second = split_languages(lang)
    if query.casefold() == positive.casefold():
        return "same"
    if len(query) > MAX_QUERY_CHARS:
        return "long"
    fault = fault_of_text(query, first)
    if first == second and fault in ("script", "english"):
        fault = None  # "grep --count" is a query in every language; the answer decides
    return fault or fault_of_text(positive, second)


def split_languages(lang: str) -> tuple[str, str]:
    """Return the languages of query and positive: "en-pt-BR" → ("en", "pt-BR").

    A second part of two capitals or a script is a region of the first and not a language.
    """
    first, dash, rest = lang.partition("-")
    return (first, rest) if dash and rest[:2].islower() and len(rest) != 1 else (lang, lang)
