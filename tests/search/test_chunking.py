from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from culet.search.chunking import Kind, Span, divide

KINDS: tuple[Kind, ...] = ("markdown", "rst", "text", "code")


def spans(text: str, kind: Kind, target_chars: int = 1200) -> list[Span]:
    return divide(text.split("\n"), kind, target_chars)


def ranges(found: list[Span]) -> list[tuple[int, int]]:
    return [(span.first, span.last) for span in found]


def test_markdown_is_divided_at_headings_with_their_path() -> None:
    body = "word " * 60
    text = (
        f"intro {body}\n# Guide\n{body}\n## Install #\n{body}\n### On Linux\n{body}\n# End\n{body}"
    )
    found = spans(text, "markdown", 400)
    assert ranges(found) == [(0, 0), (1, 2), (3, 4), (5, 6), (7, 8)]
    assert [span.heading for span in found] == [
        None,
        "Guide",
        "Guide > Install",
        "Guide > Install > On Linux",
        "End",
    ]


def test_a_heading_inside_a_fence_is_code() -> None:
    body = "word " * 60
    text = f"# A\n{body}\n```sh\n# not a heading\n```\n~~~\n# nor this\n```\n~~~\n# B\n{body}"
    assert [span.heading for span in spans(text, "markdown", 400)] == ["A", "B"]


def test_underlined_headings_count_and_tables_do_not() -> None:
    body = "word " * 60
    text = f"Guide\n=====\n{body}\n\nInstall\n---\n{body}\n\n- a list\n---\n\n| a |\n|---|"
    assert [span.heading for span in spans(text, "markdown", 300)] == ["Guide", "Guide > Install"]


def test_restructured_text_ranks_underlines_by_first_use() -> None:
    body = "word " * 60
    text = f"=====\nGuide\n=====\n{body}\n\nInstall\n~~~~~~~\n{body}\n\nUse\n~~~\n{body}"
    found = spans(text, "rst", 300)
    assert [span.heading for span in found] == ["Guide", "Guide > Install", "Guide > Use"]
    assert ranges(found) == [(0, 3), (5, 7), (9, 11)]


def test_small_sections_find_company() -> None:
    found = spans("# A\n\n## B\n\nsmall\n\n## C\n\nsmall too, but longer", "markdown")
    assert ranges(found) == [(0, 8)]
    assert found[0].heading == "A"


def test_a_heading_alone_joins_what_follows_under_the_longer_path() -> None:
    found = spans("# A\n## B\n" + "word " * 100, "markdown", 600)
    assert [(span.first, span.last, span.heading) for span in found] == [(0, 2, "A > B")]


def test_code_is_divided_at_top_level_definitions() -> None:
    function = "def f{}():\n    a = 1\n\n    return a"
    text = "import os\n\n\n" + "\n\n\n".join(function.format(i) for i in range(3))
    assert ranges(spans(text, "code", 45)) == [(0, 0), (3, 6), (9, 12), (15, 18)]
    assert ranges(spans(text, "code", 1200)) == [(0, 18)]


def test_a_closing_brace_begins_nothing() -> None:
    text = "fn a() {\n    x();\n\n}\n\nfn b() {\n    y();\n}"
    assert ranges(spans(text, "code", 25)) == [(0, 3), (5, 7)]


def test_long_code_is_cut_where_the_indent_is_least() -> None:
    method = "    def m(self):\n        a = 1\n\n        return a\n"
    found = spans("class A:\n" + "\n".join([method] * 6), "code", 130)
    assert all(span.text.lstrip().startswith(("class", "def")) for span in found)
    assert found[1].heading == "class A:"


def test_text_is_divided_at_paragraphs() -> None:
    paragraph = "one line of text\nanother line of text"
    found = spans("\n\n".join([paragraph] * 6), "text", 100)
    assert ranges(found) == [(0, 4), (6, 10), (12, 16)]


def test_one_long_line_is_cut_at_sentences() -> None:
    sentence = "This sentence has forty-two characters ok. "
    found = spans("before\n" + sentence * 10, "text", 100)
    long = [span for span in found if span.first == 1]
    assert len(long) == 5
    assert {span.text for span in long} == {(sentence * 2).strip()}


def test_a_line_without_spaces_is_cut_anywhere() -> None:
    found = spans("x" * 1000, "text", 100)
    assert [len(span.text) for span in found] == [100] * 10


def test_blank_text_has_no_spans() -> None:
    for kind in KINDS:
        assert spans("", kind) == []
        assert spans(" \n\t\n", kind) == []


LINE = st.one_of(
    st.sampled_from(
        ["", "", " ", "# A", "## B", "### C #", "```", "---", "====", "}", "end", "def f():"]
    ),
    st.text("ab .#=-`\t。", max_size=60),
    st.text("ab .", min_size=100, max_size=200),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(LINE, max_size=40), st.sampled_from(KINDS), st.sampled_from([1, 10, 50, 300]))
def test_every_line_that_is_not_blank_is_in_a_span(
    lines: list[str], kind: Kind, target_chars: int
) -> None:
    found = divide(lines, kind, target_chars)
    covered = [i for span in found for i in range(span.first, span.last + 1)]
    assert {i for i, line in enumerate(lines) if line.strip()} <= set(covered)
    assert covered == sorted(covered)
    assert [_letters(span.text) for span in found if not _letters(span.text)] == []
    assert _letters("".join(span.text for span in found)) == _letters("".join(lines))
    for span in found:
        whole = "\n".join(lines[span.first : span.last + 1])
        assert span.text == whole or (span.first == span.last and span.text in whole)
        if span.first < span.last:
            assert len(span.text) <= target_chars * 3 // 2


def _letters(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_thousand_lines_take_no_quadratic_time(kind: Kind) -> None:
    lines = ["some words on a line", "", "# or a heading", "----"] * 25_000
    found = divide(lines, kind, 1200)
    assert sum(span.last - span.first + 1 for span in found) > 80_000
