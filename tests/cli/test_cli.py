from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from word_embedder import WordEmbedder

from culet import errors, loading
from culet.architecture.embedding_config import tiny
from culet.cli import main as cli
from culet.errors import Interrupted
from culet.text.prompts import Prompts


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # main sets it


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command line with the double in place of every model: (exit code, out, err)."""
    monkeypatch.setattr(loading, "load", lambda *_, **__: WordEmbedder())

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["culet", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        shown = capsys.readouterr()
        return int(exit_.value.code or 0), shown.out, shown.err

    return call


Run = Callable[..., tuple[int, str, str]]


def test_help_lists_the_verbs_and_version_prints_one_line(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert all(verb in out for verb in ("embed", "search", "train", "evaluate", "info"))
    assert run("--version") == (0, "culet 0.1.0\n", "")


def test_an_unknown_option_names_itself(run: Run) -> None:
    code, _, err = run("embed", "--nonsense")
    assert code == 2
    assert "--nonsense" in err


def test_embed_writes_vectors_in_the_order_of_the_lines(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("mars\n\nvenus\n")
    out = tmp_path / "out.npy"
    code, stdout, err = run("embed", tmp_path / "in.txt", "-o", out)
    assert (code, stdout) == (0, "")
    assert err == f"3 vectors of 64 numbers in {out}\n"
    assert np.array_equal(np.load(out), WordEmbedder().encode_document(["mars", "", "venus"]))


def test_embed_of_standard_input_replaces_an_earlier_result(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.npy"
    for text in ("mars\n", "venus\n"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert run("embed", "-", "-o", out)[0] == 0
    assert np.array_equal(np.load(out), WordEmbedder().encode_document(["venus"]))


def test_resume_with_nothing_to_go_on_with_begins(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    code, _, err = run("embed", "-t", "mars", "-o", out, "--resume")
    assert (code, err.splitlines()) == (
        0,
        [
            f"culet: there is nothing to resume in {out}.part; beginning",
            f"1 vectors of 64 numbers in {out}",
        ],
    )
    assert np.load(out).shape == (1, 64)


def test_embed_reads_fields_titles_and_width(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"body": "mars", "head": "planets"}')
    out = tmp_path / "out.npy"
    options = ("--field", "body", "--titles-field", "head", "--truncate-to", 32)
    assert run("embed", tmp_path / "in.jsonl", "-o", out, *options)[0] == 0
    expected = WordEmbedder().encode_document(["mars"], titles=["planets"], truncate_to=32)
    assert np.array_equal(np.load(out), expected)


def test_embed_prints_json_lines_when_no_file_is_named(run: Run) -> None:
    code, out, _ = run("embed", "-t", "mars", "--text", "venus", "--task", "clustering")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [line["text"] for line in lines] == ["mars", "venus"]
    expected = WordEmbedder().encode_query(["mars", "venus"], task="clustering")
    assert np.array_equal(np.array([line["embedding"] for line in lines], np.float32), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embed"], "give either an INPUT"),
        (["embed", "-", "-t", "x"], "give either an INPUT"),
        (["embed", "-t", "x", "--query", "--document"], "exclude each other"),
        (["embed", "-t", "x", "--document", "--task", "code"], "--task is the task of a query"),
        (["embed", "-t", "x", "--task", "sreach"], "unknown task 'sreach'"),
        (["embed", "-t", "x", "-o", "out.xyz"], "ends in .npy, .jsonl, .parquet"),
        (["embed", "-t", "word " * 99, "--on-long", "error"], "text 0 has 99 words"),
        (["embed", "nowhere.txt"], "nowhere.txt is not a file"),
        (["embed", "-t", "x", "--truncate-to", "31"], "trained widths (64, 32), got 31"),
        (["embed", "-t", "x", "--field", "a"], "--field cannot be used with --text, which has"),
        (["embed", "-", "--titles-field", "a"], "--titles-field cannot be used with standard inp"),
        (["embed", "-", "--field", "a", "--titles-field", "b"], "--field and --titles-field canno"),
        (["embed", "a.TXT.gz", "--field", "text"], "--field cannot be used with a.TXT.gz, which"),
        (["embed", "a.csv", "--query", "--titles-field", "b"], "queries have no titles"),
        (["embed", "-t", "x", "--resume"], "about the file of --out; give one"),
        (["embed", "-t", "x", "--overwrite"], "about the file of --out; give one"),
        (["search", "nowhere", "x"], "nowhere does not exist"),
        (["info", "nowhere"], "nowhere"),
        (["train", "nowhere.toml"], "nowhere.toml is not a file"),
        (["evaluate", "nowhere"], "nowhere"),
    ],
)
def test_what_a_user_can_mend_is_one_line_without_a_traceback(
    run: Run, arguments: list[str], message: str
) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("culet: ")
    assert len(err.splitlines()) == 1


def test_a_missing_file_is_noticed_before_a_model_is_loaded(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_load(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(loading, "load", no_load)
    assert run("embed", "nowhere.txt")[0] == 2
    texts = tmp_path / "a.jsonl"
    texts.write_text('{"text": "mars"}')
    (tmp_path / "link.jsonl").symlink_to(texts)
    (tmp_path / "d.npy").mkdir()
    (tmp_path / "b.npy.part").write_bytes(b"kept")
    for out, message in {
        "a.jsonl": "a.jsonl is the input itself; give --out another name",
        "link.jsonl": "link.jsonl is the input itself",
        "d.npy": "d.npy: a folder of that name is there",
        "b.npy": "b.npy.part holds unreadable rows of an interrupted run",
        "none/b.npy": "the folder",
    }.items():
        code, _, err = run("embed", texts, "-o", tmp_path / out)
        assert (code, message in err) == (2, True), err
    assert texts.read_text() == '{"text": "mars"}'
    assert run("search", "nowhere", "x")[0] == 2


@pytest.mark.filterwarnings("default")
def test_a_cut_text_is_a_warning_in_one_line(run: Run) -> None:
    code, _, err = run("embed", "-t", "word " * 99)
    assert (code, err) == (0, "warning: 1 of 1 texts were cut\n")
    assert run("embed", "-q", "-t", "word " * 99)[2] == "warning: 1 of 1 texts were cut\n"


def test_search_shows_where_and_how_near(run: Run, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "bread.md").write_text("# Bread\nhow to bake bread\n")
    (docs / "stars.md").write_text("# Stars\nvenus and mars\n")
    code, out, err = run("search", docs, "bake bread", "-k", 1)
    assert (code, err) == (0, "")
    first, title, line = out.splitlines()[:3]
    assert first.startswith(f" 1. {docs / 'bread.md'}:1-2  0.")
    assert (title, line) == ("    Bread", "    how to bake bread")
    assert "venus" not in out


def test_search_as_json_is_only_json(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("how to bake bread")
    (tmp_path / "b.bin").write_bytes(b"\0")
    code, out, err = run("search", tmp_path, "bread", "--json", "--no-cache")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert [hit["path"] for hit in found["hits"]] == ["a.txt"]
    assert found["fingerprint"] == "words"
    assert [item["path"] for item in found["skipped"]] == ["b.bin"]
    assert not (tmp_path / "cache").exists()


def test_search_says_what_was_left_out(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("how to bake bread")
    (tmp_path / "b.bin").write_bytes(b"\0")
    err = run("search", tmp_path, "bread")[2]
    assert err.startswith("left out 1: b.bin")


def checkpoint(folder: Path) -> Path:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    from culet.checkpoints.embedding import write_checkpoint

    config = tiny()
    vocabulary = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3}
    arrays = {name: np.zeros(shape, np.float32) for name, shape in config.weight_shapes().items()}
    write_checkpoint(
        folder,
        config,
        arrays,
        tokenizer_json=Tokenizer(WordLevel(vocabulary, unk_token="<unk>")).to_str(),
        prompts=Prompts.default().to_names(),
    )
    return folder


def test_info_tells_what_a_checkpoint_is(run: Run, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model")
    code, out, err = run("info", folder)
    assert (code, err) == (0, "")
    config = tiny()
    assert f"{config.num_parameters():,}" in out
    assert ", ".join(map(str, config.widths)) in out
    assert "'title: none | text: '  document" in out
    code, out, _ = run("info", "--json", folder)
    facts = json.loads(out)
    assert code == 0
    assert facts["widths"] == list(config.widths)
    assert facts["prompts"]["query"] == "task: search result | query: "
    assert facts["files"]["model.safetensors"] > 1000
    assert len(facts["fingerprint"]) == 16


def test_train_hands_recipe_and_overrides_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tmp_path / "a.toml"
    recipe.write_text("")
    seen: list[object] = []

    def run_recipe(path: Path, overrides: list[str], **options: object) -> int:
        seen.extend([path, overrides, options])
        return 3

    pipeline = types.ModuleType("culet.pipeline")
    pipeline.run_recipe = run_recipe  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "culet.pipeline", pipeline)
    asked = {"dry_run": True, "begin": "mine", "only": "merge", "status": True}
    flags = ["--dry-run", "--from", "mine", "--only", "merge", "--status"]
    code, _, _ = run("train", recipe, "--set", "a.b=1", "--set", "c=2", *flags)
    assert (code, seen) == (3, [recipe, ["a.b=1", "c=2"], asked])


def test_a_missing_extra_says_how_to_install_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.toml").write_text("")

    def not_there(name: str) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(errors, "import_module", not_there)
    code, _, err = run("train", tmp_path / "a.toml")
    assert code == 2
    assert err == (
        "culet: culet train needs the package 'torch', which is not installed; "
        "install it with: pip install 'culet[train]'\n"
    )


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder with one task that is scored at once."""
    pytest.importorskip("scipy")
    pytest.importorskip("sklearn")
    from evaluate_doubles import write_task

    rows = [
        {"a": "red planet", "b": "red planet mars", "score": 5},
        {"a": "red planet", "b": "bread", "score": 0},
        {"a": "bread oven", "b": "oven", "score": 3},
    ]
    facts = {"type": "sts", "metric": "cosine_spearman", "languages": ["eng-Latn"]}
    write_task(tmp_path / "tasks" / "Near", **facts, files={"pairs.jsonl": rows})
    return tmp_path / "tasks"


