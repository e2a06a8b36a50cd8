"""The architecture as a test: who may import whom, and how long a function or a file may be."""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "culet"
READING = ROOT / "docs" / "reading.md"  # the spine, in the order to read it
DESIGN = ROOT / "docs" / "design.md"

# What each package, or file at the root, may import besides itself and `errors`; from bottom to
# top. docs/design.md shows the same table.
MAY_IMPORT: dict[str, str] = {
    "errors": "",
    "concurrency": "",
    "quant": "",
    "losses": "",
    "terminal": "",
    "architecture": "",
    "files": "",
    "text": "concurrency terminal files",
    "vectors": "files",
    "checkpoints": "architecture files text",
    "model": "architecture",
    "generation": "architecture model checkpoints text",
    "runtime": "model checkpoints architecture quant files vectors terminal",
    "evaluate": "terminal vectors files",
    "data": "concurrency files text vectors terminal",
    "embedder": "concurrency checkpoints architecture text terminal vectors",
    "train": "data model losses architecture files concurrency terminal",
    "corpora": "files terminal",
    "loading": "embedder runtime checkpoints model text",
    "bulk": "embedder files text terminal architecture vectors",
    "search": "embedder files text terminal architecture vectors",
    "stages": "concurrency quant losses terminal architecture files text vectors checkpoints model "
    "generation runtime evaluate data embedder train loading",
    "pipeline": "concurrency quant losses terminal architecture files text vectors checkpoints "
    "model generation runtime evaluate data embedder train loading stages",
    "cli": "concurrency terminal architecture files text vectors checkpoints model generation "
    "runtime evaluate data embedder corpora loading bulk search stages pipeline",
    "__main__": "cli",
}

ONCE_IN = ("stages", "corpora", "runtime")  # elsewhere no two files have one name
MOST_MODULES_AT_THE_ROOT = 8
MOST_LINES_OF_A_FUNCTION = 60
MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_THE_SPINE = 6500


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


def room(name: str) -> str:
    """Return the package, or the file at the root, that a module is of."""
    return name.partition(".")[0]


def offences(name: str, tree: ast.Module) -> Iterator[str]:
    """Yield a sentence for each import that the table does not allow."""
    if room(name) not in MAY_IMPORT:
        yield f"culet.{name} has no row in the table of tests/test_layers.py; give it one"
        return
    allowed = {room(name), "errors", "__version__", *MAY_IMPORT[room(name)].split()}
    for target in imported(tree):
        if room(target) not in allowed:
            yield f"culet.{name} may not import culet.{target}"
        theirs = target.split(".")
        if room(name) == room(target) == "stages" and theirs[-1] == "run":
            yield f"culet.{name} imports culet.{target}, but stages meet only on disk"


def file_graph(trees: Mapping[str, ast.Module]) -> dict[str, set[str]]:
    """Return for each module the modules it imports, itself left out."""
    graph = {}
    for name, tree in trees.items():
        targets = set()
        for target in imported(tree):
            whole = target if target in trees else target.rpartition(".")[0]
            if whole in trees and whole != name:
                targets.add(whole)
        graph[name] = targets
    return graph


def cycles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import one another, by Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in graph[name]:
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in graph:
        if name not in index:
            visit(name)
    return found


def code_lines(path: Path) -> int:
    """Return the lines of a file that hold code: no blank ones, comments or docstrings."""
    text = path.read_text(encoding="utf-8")
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docstrings |= set(range(node.lineno, (node.end_lineno or 0) + 1))
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped and token.type != tokenize.ENDMARKER:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


@pytest.mark.parametrize("name", list(modules()))
def test_a_module_imports_only_what_the_table_allows(name: str) -> None:
    assert list(offences(name, modules()[name])) == []


def test_every_row_of_the_table_is_a_package_and_imports_only_rows_above_it() -> None:
    assert set(MAY_IMPORT) == {room(name) for name in modules()}
    above: set[str] = set()
    for name, row in MAY_IMPORT.items():
        assert set(row.split()) <= above, name
        above.add(name)


def test_the_design_shows_the_same_table() -> None:
    shown: dict[str, set[str]] = {}
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", DESIGN.read_text("utf-8"), re.M)
    for name, cell in rows:
        names = set(re.findall(r"\w+", cell.removeprefix("all above but")))
        shown[name] = set(shown) - names - {"errors"} if cell.startswith("all above") else names
    assert shown == {name: set(row.split()) for name, row in MAY_IMPORT.items()}


@pytest.mark.parametrize(
    ("name", "code", "offence"),
    [
        ("text.tokenizer", "from culet.loading import load", "may not import culet.loading.load"),
        ("text.tokenizer", "def f():\n    import culet.cli", "may not import culet.cli"),
        ("train.loop", "from culet import checkpoints", "may not import culet.checkpoints"),
        ("data.records", "from culet.model.batch import x", "may not import culet.model.batch.x"),
        ("stages.tune", "from culet.stages.start import run", "stages meet only on disk"),
        ("novelty", "", "culet.novelty has no row in the table"),
        ("cli.main", "from culet.novelty import x", "may not import culet.novelty.x"),
    ],
)
def test_a_wrong_import_is_named(name: str, code: str, offence: str) -> None:
    found = list(offences(name, ast.parse(code)))
    assert len(found) == 1
    assert offence in found[0]


def test_right_imports_and_those_of_the_type_checker_are_allowed() -> None:
    code = (
        "from culet.architecture.embedding_config import tiny\nfrom culet.model import batch\n"
        "import numpy\nif TYPE_CHECKING:\n    from culet.cli.main import main"
    )
    assert list(offences("model.layers", ast.parse(code))) == []


def test_no_files_import_one_another() -> None:
    assert cycles(file_graph(modules())) == []


def test_a_cycle_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}
    assert cycles(graph) == [["b", "c"]]


def test_few_modules_stand_at_the_root() -> None:
    names = [path.name for path in SOURCE.glob("*.py")]
    assert len(names) <= MOST_MODULES_AT_THE_ROOT, names


def test_no_two_files_have_one_name() -> None:
    names = Counter(
        path.name
        for path in SOURCE.rglob("*.py")
        if path.name != "__init__.py" and path.relative_to(SOURCE).parts[0] not in ONCE_IN
    )
    assert {name for name, count in names.items() if count > 1} == set()


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


def test_the_spine_can_be_read_in_an_afternoon() -> None:
    names = re.findall(r"\]\(\.\./src/culet/([\w/]+\.py)\)", READING.read_text("utf-8"))
    assert len(names) == len(set(names)) > 0
    assert [name for name in names if not (SOURCE / name).is_file()] == []
    assert sum(code_lines(SOURCE / name) for name in names) <= MOST_LINES_OF_THE_SPINE
