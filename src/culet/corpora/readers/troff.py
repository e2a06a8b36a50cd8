"""Manual pages as plain text: headings, paragraphs and options of pages in man(7) macros.

A page becomes a list of items: headings, paragraphs and tagged paragraphs (an option and what it
does). Tables, displays of code, conditions and definitions of macros are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_CHARACTERS = {
    "aq": "'", "dq": '"', "lq": "“", "rq": "”", "oq": "‘", "cq": "’", "em": "—", "en": "–",
    "hy": "-", "bu": "•", "co": "©", "rg": "®", "ha": "^", "ti": "~", "ga": "`", "rs": "\\",
    "Fo": "«", "Fc": "»", "fo": "‹", "fc": "›", "mu": "×", "+-": "±", "de": "°", "->": "→",
    "<-": "←", ">=": "≥", "<=": "≤", "!=": "≠", "sc": "§", "pl": "+", "mi": "-", "eq": "=",
    "sl": "/", "at": "@", "sh": "#", "Do": "$", "Bq": "„", "bq": "‚", "la": "<", "ra": ">",
    "lB": "[", "rB": "]", "lC": "{", "rC": "}", "or": "|", "ba": "|", "ul": "_", "*m": "μ",
}  # fmt: skip
_ACCENTS = {
    "'": "\u0301",
    "`": "\u0300",
    ":": "\u0308",
    "^": "\u0302",
    "~": "\u0303",
    ",": "\u0327",
}
# Bounded, so that a bracket that never closes is not looked for from each of many escapes.
_ESCAPE = re.compile(
    r"\\(?:"
    r"f(?:\[[^\]]{0,200}+\]|\(..|.)|"  # fonts
    r"s(?:[-+]?\[[^\]]{0,200}+\]|[-+]?\(..|[-+]?\d{1,2})|"  # sizes
    r"[mMFkgY](?:\[[^\]]{0,200}+\]|\(..|.)|"
    r"[hvwlLDobxNSRXZABC]'[^']{0,2000}+'|"
    r"\[(?P<long>[^\]]{0,200}+)\]|\((?P<two>..)|"
    r"\*(?:\[(?P<string>[^\]]{0,200}+)\]|\((?P<string2>..)|(?P<string1>.))|"
    r"n[-+]?(?:\[[^\]]{0,200}+\]|\(..|.)|"
    r"(?P<one>.))"
)
_STRINGS = {"R": "®", "Tm": "™", "lq": "“", "rq": "”", "C+": "C++", "--": "—", "PI": "π"}
_FONTS = frozenset(["B", "I", "SM", "SB", "BR", "RB", "BI", "IB", "IR", "RI", "CW", "R"])
_SPACED = frozenset(["B", "I", "SM", "SB", "CW", "R"])
_PARAGRAPHS = frozenset(["PP", "LP", "P", "Pp", "sp", "br", "HP", "RS", "RE", "PD", "Lp"])
_CODE_OPEN, _CODE_CLOSE = ("nf", "EX", "Bd", "TS", "EQ"), ("fi", "EE", "Ed", "TE", "EN")
_ARGUMENT = re.compile(r'"((?:[^"]|"")*)"?|(\S+)')


@dataclass
class Item:
    """A piece of a page.

    Attributes:
        kind: "heading", "paragraph" or "tagged".
        text: The text, on one line.
        tag: Of a tagged paragraph, what it explains.
    """

    kind: str
    text: str = ""
    tag: str = ""


@dataclass
class _State:
    kind: str = "paragraph"
    tag: str = ""
    lines: list[str] = field(default_factory=list)
    tag_follows: bool = False

    def close(self) -> Iterator[Item]:
        text = " ".join(" ".join(self.lines).split())
        if text or self.tag:
            yield Item(self.kind, text, self.tag)
        self.kind, self.tag, self.lines, self.tag_follows = "paragraph", "", [], False


def read_page(source: str) -> Iterator[Item]:
    """Yield the items of a manual page written with man(7) macros.

    A page of mdoc(7), which begins with .Dd, yields nothing: its macros mark single words, and a
    reader that knows only a few of them garbles the text.
    """
    if re.search(r"^\.(?:Dd|so)\b", source[:20_000], re.MULTILINE):
        return
    state, inside = _State(), ""
    for line in re.sub(r"\\\n", "", source).split("\n"):
        if line.startswith(("'", ".")) and len(line) > 1:
            name, _, rest = line[1:].strip().partition(" ")
            if inside:
                closes = name == inside or (inside == ".." and line.startswith(".."))
                inside = "" if closes else inside
                continue
            if name in ("de", "de1", "ig", "am"):
                inside = ".."
            elif name in _CODE_OPEN:
                yield from state.close()
                inside = _CODE_CLOSE[_CODE_OPEN.index(name)]
            elif name in ("SH", "SS"):
                yield from state.close()
                yield Item("heading", " ".join(_words(rest)))
            elif name in ("TP", "TQ", "IP"):
                if name == "TQ" and state.tag and not state.lines:
                    state.tag_follows = True
                    continue
                yield from state.close()
                state.kind = "tagged"
                words = _words(rest)
                if name == "IP":
                    state.tag = words[0] if words and len(words[0]) > 1 else ""
                    state.kind = "tagged" if state.tag else "paragraph"
                else:
                    state.tag_follows = True
            elif name in _PARAGRAPHS:
                keeps = name in ("RS", "RE", "br", "PD", "sp") and state.kind == "tagged"
                if not keeps:
                    yield from state.close()
            elif name in _FONTS:
                _add(state, (" " if name in _SPACED else "").join(_words(rest)))
            elif name in ("UR", "MT"):
                _add(state, " ".join(_words(rest)))
        elif not inside and line.strip():
            _add(state, plain(line))
    yield from state.close()


def _add(state: _State, text: str) -> None:
    text = text.strip()
    if not text:
        return
    if state.tag_follows:
        state.tag = f"{state.tag}, {text}" if state.tag else text
        state.tag_follows = False
    else:
        state.lines.append(text)


def _words(rest: str) -> list[str]:
    """Return the arguments of a macro, which may be quoted, as plain text."""
    return [
        plain((match[1] or "").replace('""', '"') if match[2] is None else match[2])
        for match in _ARGUMENT.finditer(re.sub(r'\\".*', "", rest))
    ]


def plain(line: str) -> str:
    """Return a line of text without the escapes of troff."""
    if "\\" not in line:
        return line

    def meaning(match: re.Match[str]) -> str:
        name = match["long"] or match["two"]
        if name:
            return _character(name)
        string = match["string"] or match["string2"] or match["string1"]
        if string:
            return _STRINGS.get(string, "")
        one = match["one"]
        return {
            "-": "-",
            "e": "\\",
            "E": "\\",
            " ": " ",
            "~": " ",
            "0": " ",
            "'": "´",
            "`": "`",
        }.get(one or "", one if one in (".",) else "")

    return _ESCAPE.sub(meaning, re.sub(r'\\["#].*', "", line))


def _character(name: str) -> str:
    if match := re.fullmatch(r"u([0-9A-Fa-f]{4,6})", name):
        code = int(match[1], 16)
        return chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else ""
    if name in _CHARACTERS:
        return _CHARACTERS[name]
    if len(name) == 2 and name[0] in _ACCENTS and name[1].isalpha():
        return name[1] + _ACCENTS[name[0]]
    return {"ss": "ß", "AE": "Æ", "ae": "æ", "o/": "ø", "oa": "å"}.get(name, "")