def test_evaluate_scores_every_width_and_writes_results(
    run: Run, tasks: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    widths = ("--truncate-to", 64, "--truncate-to", 32)
    code, out, err = run("evaluate", tasks, "-o", results, *widths)
    assert code == 0, err
    assert "Near" in out
    assert "32d" in out
    assert list(results.rglob("*.json"))
    assert err.endswith(f"results, computed in float32 by words, are in {results}\n")


def test_evaluate_refuses_a_width_that_was_not_trained(
    run: Run, tasks: Path, tmp_path: Path
) -> None:
    code, out, err = run("evaluate", tasks, "-o", tmp_path / "r", "--truncate-to", 48)
    assert (code, out) == (2, "")
    assert err == (
        "culet: truncate_to must be one of the trained widths (64, 32), got 48; a prefix of "
        "another width was never trained and would be a poor embedding\n"
    )
    assert not (tmp_path / "r").exists()


def test_evaluate_scores_a_width_and_a_precision_that_come_twice_once(
    run: Run, tasks: Path, tmp_path: Path
) -> None:
    twice = ("--truncate-to", 32, "--truncate-to", 32) + ("--vector-precision", "int8") * 2
    code, out, err = run("evaluate", tasks, tasks, "-o", tmp_path / "results", *twice)
    assert (code, out.count("32d int8")) == (0, 1), err


def test_evaluate_passes_over_folders_without_the_tasks_that_are_asked_for(
    run: Run, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tasks / "Near", other / "Far")
    facts = json.loads((other / "Far" / "task.json").read_text())
    (other / "Far" / "task.json").write_text(json.dumps(facts | {"name": "Far"}))
    results = ("-o", tmp_path / "results")
    code, out, err = run("evaluate", tasks, other, *results, "--only", "Far")
    assert (code, "Far" in out, "Near" in out) == (0, True, False), err
    code, out, err = run("evaluate", tasks, other, *results, "--only", "Far", "--only", "Near")
    assert (code, "Far" in out, "Near" in out) == (0, True, True), err
    monkeypatch.setattr(loading, "load", None)  # refused before that
    message = "culet: unknown task Wide; the folder{} {}\n"
    assert run("evaluate", tasks, other, *results, "--only", "Far", "--only", "Wide") == (
        2,
        "",
        message.format("s have", "Far, Near"),
    )
    expected = message.format(" has", "Near")
    assert run("evaluate", tasks, *results, "--only", "Wide") == (2, "", expected)
    shutil.copytree(tasks / "Near", other / "Near")
    code, _, err = run("evaluate", tasks, other, *results)
    assert (code, f"{tasks} and {other} both have a task Near; evaluate them" in err) == (2, True)


def test_evaluate_checks_where_results_go_before_a_model_is_loaded(
    run: Run, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_load(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(loading, "load", no_load)
    file = tmp_path / "t.txt"
    file.touch()
    for out in (file, file / "deeper" / "still"):
        expected = f"culet: cannot write results to {out}: {file} is a file; name a folder\n"
        assert run("evaluate", tasks, "-o", out) == (2, "", expected)
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)
    code, _, err = run("evaluate", tasks, "-o", tmp_path / "new" / "results")
    assert (code, f"{tmp_path} cannot be written; name another folder" in err) == (2, True)


def test_evaluate_names_no_place_where_nothing_was_written(
    run: Run, tasks: Path, tmp_path: Path
) -> None:
    (tasks / "Near" / "pairs.jsonl.gz").write_bytes(b"")
    code, _, err = run("evaluate", tasks, "-o", tmp_path / "results")
    assert (code, "are in" in err) == (1, False)


DOCS = Path(__file__).parents[2] / "docs" / "evaluation.md"
COMMANDS = re.findall(r"^culet (evaluate .*?)(?: +#.*)?$", DOCS.read_text("utf-8"), re.M)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_docs_run(
    run: Run, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    (tmp_path / "demo" / "data").mkdir(parents=True)
    tasks.rename(tmp_path / "demo" / "data" / "eval")
    monkeypatch.chdir(tmp_path)
    own = command.replace(" 512", " 64").replace(" 128", " 32")  # the double's widths
    code, out, err = run(*own.split())
    assert (code, "Near" in out) == (0, True), err


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\nimport culet.cli.main\n"
        "heavy = {'torch', 'pyarrow', 'sklearn', 'scipy', 'numpy', 'tokenizers', 'huggingface_hub'}"
        "\nprint(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


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


def test_ctrl_c_during_the_imports_is_quiet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from culet.__main__ import main

    class Interrupting:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "culet.cli.main":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "culet.cli.main")
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert (exit_.value.code, capsys.readouterr().err) == (130, "culet: interrupted\n")


def test_the_entry_point_is_light() -> None:
    program = (
        "import sys, culet.__main__\nprint(sorted({'typer', 'rich', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_an_interrupted_run_says_once_where_it_stopped(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from culet import pipeline

    def stopped(*_: object, **__: object) -> int:
        raise Interrupted("stopped after step 3 of 9")

    (tmp_path / "recipe.toml").touch()
    monkeypatch.setattr(pipeline, "run_recipe", stopped)
    assert run("train", tmp_path / "recipe.toml") == (130, "", "culet: stopped after step 3 of 9\n")
