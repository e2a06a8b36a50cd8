"""Docstring to function, from the Python sources of projects; parsed with `ast`, never run."""

from __future__ import annotations

import ast
import textwrap
import warnings
from collections.abc import Iterator

from culet.corpora.corpus import Corpus
from culet.corpora.readers.comments import is_of_interest, summary, trimmed, without_header
from culet.corpora.readers.packages import Package
from culet.corpora.rows import Pair, Row, Text

LANG = "code-python"
_MAX_BYTES = 400_000
_TEXT_CHARS = range(500, 20_000)
_MAX_TEXTS = 150  # of a package
_MAX_PAIRS = 6000

_PACKAGES = (
    "aiohttp altair arviz astropy attrs babel beautifulsoup4 biopython bokeh boto3 celery click "
    "dask deap django docutils einops fastapi flask gensim geopandas gymnasium httpx hypothesis "
    "imageio imbalanced-learn ipython jedi jinja2 jsonschema keras librosa luigi mako marshmallow "
    "matplotlib mesa mido music21 nbconvert networkx nibabel nltk numba numpy openai optax "
    "pandas paramiko peewee pillow plotly poetry-core prompt-toolkit psutil pulp pydantic "
    "pygithub pyglet pygments pylint pymongo pyparsing pyramid pytest python-dateutil pyyaml "
    "redis requests rich scapy scikit-image scikit-learn scipy scrapy seaborn setuptools simpy "
    "sphinx sqlalchemy sqlmodel statsmodels sympy textual torchmetrics tornado tqdm trimesh "
    "typer urllib3 virtualenv watchdog werkzeug xarray"
)


def _read(package: Package) -> Iterator[Row]:
    texts = pairs = 0
    for _, data in package.members(is_source):
        source = data.decode("utf-8", "replace")
        if len(source) in _TEXT_CHARS and texts < _MAX_TEXTS:
            texts += 1
            yield Text(without_header(source), LANG)
        for pair in functions(source):
            pairs += 1
            if pairs <= _MAX_PAIRS:
                yield pair


def is_source(name: str) -> bool:
    """Whether a member is Python to be read."""
    return name.endswith(".py") and is_of_interest(name)


def functions(source: str) -> Iterator[Pair]:
    """Yield docstring and function for each function whose docstring makes a query."""
    if len(source) > _MAX_BYTES:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in other people's strings
            tree = ast.parse(source)
        nodes = list(ast.walk(tree))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    lines = source.split("\n")
    for node in nodes:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        comment = ast.get_docstring(node)
        query = summary(comment) if comment else None
        code = _without_docstring(node, lines) if query else None
        if query and code:
            yield Pair(query, code, LANG, "python")


def _without_docstring(
    node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]
) -> str | None:
    """Return the text of a function from its first decorator on, its docstring taken out."""
    doc = node.body[0]
    if len(node.body) < 2 or doc.end_lineno is None or node.end_lineno is None:
        return None
    follows = node.body[1].lineno
    if follows <= doc.end_lineno or doc.lineno <= node.lineno:
        return None  # several statements on a line
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    kept = lines[first - 1 : doc.lineno - 1] + lines[doc.end_lineno : node.end_lineno]
    body = "\n".join(kept)
    only = node.body[1:]
    if len(only) == 1 and isinstance(only[0], ast.Pass | ast.Raise | ast.Expr):
        return None  # an interface, not an implementation
    return trimmed(textwrap.dedent(body.expandtabs(4)))


CODE_PYPI = Corpus(
    name="code-pypi",
    about="Docstring to Python function, from wheels and sources of projects on PyPI.",
    licence="BSD, MIT, Apache-2.0, PSF and others, per package",
    kind="pypi",
    packages=tuple(_PACKAGES.split()),
    read=_read,
    lowest_query=4,
    same_query=2,
    same_positive=1,
    only_free=True,
)
