from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from word_embedder import WordEmbedder

Run = Callable[..., tuple[int, str, str]]


SLOW_EMBEDDER = """
import sys, time
sys.path.insert(0, {tests!r})
from word_embedder import WordEmbedder
from culet import errors, loading
from culet.cli import main as cli
class Slow(WordEmbedder):
    def embed(self, prepared, **options):
        if self.num_encoded >= 1024:
            print("waiting", flush=True)
            time.sleep(60)
        return super().embed(prepared, **options)
loading.load = lambda *_, **__: Slow()
cli.main()
"""


def listen() -> None:
    """Hear signals that are ignored where the tests were started in the background or by nohup."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def start(program: str, *arguments: object, stdin: int | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONWARNINGS": "default"},
        preexec_fn=listen,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ")
@pytest.mark.parametrize(
    ("number", "code", "last"),
    [
        (signal.SIGINT, 130, "culet: interrupted"),
        (signal.SIGTERM, 143, "culet: ended by SIGTERM"),
        (signal.SIGHUP, 129, "culet: ended by SIGHUP"),
        (signal.SIGKILL, -9, None),
    ],
)
def test_a_run_that_is_ended_keeps_what_was_done_and_can_go_on(
    run: Run, tmp_path: Path, number: int, code: int, last: str | None
) -> None:
    texts, out = tmp_path / "in.txt", tmp_path / "out.npy"
    texts.write_text("".join(f"mars {i % 7}\n" for i in range(2000)))
    program = SLOW_EMBEDDER.format(tests=str(Path(__file__).parents[1] / "doubles"))
    process = start(program, "embed", texts, "-o", out)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    time.sleep(0.1)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    if last is not None:
        kept = f"culet: the first 1,024 vectors are kept in {out}.part; --resume goes on after them"
        assert err.splitlines()[-2:] == [kept, last]
    assert not out.exists()
    assert np.load(f"{out}.part").shape == (1024, 64)
    code, _, err = run("embed", texts, "-o", out)
    assert (code, "holds 1,024 rows of an interrupted run" in err) == (2, True), err
    code, _, err = run("embed", texts, "-o", out, "--resume", "--truncate-to", 32)
    assert (code, "its width is 64, and that of this run is 32" in err) == (2, True), err
    code, _, err = run("embed", texts, "-o", out, "--resume")
    assert err.splitlines() == [
        f"culet: going on after 1,024 vectors in {out}.part",
        f"2,000 vectors of 64 numbers in {out}",
    ]
    assert np.array_equal(
        np.load(out), WordEmbedder().encode_document(texts.read_text().splitlines())
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.npy"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ")
def test_ctrl_c_ends_a_wait_for_standard_input(tmp_path: Path) -> None:
    program = SLOW_EMBEDDER.format(tests=str(Path(__file__).parents[1] / "doubles"))
    program = program.replace("cli.main()", "print('ready', flush=True); cli.main()")
    with start(program, "embed", "-", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("mars\n" * 1024)
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["text"] == "mars"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)  # while it waits for a third batch
        assert process.wait(timeout=60) == 130
        assert process.stderr.read() == "culet: interrupted\n"


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ")
def test_a_reader_that_leaves_is_no_error() -> None:
    program = SLOW_EMBEDDER.format(tests=str(Path(__file__).parents[1] / "doubles"))
    with start(program, "embed", "-q", *["-t", "mars"] * 500) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["text"] == "mars"
        process.stdout.close()
        assert (process.wait(timeout=60), process.stderr.read()) == (0, "")
