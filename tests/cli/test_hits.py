from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console
from rich.text import Text

from culet.cli.hits import hits_json, show_hits, show_skipped
from culet.search.documents import Chunk, ChunkedCorpus, Skipped
from culet.search.exact import Hit, Hits
from culet.terminal.tables import show_rows

TEXT = "## Bread\n\nHow to bake bread at home\n[not markup] and a very long line " + "x" * 100
CHUNK = Chunk("docs/a.md", 3, 6, "Food > Bread", TEXT)
HITS = Hits("Bake a bread?", (Hit(0.98765, CHUNK),), 7, 2)


def printed(terminal: bool) -> str:
    stream = io.StringIO()
    colors = "standard" if terminal else None
    console = Console(file=stream, force_terminal=terminal, width=60, color_system=colors)
    show_hits(HITS, console)
    return stream.getvalue()


def test_a_hit_shows_place_score_title_and_first_lines() -> None:
    assert printed(terminal=False).splitlines() == [
        " 1. docs/a.md:3-6  0.988",
        "    Food > Bread",
        "    How to bake bread at home",
        "    [not markup] and a very long line " + "x" * 100,
        "",
    ]


def test_a_terminal_crops_lines_and_marks_the_words_of_the_question() -> None:
    shown = printed(terminal=True)
    assert "\x1b[1;33mbake\x1b[0m \x1b[1;33mbread\x1b[0m" in shown
    assert "x…" in shown
    assert "x" * 60 not in shown


def test_places_can_be_opened_from_where_the_search_was_made() -> None:
    stream = io.StringIO()
    show_hits(HITS, Console(file=stream), root=Path("here"))
    assert stream.getvalue().startswith(f" 1. {Path('here/docs/a.md')}:3-6  0.988\n")


def test_a_hit_of_one_line_shows_one_number_and_its_id() -> None:
    stream = io.StringIO()
    chunk = Chunk("a.jsonl", 9, 9, None, "text", "doc-1")
    show_hits(Hits("q", (Hit(0.5, chunk),), 1, 1), Console(file=stream))
    assert stream.getvalue() == " 1. a.jsonl:9  0.500  doc-1\n    text\n\n"


def test_text_from_files_cannot_steer_the_terminal() -> None:
    evil = "\x1b[2J\x1b]0;title\x07 \x9b1mbread\u202e ده\u200cم"
    chunk = Chunk(f"{evil}.md", 1, 1, f"T {evil}", f"line one\t{evil}\nline two", evil)
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=400, color_system=None)
    corpus = ChunkedCorpus((), (Skipped(f"{evil}.bin", evil),), 0)
    show_hits(Hits("bread", (Hit(0.5, chunk),), 1, 1), console, root=Path("caf\udce9"))
    show_skipped(corpus, console)
    show_rows({"folder": Text("here"), "notes": f"one\n{evil}"}, console)
    shown = stream.getvalue()
    controls = "\x1b\x07\x9b\u202e\udce9"
    assert not any(control in shown for control in controls)
    safe = r"\x1b[2J\x1b]0;title\x07 \x9b1mbread\u202e ده" + "\u200cم"  # that one joins letters
    assert shown.count(safe) == 7
    assert rf"caf\udce9/{safe}.md:1" in shown
    assert f"    line one    {safe}" in shown
    whole = hits_json(Hits("q", (Hit(0.5, chunk),), 1, 1), corpus, model="m", fingerprint="f")
    assert whole["hits"][0]["text"] == chunk.text
    assert whole["hits"][0]["path"] == chunk.path


def test_what_was_left_out_is_counted_with_examples() -> None:
    stream = io.StringIO()
    skipped = tuple(Skipped(f"{i}.bin", "a binary file") for i in range(5))
    show_skipped(ChunkedCorpus((), skipped, 0), Console(file=stream, width=200))
    assert stream.getvalue() == (
        "left out 5: 0.bin (a binary file); 1.bin (a binary file); 2.bin (a binary file); "
        "and 2 more, all with --json\n"
    )


def test_nothing_left_out_says_nothing() -> None:
    stream = io.StringIO()
    show_skipped(ChunkedCorpus((), (), 0), Console(file=stream))
    assert stream.getvalue() == ""


def test_json_holds_everything_found_and_left_out() -> None:
    corpus = ChunkedCorpus((CHUNK,), (Skipped("b.png", "a binary file"),), 1)
    found = json.loads(json.dumps(hits_json(HITS, corpus, model="m", fingerprint="f")))
    assert found["hits"] == [
        {
            "rank": 1,
            "score": 0.98765,
            "weak": False,
            "path": "docs/a.md",
            "first_line": 3,
            "last_line": 6,
            "title": "Food > Bread",
            "id": None,
            "text": TEXT,
        }
    ]
    assert found["skipped"] == [{"path": "b.png", "reason": "a binary file"}]
    assert (found["question"], found["num_chunks"], found["model"]) == ("Bake a bread?", 7, "m")
