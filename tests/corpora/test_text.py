"""What readers make of markup, manual pages and comments, and which texts are dropped."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from package_doubles import message_catalogue

from culet.corpora.readers.braces import LANGUAGES, functions, language_of
from culet.corpora.readers.comments import is_of_interest, summary, without_header
from culet.corpora.readers.gettext_mo import messages
from culet.corpora.readers.licences import is_free, is_licence_file, licence_of
from culet.corpora.readers.markup import Form, blocks
from culet.corpora.readers.troff import Item, read_page
from culet.corpora.rows import Aligned, Pair, Text, Triple, from_line, to_line
from culet.corpora.sources import debian_facts, gettext_catalogues, manpages, words
from culet.corpora.sources.python_code import functions as python_functions
from culet.corpora.tidy import cut, fault_of_pair, language, split_languages, tidy


@pytest.mark.parametrize(
    "row",
    [
        Pair("a\nb", "ü", "en-de", "part", ("x", "y")),
        Text("text", "code-go"),
        Triple("s", "r", "o"),
        Aligned("key", "text", "de", "part"),
    ],
)
def test_a_row_survives_its_line(row: Pair | Text | Triple | Aligned) -> None:
    assert from_line(to_line(row)) == row


def test_texts_are_tidied() -> None:
    assert tidy("  a \t b\r\n\n c\u00ad\u200bd\x07 ") == "a b\ncd"
    assert tidy("e\u0301 \ufeffx") == "é x"
    assert tidy("می\u200cخواهم") == "می\u200cخواهم"  # a joiner that spells the word
    assert tidy("強 力な 機能 and Linux") == "強力な機能 and Linux"


def test_long_texts_are_cut_where_something_ends() -> None:
    assert cut("short", 10) == "short"
    assert cut("one line\ntwo lines", 12) == "one line"
    assert cut("One is here. Two is there.", 16) == "One is here."
    assert cut("word another third", 14) == "word another"


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("pt_BR", "pt-BR"),
        ("de.UTF-8", "de"),
        ("sr@latin", "sr-Latn"),
        ("zh-cn", "zh-CN"),
        ("ca@valencia", "ca-Valencia"),
        ("zh_hant", "zh-Hant"),
    ],
)
def test_languages_have_one_form(code: str, name: str) -> None:
    assert language(code) == name


def test_a_pair_of_languages_is_told_from_a_region() -> None:
    assert split_languages("en-pt-BR") == ("en", "pt-BR")
    assert split_languages("pt-BR") == ("pt-BR", "pt-BR")
    assert split_languages("sr-Latn") == ("sr-Latn", "sr-Latn")
    assert split_languages("de") == ("de", "de")


@pytest.mark.parametrize(
    ("query", "positive", "lang", "fault"),
    [
        ("What is it?", "It is a text.", "en", None),
        ("What is it?", "Das ist ein Text.", "en-de", None),
        ("What is it?", "這是一段文字", "en-zh-TW", None),
        ("Add two numbers to x", "def f(a):\n    return '<b>' + a", "code-python", None),
        ("Type ls -l <file>", "Press Ctrl+C & wait; x < y", "en", None),
        ("Same words", "same Words", "en-de", "same"),
        ("x" * 2001, "text", "en", "long"),
        ("***", "text", "en", "empty"),
        ("query", "an <emph>open</emph> tag", "en", "markup"),
        ("query", "an &amp; entity", "en", "markup"),
        ("query", "a \\fBfont\\fP", "en", "markup"),
        ("Was ist es?", "これはテキストです", "de", "script"),
        ("これはなに", "Das ist ein Text", "ja", "script"),
        ("grep --count", "行を数えます", "ja", None),
        ("grep --count", "数行", "en-ja", None),
        ("数行", "行を数えます", "en-ja", "script"),
        ("Was?", "Dies ist gut.\nThis is the part that nobody translated.", "de", "english"),
    ],
)
def test_rows_are_dropped_for_a_reason(
    query: str, positive: str, lang: str, fault: str | None
) -> None:
    assert fault_of_pair(query, positive, lang) == fault


FORM = Form(blocks=("h1", "p", "li"), skipped=("script",), kept=("meta",), entities={"app": "Ink"})


def test_blocks_of_markup_are_read_in_order() -> None:
    source = (
        '<?xml version="1.0"?><!-- <p>no</p> --><meta name="k" content="a &amp; b">'
        '<h1 id="t">Use  &app; &amp; &unknown;</h1><script>if (a<b) "<p>no</p>"</script>'
        "<p>One <b>bold</b>, <gui>Edit</gui><gui>Copy</gui> .djvu<br/>line</p>"
        "<li>Item <p>inner</p></li><p>left open<p>next"
    )
    found = [(block.tag, block.text) for block in blocks(source, FORM)]
    assert found == [
        ("meta", ""),
        ("h1", "Use Ink & unknown"),
        ("p", "One bold, Edit Copy .djvu line"),
        ("li", "Item"),
        ("p", "inner"),
        ("p", "left open"),
        ("p", "next"),
    ]
    first = next(iter(blocks(source, FORM)))
    assert first.attributes == {"name": "k", "content": "a & b"}


@pytest.mark.parametrize(
    "source",
    ["<" * 200_000, "<p " + "a='" * 100_000, "<!--" * 100_000, "<p>" * 100_000, "&a" * 100_000],
)
def test_hostile_markup_comes_to_an_end(source: str) -> None:
    # A scanner that goes back over what it has read would need hours.
    assert all(block.tag == "p" for block in blocks(source, FORM))


def test_a_manual_page_becomes_headings_paragraphs_and_options() -> None:
    page = r""".\" comment
