from __future__ import annotations

import json

import pytest

from culet.terminal.lines import say, visible, visible_json

HOSTILE = "a\x1b[2Jb\nculet: done\x85\x9b31m\u202etxt.exe\u2066\u061c\u2028\udc80"


def test_a_message_is_one_line_without_controls(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"culet: {HOSTILE} is missing")
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        r"culet: a\x1b[2Jb\nculet: done\x85\x9b31m\u202etxt.exe\u2066\u061c\u2028\udc80 is missing"
    )


@pytest.mark.parametrize("encoding", ["utf-8", "UTF-8", None, "cp1252", "latin-1", "ascii"])
def test_json_means_the_same_and_holds_no_controls(encoding: str | None) -> None:
    value = {"path": HOSTILE, "text": "naïve → 𝄞"}
    text = visible_json(json.dumps(value, ensure_ascii=False, indent=1), encoding)
    assert json.loads(text) == value
    assert all(visible(line) == line for line in text.split("\n"))
    assert ("→" in text) == (encoding in ("utf-8", "UTF-8", None))
    text.encode(encoding or "utf-8")
