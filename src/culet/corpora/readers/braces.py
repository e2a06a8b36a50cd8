"""Functions of languages with braces, found below their documentation comments by a scanner.

It knows strings, comments and brackets, and nothing else of a language. Where it loses track (a
bracket that never closes, a header that is no function's), it yields nothing rather than a guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from culet.corpora.readers.comments import summary, trimmed
from culet.corpora.rows import Pair

_MAX_CHARS = 400_000  # of a file
_MAX_HEADER = 1500
_MAX_FUNCTION = 20_000
_MAX_COMMENT = 8000


@dataclass(frozen=True)
class Language:
    """What the scanner has to know of a language.

    Attributes:
        name: Such as "javascript".
        starts: How lines of a documentation comment begin; "" for comments between /** and */.
        declarations: Whether a header that ends in ";" makes a pair (files of types).
        regexes: Whether /…/ may be a literal.
        quotes: The quotation marks of strings.
    """

    name: str
    starts: str = ""
    declarations: bool = False
    regexes: bool = False
    quotes: str = "\"'"


LANGUAGES = {
    ".js": Language("javascript", regexes=True, quotes="\"'`"),
    ".mjs": Language("javascript", regexes=True, quotes="\"'`"),
    ".cjs": Language("javascript", regexes=True, quotes="\"'`"),
    ".ts": Language("typescript", regexes=True, quotes="\"'`"),
    ".d.ts": Language("typescript", declarations=True, quotes="\"'`"),
    ".java": Language("java"),
    ".php": Language("php"),
    ".c": Language("c"),
    ".h": Language("c"),
    ".cc": Language("cpp"),
    ".cpp": Language("cpp"),
    ".hpp": Language("cpp"),
    ".go": Language("go", starts="//", quotes='"`'),
    ".rs": Language("rust", starts="///", quotes='"'),
}
_NO_FUNCTION = re.compile(
    r"(?:(?:export|public|private|protected|static|final|abstract|default|declare|pub(?:\([^)]*\))?|"
    r"unsafe|typedef|sealed|partial)\s+)*"
    r"(?:class|interface|enum|struct|union|namespace|module|trait|impl|mod|type|package|import|use|"
    r"if|for|while|switch|return|else|do|try|catch|var|let|goto|case|new|throw|extern|@interface|"
    r"record|macro_rules!|#define|#if\w*|#include)\b"
)
_BETWEEN = re.compile(r"(?:\s+|@\w[\w.]*(?:\([^()\n]{0,300}\))?(?=\s)|#!?\[[^\]\n]{0,300}\])*+")


def language_of(path: str) -> Language | None:
    """Return the language of a file by its name, or None if it is not read."""
    if path.endswith(".d.ts"):
        return LANGUAGES[".d.ts"]
    dot = path.rfind(".")
    return LANGUAGES.get(path[dot:]) if dot > path.rfind("/") else None


def functions(source: str, language: Language) -> Iterator[Pair]:
    """Yield comment and function for each function with a comment worth asking for."""
    if len(source) > _MAX_CHARS or "\0" in source:
        return
    scanner = _scanner(language)
    comments = _line_comments(source, language.starts) if language.starts else _blocks(source)
    for comment, end in comments:
        query = summary(comment)
        if query is None:
            continue
        query = _without_name(query)
        if language.name in ("c", "cpp"):  # gtk-doc marks parameters, types and constants
            query = re.sub(r"(?<!\w)[@#%](?=[A-Za-z_]\w)", "", query)
        code = _function(source, end, language, scanner)
        text = trimmed(_from_left_edge(code)) if code else None
        if text and len(query.split()) > 2:
            yield Pair(query, text, f"code-{language.name}", language.name)


def _from_left_edge(code: str) -> str:
    """Return a function as if it stood at the left edge; its first line has lost its indent."""
    first, *rest = code.expandtabs(4).split("\n")
    indents = [len(line) - len(line.lstrip()) for line in rest if line.strip()]
    edge = min(indents, default=0)
    return "\n".join([first.lstrip(), *(line[edge:] for line in rest)])


def _without_name(query: str) -> str:
    """Return kernel-doc's "name() - what it does" without the name, which the code shows."""
    return re.sub(r"^[\w.$]+(?:\(\))?\s+[-–]\s+", "", query)


