"""From documentation comments to queries of a person: the first paragraph, as prose.

Comments come from anyone's package, so every pattern here takes time linear in the text: a run of
characters is never scanned from each of its places, and what has no end is looked for once.
"""

from __future__ import annotations

import re

MIN_WORDS = 4
MAX_QUERY_CHARS = 400
MAX_CODE_CHARS = 2600
MIN_CODE_CHARS = 40
_MAX_LINE = 300  # longer lines are of generated or minified code
_NOT_PROSE = re.compile(
    r"copyright|licen[cs]e|generated (?:by|from|file)|do not edit|todo\b|fixme|xxx\b|eslint|tslint|"
    r"@ts-|pylint|noqa|https?://\S+$|deprecated|see also|inherit(?:ed|doc)|^\W*[-=*#~_]{3}|"
    r"^(?:args?|arguments|param(?:eter)?s?|returns?|raises|note|example|usage)s?:?$|^>>>",
    re.IGNORECASE,
)
# The lookbehind keeps a run of these characters from being tried again from its middle.
_ROLE = re.compile(
    r"(?<![a-z:+-])([a-z+-]*+):(?=[a-z:+-]{2})[a-z:+-]++(?<=:)`~?([^`<]++)(<[^>]{0,400}+>)?`"
)
_LINK = re.compile(r"\{@(?:link|linkplain|code|literal)\s+#?([^}|\s]+)(?:[\s|]+([^}]*))?\}")
_MARKDOWN_LINK = re.compile(r"\[([^\]\[]+)\](?:\([^)\s]{0,1000}+\)|\[[^\]]*\])?")
_EMPHASIS = re.compile(r"(?<!\w)[LCIBFEX]?(?:\{([^{}]*)\}|<([^<>]*)>)")
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,80}>")
# What gtk-doc begins with: the name and its annotations, to the end of the line.
_GTK_NAME = re.compile(r"(?<![\w-])[\w-]++:[ \t]*+(?:\(|$)")
_HEADER = re.compile(
    r"\s*+(?:<\?php[^\n]*\n\s*+)?"
    r"(?:/\*(?:[^*]|\*(?!/)){0,20000}+\*/|(?:[ \t]*+(?://|#)[^\n]*\n)++)"
)
_PATHS_LEFT_OUT = re.compile(
    r"(?:^|/)(?:tests?|testing|testdata|test_data|specs?|__tests__|fixtures?|vendor|vendored[\w-]*|"
    r"_vendor|node_modules|third[_-]?party|examples?|benchmarks?|umd|locales?|i18n)/|"
    r"(?:^|/)(?:test_[^/]*|[^/]*_test|conftest|setup|[^/]*[._-](?:min|bundle|generated|pb|spec|test)"
    r"|[^/]*_pb2(?:_grpc)?)\.\w+$",
    re.IGNORECASE,
)


def is_of_interest(path: str) -> bool:
    """Whether a source file is neither a test, nor generated, nor another project's."""
    return _PATHS_LEFT_OUT.search(path) is None


def summary(comment: str) -> str | None:
    """Return the first paragraph of a comment as prose, or None where there is none to use.

    Args:
        comment: Its text without the marks of the comment itself.
    """
    lines: list[str] = []
    for line in _without_gtk_names(comment.strip()).strip().split("\n"):
        text = line.strip()
        if lines and (
            not text or re.match(r"(?:[@\\][a-zA-Z]|:(?!\w+:`)\w|#|```|~~~|>>>|\.\. |- |\* )", text)
        ):
            break
        if re.fullmatch(r"[-=*~^#_]{3,}", text):
            break
        lines.append(re.sub(r"^[@\\](?:brief|short|summary|desc(?:ription)?)\b:?\s*", "", text))
    text = " ".join(_without_markup(" ".join(lines)).split()).rstrip(":")
    if not text or text[0] in "@\\:" or _NOT_PROSE.search(text[:200]):
        return None
    words = [word for word in text.split() if re.search(r"[A-Za-z]{2}", word)]
    letters = [char for char in text if char.isalpha()]
    if len(words) < MIN_WORDS or sum(map(str.isascii, letters)) < 0.9 * len(letters):
        return None
    if len(text) > MAX_QUERY_CHARS:
        end = text.rfind(". ", 0, MAX_QUERY_CHARS)
        text = text[: end + 1] if end > 0 else text[:MAX_QUERY_CHARS].rpartition(" ")[0]
    return text


def _without_gtk_names(comment: str) -> str:
    """Return a comment without names that stand above a description, and their parameters.

    A name ends its line. Its parameters, lines that begin with @ and those that go on from them,
    end at the next blank line, where the description begins.
    """
    lines = comment.split("\n")
    blank = [not line.strip(" \t") for line in lines]
    last_blank = max((i for i, is_blank in enumerate(blank[:-1]) if is_blank), default=0)
    kept: list[str] = []
    i = 0
    while i < len(lines):
        name = _GTK_NAME.search(lines[i]) if i < last_blank else None
        if name and (blank[i + 1] or lines[i + 1].lstrip(" \t").startswith("@")):
            kept.append(lines[i][: name.start()])
            i = blank.index(True, i + 1) + 1
        else:
            kept.append(lines[i] + "\n")
            i += 1
    return "".join(kept)


def _without_markup(text: str) -> str:
    """Return a text without the markup of Javadoc, reStructuredText, POD, HTML and Markdown."""
    closed, brace, rest = text.rpartition("}")
    text = _LINK.sub(lambda match: match[2] or match[1], closed + brace) + rest
    text = _ROLE.sub(lambda match: match[1] + (match[2].rstrip() if match[3] else match[2]), text)
    text = _EMPHASIS.sub(lambda match: match[1] or match[2] or "", text) if "{" in text else text
    text = _TAG.sub(" ", text)
    text = _MARKDOWN_LINK.sub(r"\1", text)
    return re.sub(r"`+|\*\*|%%", "", text)


def without_header(source: str) -> str:
    """Return a file without the comment at its top, if that is a copyright notice."""
    header = _HEADER.match(source)
    rights = header is not None and re.search(r"copyright|licen[cs]e", header[0], re.IGNORECASE)
    return source[header.end() :].lstrip("\n") if header and rights else source


def trimmed(code: str) -> str | None:
    """Return code cut at the end of a line; None for what is generated or too short."""
    lines = [line.rstrip() for line in code.rstrip().split("\n")]
    if any(len(line) > _MAX_LINE for line in lines):
        return None
    text = "\n".join(lines)
    if len(text) > MAX_CODE_CHARS:
        text = text[:MAX_CODE_CHARS].rpartition("\n")[0]
    return text if len(text) >= MIN_CODE_CHARS else None
