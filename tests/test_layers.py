"""The architecture as a test: who may import whom, and how long a function or a file may be."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "culet"

# Bottom to top. A module may import what stands above it in this list, and its own package;
# so there are no cycles. A name stands for a module or for a whole package.
ORDER = [
    # 0: plain functions and data
    "errors",
    "atomic",
    "fingerprint",
    "losses",
    "progress",
    "prompts",
    "quant",
    "evaluate.metrics",
    "model.config",
    "model.decoder_config",
    "chunking",
    "ahead",
    "given",
    "cachefolder",
    # 1: checkpoints, tokens, the model
    "tokenizer",
    "tokenizer_training",
    "lexical",
    "tensorfile",
    "modelfolder",
    "foreign",
    "foreigntexts",
    "checkpoint",
    "foreignstack",
    "gguf_file",
    "gguf_tokenizer",
    "gguf_decoder",
    "generatingfolder",
    "encoder_decoder_checkpoint",
    "decoder_checkpoint",
    "vocabulary",
    "lineage",
    "merge",
    "model",
    "runtime",
    # 2: texts in, vectors out, training data
    "textio",
    "embedder",
    "loading",
    "vectorformats",
    "vectorio",
    "vectorcache",
    "corpus",
    "search",
    "data",
    "mixturereport",
    "teachers",
    "corpora",
    # 3: engines
    "recipe",
    "train",
    "evaluate",
    # 4 to 6: stages meet on disk; the pipeline strings them together; the command line is on top
    "stages",
    "pipeline",
    "display",
    "generating_info",
    "writing",
    "generate_cli",
    "cli_shared",
    "embed_cli",
    "cli",
    "__main__",
]

# What the order alone would allow.
FORBIDDEN = {
    "train": {
        "embedder": "evaluation enters the loop as a function",
        "loading": "evaluation enters the loop as a function",
        "checkpoint": "the loop knows models, not folders",
    },
    "losses": {"model": "losses are functions of embeddings"},
    "evaluate": {"embedder": "an evaluated model is whatever encodes", "model": "likewise"},
    "data": {"embedder": "data is text and tokens", "model": "likewise"},
    "stages.start": {"stages.tune": "stages meet only on disk"},
    "stages.tune": {"stages.start": "stages meet only on disk"},
    "stages.decoder": {"stages.start": "stages meet only on disk"},
}

MOST_LINES_OF_A_FUNCTION = 90
MOST_LINES_OF_A_FILE = 400


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Return each module of the package below `culet`, parsed."""
    parsed = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        if name:
            parsed[name] = ast.parse(path.read_text(encoding="utf-8"))
    return parsed


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the modules below `culet` that a tree imports, at its top or inside a function.

    What only the type checker imports does not count: it makes no module need another one.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            yield from imported(node)
            continue
        yield from (name.removeprefix("culet.") for name in names if name.startswith("culet."))


def matching(name: str, entries: list[str]) -> str | None:
    """Return the longest entry that is the module or a package around it."""
    fitting = [entry for entry in entries if f"{name}.".startswith(f"{entry}.")]
    return max(fitting, key=len, default=None)


def offences(name: str, tree: ast.Module) -> Iterator[str]:
    """Yield a sentence for each import that the table does not allow."""
    own = matching(name, ORDER)
    if own is None:
        yield f"culet.{name} has no place in the table of tests/test_layers.py; give it one"
        return
    for target in imported(tree):
        theirs = matching(target, ORDER)
        if theirs is None:
            if target != "__version__":
                yield f"culet.{name} imports culet.{target}, which has no place in the table"
        elif theirs != own and ORDER.index(theirs) > ORDER.index(own):
            yield f"culet.{name} imports culet.{target}, which stands over it"
        for entry in filter(lambda entry: matching(name, [entry]), FORBIDDEN):
            banned = matching(target, [*ORDER, *FORBIDDEN[entry]])
            if banned in FORBIDDEN[entry]:
                yield f"culet.{name} imports culet.{target}, but {FORBIDDEN[entry][banned]}"


@pytest.mark.parametrize("name", list(modules()))
def test_a_module_imports_only_what_stands_below_it(name: str) -> None:
    assert list(offences(name, modules()[name])) == []


def test_every_place_in_the_table_is_taken() -> None:
    unused = [entry for entry in ORDER if not any(matching(n, [entry]) for n in modules())]
    assert unused == []


@pytest.mark.parametrize(
    ("name", "code", "offence"),
    [
        ("tokenizer", "from culet.loading import load", "culet.loading.load, which stands over"),
        ("tokenizer", "def f():\n    import culet.cli", "imports culet.cli, which stands over it"),
        ("model.config", "from culet.model.layers import Linear", "which stands over it"),
        ("train.loop", "from culet.loading import load", "evaluation enters the loop as a funct"),
        ("train.loop", "from culet import checkpoint", "the loop knows models, not folders"),
        ("stages.tune", "from culet.stages.start import run", "stages meet only on disk"),
        ("novelty", "", "culet.novelty has no place in the table"),
        ("cli", "from culet.novelty import x", "culet.novelty.x, which has no place"),
    ],
)
def test_a_wrong_import_is_named(name: str, code: str, offence: str) -> None:
    found = list(offences(name, ast.parse(code)))
    assert len(found) == 1
    assert offence in found[0]


def test_right_imports_and_those_of_the_type_checker_are_allowed() -> None:
    code = (
        "from culet.model.config import tiny\nfrom culet.model import batch\nimport numpy\n"
        "if TYPE_CHECKING:\n    from culet.cli import main"
    )
    assert list(offences("model.layers", ast.parse(code))) == []


def test_no_function_is_longer_than_a_screen() -> None:
    long = [
        f"culet.{name}:{node.name} has {lines} lines"
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > MOST_LINES_OF_A_FUNCTION
    ]
    assert long == []


def test_no_file_holds_more_than_one_idea_can_need() -> None:
    lengths = {
        path.relative_to(SOURCE).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in SOURCE.rglob("*.py")
    }
    assert {name: n for name, n in lengths.items() if n > MOST_LINES_OF_A_FILE} == {}