def _blocks(source: str) -> Iterator[tuple[str, int]]:
    """Yield the text of comments between /** and */ and where they end."""
    at = 0
    while (start := source.find("/**", at)) >= 0:
        end = source.find("*/", start + 3)
        if end < 0:
            return
        at = end + 2
        if end - start <= _MAX_COMMENT:
            body = source[start + 3 : end]
            yield re.sub(r"(?m)^[ \t]*\*+ ?", "", body), at


def _line_comments(source: str, start: str) -> Iterator[tuple[str, int]]:
    """Yield the text of comments of whole lines and where they end."""
    lines: list[str] = []
    at = 0
    for line in source.splitlines(keepends=True):
        plain = line.strip()
        longer = plain.startswith(start + "/")
        if plain.startswith(start) and not longer:
            lines.append(plain.removeprefix(start).removeprefix(" "))
        else:
            # Go's instructions to tools look like comments ("//go:noinline")
            if lines and plain and len(lines) < 200 and not lines[0].startswith("go:"):
                yield "\n".join(lines), at
            lines = []
        at += len(line)


def _scanner(language: Language) -> re.Pattern[str]:
    parts = [r"//[^\n]*+", r"/\*(?:[^*]|\*(?!/)){0,20000}+\*/"]
    for quote in language.quotes:
        inner = rf"[^{quote}\\]" if quote == "`" else rf"[^{quote}\\\n]"
        parts.append(rf"{quote}(?:\\.|{inner}){{0,10000}}+{quote}")
    if language.name == "rust":
        parts.append(r"'(?:\\[^\n']{1,8}|[^'\\\n])'")
    if language.regexes:
        parts.append(
            r"(?:(?<=[(,=:\[!&|?{};+])\s*+|(?<=\n)[^\S\n]*+)/(?![/*])(?:\\.|\[(?:\\.|[^\]\\\n])*+\]|[^/\\\n\[])+/[a-z]*"
        )
    if language.name == "php":
        parts[0] = r"(?://|#(?!\[))[^\n]*+"
    return re.compile("|".join([*parts, r"[{}()\[\];]"]), re.DOTALL)


def _function(source: str, at: int, language: Language, scanner: re.Pattern[str]) -> str | None:
    """Return the function that begins here, annotations included, or None if there is none."""
    between = _BETWEEN.match(source, at)
    start = between.end() if between else at
    head = source[start : start + 200]
    if not head or _NO_FUNCTION.match(head) or not re.match(r"[\w$*<\[#~]", head):
        return None
    if language.name == "go" and not head.startswith("func"):
        return None
    if language.name == "rust" and not re.match(r"(?:[\w()\"' ]+ )?fn\b", head):
        return None
    begin = at + len(source[at:start]) - len(source[at:start].lstrip())
    depth, seen_call, body = 0, False, False
    for token in scanner.finditer(source, start, min(len(source), start + _MAX_FUNCTION)):
        sign = token[0]
        if not body and token.start() - start > _MAX_HEADER:
            return None
        if sign in ("(", "["):
            depth += 1
            seen_call = seen_call or sign == "("
        elif sign in (")", "]"):
            depth -= 1
        elif sign == "{":
            if depth == 0 and not body:
                if not seen_call:
                    return None
                body = True
            depth += 1
        elif sign == "}":
            depth -= 1
            if body and depth == 0:
                found = source[begin : token.end()]
                return None if re.search(r"\{\s*\}$", found) else found
        elif sign == ";" and depth == 0 and not body:
            whole = seen_call and language.declarations
            return source[begin : token.start()] if whole else None
        if depth < 0:
            return None
    return None