.TH DEMO 1
.SH NAME
demo \- show \fIwhat\fP it \(lqdoes\(rq
.SH "DESCRIPTION OF IT"
First line
.B bold
and \fBcode\-like\fR text\*(Tm.
.PP
Second.
.nf
code is left out
.fi
.TP
.BR \-a ", " \-\-all
Show all.
.RS
.PP
Really.
.RE
.IP \(bu 2
A bullet.
.de XX
.SH inside a macro
..
"""
    found = [(item.kind, item.tag, item.text) for item in read_page(page)]
    assert found == [
        ("heading", "", "NAME"),
        ("paragraph", "", "demo - show what it “does”"),
        ("heading", "", "DESCRIPTION OF IT"),
        ("paragraph", "", "First line bold and code-like text™."),
        ("paragraph", "", "Second."),
        ("tagged", "-a, --all", "Show all."),
        ("paragraph", "", "Really."),
        ("paragraph", "", "A bullet."),
    ]
    assert list(read_page(".Dd May 1\n.Sh NAME\n.Nm x\n")) == []
    assert list(read_page(".so man1/other.1\n")) == []


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_catalogue_of_messages_is_read_as_data(order: str) -> None:
    data = message_catalogue(
        (b"", b"Plural-Forms: nplurals=2; plural=(__import__('os'));\n"),
        (b"one file\0%d files", b"eine Datei\0%d Dateien"),
        (b"menu\4Open", "Öffnen".encode()),
        (b"untranslated", b""),
        order=order,
    )
    assert list(messages(data)) == [("one file", "eine Datei"), ("Open", "Öffnen")]
    for damaged in (b"nothing", data[:40], data[:-12]):
        with pytest.raises(ValueError, match=r"catalogue|outside"):
            list(messages(damaged))


@pytest.mark.parametrize(
    ("comment", "query"),
    [
        ("Add two numbers to a sum.\n\nMore text.", "Add two numbers to a sum."),
        ("Add two\nnumbers to it.\n@param a the first", "Add two numbers to it."),
        ("@brief Adds :class:`~x.Number` to ``it`` now.", "Adds x.Number to it now."),
        ("Uses {@link Foo#bar} and {@code x} of the list", "Uses Foo#bar and x of the list"),
        ("<p>Gets the <b>name</b> of it", "Gets the name of it"),
        (
            "g_add:\n@a: the first\n  of two\n@b: (nullable): more\n\nAdds one to another.",
            "Adds one to another.",
        ),
        ("See [the guide](http://x.y/z) for how it works", "See the guide for how it works"),
        ("Too short", None),
        ("Copyright 2020 by the very authors", None),
        ("TODO make this work some day", None),
        ("@deprecated since version one of it", None),
        ("计算两个数字的总和 并返回 结果 是 值", None),
        ("{@inheritDoc} and nothing more here", None),
    ],
)
def test_the_first_paragraph_of_a_comment_is_the_query(comment: str, query: str | None) -> None:
    assert summary(comment) == query


def test_tests_and_other_peoples_code_are_left_out() -> None:
    kept = ["x-1/src/main.py", "package/lib/contest.js", "x/latest/a.go"]
    left = ["x-1/tests/a.py", "a/test_b.py", "a/b_test.go", "a/vendor/x.py", "a/b.min.js"]
    left += ["a/b_pb2.py", "x/vendored-meson/a.py", "setup.py", "a/b.spec.ts"]
    assert [path for path in kept + left if is_of_interest(path)] == kept


def test_a_head_of_rights_is_taken_off_a_file() -> None:
    assert without_header("/* Copyright X */\nint a;\n") == "int a;\n"
    assert without_header("// License: MIT\n// more\n\npackage a\n") == "package a\n"
    assert without_header("/* What it does */\nint a;\n") == "/* What it does */\nint a;\n"


# Repeated, each would keep a pattern busy for hours that scans a run from each of its places.
_HOSTILE = [
    *("-", ":a", "a:(", "a: ", "a:\n@b\n", "x:\n@b\n\n", "{@link a ", "[a](", "[a][", "<a", "{"),
    *(":a:`b<", ":a:` ", "`a ", " ", "\n ", "# ", "/*", "<?php "),
]


@pytest.mark.parametrize("unit", _HOSTILE)
@pytest.mark.parametrize("before", ["", "Words of a comment\n", "Words of a comment "])
def test_a_comment_of_any_size_is_read_once(unit: str, before: str) -> None:
    text = before + unit * (300_000 // len(unit))
    found = summary(text)
    assert found is None or len(found) <= 400
    assert without_header(text) == text


_FORM = Form(blocks=["p"], skipped=[])


@pytest.mark.parametrize(
    ("read", "units"),
    [
        (lambda text: list(blocks(f"<p {text}>x</p>", _FORM)), ["a", "a ", "a=b ", " "]),
        (lambda text: list(blocks(f"<p>{text}</p>", _FORM)), ["<p ", "&a", "<!--", "<a '", "</p>"]),
        (lambda text: list(read_page(f".SH A\n{text}")), ["\\f[", "\\h'", "\\*[", "\\[", '"a']),
        (
            lambda text: gettext_catalogues._pair(f"%{text}", text, "de"),
            ["0", "0%", " ", "_", "(_"],
        ),
        (lambda text: list(words._meaning("word", f"|{text}x", "de")), [" ", "(", "()", "( "]),
        (lambda text: list(debian_facts._facts({"Tag": text, "Depends": text})), ["a", "a:", "a,"]),
        (
            lambda text: list(functions(f"/** Adds {text} */\n{text}", LANGUAGES[".js"])),
            ["\n", " ", "/", "`", "(/", "@a("],
        ),
    ],
    ids=["attributes", "markup", "troff", "gettext", "thesaurus", "facts", "braces"],
)
def test_a_file_of_any_size_is_read_once(read: Callable[[str], Any], units: list[str]) -> None:
    for unit in units:
        read(unit * (300_000 // len(unit)))


def test_neighbours_of_a_section_are_the_same_in_a_page_of_many() -> None:
    texts = [f"Section {number} has a text of its own that is long enough." for number in range(7)]
    items = [Item("heading", "NAME"), Item("paragraph", "x - does it")]
    for number, text in enumerate(texts):
        items += [Item("heading", f"H{number}"), Item("paragraph", text * 2)]
    pairs = [row for row in manpages._page("x", "en", items) if isinstance(row, Pair)]
    near = {pair.positive: pair.negatives for pair in pairs if pair.part == "section"}
    doubled = [text * 2 for text in texts]
    assert near[doubled[0]] == (doubled[1], doubled[2])
    assert near[doubled[3]] == (doubled[1], doubled[2], doubled[4], doubled[5])
    assert near[doubled[6]] == (doubled[4], doubled[5])


def test_a_catalogue_whose_messages_overlap_is_refused() -> None:
    text = b"x" * 1000
    tables = struct.pack("<2I", len(text), 28 + 2 * 8 * 100) * 200
    header = struct.pack("<7I", 0x950412DE, 0, 100, 28, 28 + 8 * 100, 0, 0)
    with pytest.raises(ValueError, match="its messages overlap"):
        list(messages(header + tables + text))


PYTHON = '''
class Number:
    @property
    def double(self) -> int:
        """Return :class:`Number` twice as large as it is.

        Returns: it
        """
        value = self.value * 2  # kept
        return value

    def short(self):
        """Two words."""
        return self.value + self.other

    def abstract(self):
        """Return what a child class will know."""
        raise NotImplementedError

def line(): "Return all of it on one line"; return 1
'''


def test_a_python_function_loses_its_docstring_and_nothing_else() -> None:
    (pair,) = python_functions(PYTHON)
    assert pair == Pair(
        "Return Number twice as large as it is.",
        "@property\ndef double(self) -> int:\n    value = self.value * 2  # kept\n    return value",
        "code-python",
        "python",
    )


@pytest.mark.parametrize("source", ["def f(:", "\0", "(" * 100_000, "x = " + "-" * 50_000 + "1"])
def test_python_that_cannot_be_parsed_yields_nothing(source: str) -> None:
    assert list(python_functions(source)) == []


DOC = "/**\n * Adds one number to another.\n * @param a first\n */\n"


@pytest.mark.parametrize(
    ("ending", "source", "code"),
    [
        (".js", DOC + "function add(a, b) {\n  return a + b; // }\n}\nrest();", None),
        (".js", DOC + "const add = (a, b) => {\n  return `}${a}` + /[}'\"]/g;\n};", "const add"),
        (
            ".ts",
            "class A {\n  " + DOC + "  add(a: number): number {\n    return a + '}';\n  }\n}",
            "add(a",
        ),
        (".d.ts", DOC + "export declare function add(a: number, b: number): number;\n", "export"),
        (
            ".java",
            DOC + "@Override\npublic int add(int a, int b) {\n  return a + '}' + b;\n}\n",
            "@Ov",
        ),
        (
            ".php",
            "<?php\n" + DOC + "public function add($a, $b)\n{\n    return $a + $b;\n}\n",
            "public",
        ),
        (".c", DOC + "static int\nadd(int a, int b)\n{\n  return a + b; /* } */\n}\n", "static"),
        (".cpp", DOC + "template <class T> T add(T a, T b) { return a + b; } // end\n", "template"),
        (
            ".go",
            "// Adds one number to another.\nfunc add(a, b int) int {\n\treturn a + b\n}\n",
            "func",
        ),
        (
            ".rs",
            "/// Adds one number to another.\n#[inline]\npub fn add<'a>(x: &'a str) -> char {\n"
            "    let c = '}'; c\n}\n",
            "#[inline]",
        ),
    ],
)
def test_a_function_is_found_below_its_comment(ending: str, source: str, code: str | None) -> None:
    language = LANGUAGES[ending]
    (pair,) = functions(source, language)
    assert pair.query == "Adds one number to another."
    assert pair.lang == f"code-{language.name}"
    if code is None:
        assert pair.positive == "function add(a, b) {\n  return a + b; // }\n}"
    assert pair.positive.startswith(code or "function")
    assert pair.positive[-1] in "})r"
    assert pair.positive.count("\n}") <= 1


@pytest.mark.parametrize(
    ("ending", "source"),
    [
        (".js", DOC + "class Add {\n  constructor() { this.sum = 0 }\n}"),
        (".js", DOC + "const numbers = { one: call(1), two: 2222222222222222222 };"),
        (".js", DOC + "function add(a, b) {\n  return a + b;\n"),
        (".js", DOC + "function does_nothing_at_all(first, second) {\n}\n"),
        (".js", DOC + "function add(a, b) {\n  return '" + "x" * 400 + "';\n}"),
        (".c", DOC + "int add(int first_number, int second_number);\n"),
        (".go", "// Adds one number to another.\ntype Adder struct {\n\tsum int\n}\n"),
        (
            ".go",
            "//go:noinline is not for people to see\nfunc add(a, b int) int {\n\treturn a\n}\n",
        ),
        (".rs", "/// Adds one number to another.\npub struct Add { sum: Vec<(u8, u8)> }\n"),
    ],
)
def test_where_the_scanner_finds_no_function_it_gives_nothing(ending: str, source: str) -> None:
    assert list(functions(source, LANGUAGES[ending])) == []


@pytest.mark.parametrize(
    "source",
    ["/**" * 100_000, DOC * 3000, DOC + "f(" * 100_000, DOC + '"' * 300_001, "/*" * 150_000],
)
def test_hostile_code_comes_to_an_end(source: str) -> None:
    assert list(functions(source, LANGUAGES[".js"])) == []


def test_marks_of_gtk_doc_are_taken_off() -> None:
    source = "/**\n * g_add:\n * @one: a number\n *\n * Adds @one to the #GValue, or %NULL.\n */\n"
    source += "int\ng_add (int one)\n{\n  return one + g_value ();\n}\n"
    (pair,) = functions(source, LANGUAGES[".c"])
    assert pair.query == "Adds one to the GValue, or NULL."


def test_languages_are_told_by_the_ending() -> None:
    names = {path: language_of(path) for path in ("a/b.d.ts", "a/b.ts", "a.b/c", "x.py")}
    assert names["a/b.d.ts"] is LANGUAGES[".d.ts"]
    assert names["a/b.ts"] is LANGUAGES[".ts"]
    assert names["a.b/c"] is names["x.py"] is None


@pytest.mark.parametrize(
    ("name", "data", "licence", "free"),
    [
        ("p/package.json", b'{"license": "MIT"}', "MIT", True),
        ("p/package.json", b'{"licenses": [{"type": "BSD"}, {"type": "GPL"}]}', "BSD OR GPL", True),
        ("p/package.json", b'{"license": "UNLICENSED"}', "UNLICENSED", False),
        ("p/package.json", b'{"license": "SEE LICENSE IN x"}', "SEE LICENSE IN x", False),
        ("p/package.json", b"[broken", None, False),
        ("x.dist-info/METADATA", b"License-Expression: MIT AND ISC\n\n", "MIT AND ISC", True),
        ("x/PKG-INFO", b"License: BSD-3-Clause\n\nlong", "BSD-3-Clause", True),
        (
            "x/PKG-INFO",
            b"License: Ours\nClassifier: License :: OSI Approved :: Apache Software License\n\n",
            "Apache Software License",
            True,
        ),
        ("x/PKG-INFO", b"Classifier: License :: Other/Proprietary License\n\n", None, False),
        (
            "usr/share/doc/x/copyright",
            b"Format: x\nLicense: GPL-2+\n\nLicense: MIT\n",
            "GPL-2+, MIT",
            True,
        ),
        ("debian/copyright", b"see /usr/share/common-licenses/LGPL-2", "LGPL", True),
        ("debian/copyright", b"CC-BY-NC-4.0 is what holds", None, False),
    ],
)
def test_licences_are_read_from_a_packages_own_papers(
    name: str, data: bytes, licence: str | None, free: bool
) -> None:
    assert is_licence_file(name)
    read = licence_of(name, data)
    if licence is not None or not free:
        assert is_free(read) is free
    if licence is not None:
        assert read == licence


def test_a_licence_file_deep_inside_is_another_packages() -> None:
    assert not is_licence_file("x-1/vendor/y/debian/copyright")
    assert not is_licence_file("package/node_modules/y/package.json")
