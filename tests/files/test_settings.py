"""Recipes: every key and type checked, overrides by dotted key, and TOML that reads back."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from culet.errors import InputError, RecipeError
from culet.files.settings import LATER, build, identity, read_toml, to_tables, to_toml


@dataclass(frozen=True)
class Leaf:
    weight: float = 1.0
    path: Path = Path("a")
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise InputError(f"weight must not be negative, got {self.weight}")


@dataclass(frozen=True)
class Tree:
    steps: int
    kind: Literal["oak", "elm"] = "oak"
    on: bool = False
    pair: tuple[float, float] = (0.5, 0.25)
    leaf: Leaf = field(default_factory=Leaf)
    leaves: tuple[Leaf, ...] = ()
    limit: int | None = None
    best: Leaf | None = None


def test_a_table_becomes_nested_frozen_dataclasses() -> None:
    tree = build(
        Tree,
        {
            "steps": 3,
            "kind": "elm",
            "on": True,
            "pair": [1, 2],
            "leaf": {"weight": 2},
            "leaves": [{"path": "b"}, {"names": ["x", "y"]}],
            "limit": 7,
            "best": {"path": "c"},
        },
        where="tree",
    )
    assert tree == Tree(
        steps=3,
        kind="elm",
        on=True,
        pair=(1.0, 2.0),
        leaf=Leaf(weight=2.0),
        leaves=(Leaf(path=Path("b")), Leaf(names=("x", "y"))),
        limit=7,
        best=Leaf(path=Path("c")),
    )
    assert isinstance(tree.leaf.weight, float)


def test_what_is_left_out_keeps_its_default() -> None:
    assert build(Tree, {"steps": 1}, where="tree") == Tree(steps=1)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"steps": 1, "stepz": 2, "a": 3},
            r"\[tree\] has unknown keys: a, stepz; known are: steps, kind, on, pair, leaf",
        ),
        (
            {"steps": 1, "leaf": {"wait": 2}},
            r"\[tree.leaf\] has unknown keys: wait; known are: weight, path, names",
        ),
        ({"steps": 1, "leaves": [{}, {"wait": 2}]}, r"\[tree.leaves\[1\]\] has unknown keys: wait"),
        ({}, r"\[tree\] needs steps"),
        ({"steps": "3"}, "tree.steps must be of type int, got '3'"),
        ({"steps": 3.0}, r"tree.steps must be of type int, got 3\.0"),
        ({"steps": True}, "tree.steps must be of type int, got True"),
        ({"steps": 1, "on": 1}, "tree.on must be of type bool, got 1"),
        ({"steps": 1, "kind": "ash"}, "tree.kind must be one of 'oak', 'elm', got 'ash'"),
        ({"steps": 1, "kind": ["oak"]}, "tree.kind must be one of"),
        ({"steps": 1, "pair": [1]}, r"tree.pair must have 2 entries, got \[1\]"),
        ({"steps": 1, "pair": 1}, "tree.pair must be a list, got 1"),
        ({"steps": 1, "pair": [1, "x"]}, "tree.pair must be of type float, got 'x'"),
        ({"steps": 1, "leaf": 5}, "tree.leaf must be a table, got 5"),
        ({"steps": 1, "leaf": {"weight": "heavy"}}, "tree.leaf.weight must be of type float"),
        (
            {"steps": 1, "leaf": {"weight": True}},
            "tree.leaf.weight must be of type float, got True",
        ),
        ({"steps": 1, "leaf": {"path": 5}}, "tree.leaf.path must be of type Path, got 5"),
        (
            {"steps": 1, "leaf": {"names": ["a", 2]}},
            r"tree.leaf.names\[1\] must be of type str, got 2",
        ),
        ({"steps": 1, "leaf": {"names": "ab"}}, "tree.leaf.names must be a list, got 'ab'"),
        ({"steps": 1, "limit": "many"}, "tree.limit must be of type int, got 'many'"),
        ({"steps": 1, "best": 3}, "tree.best must be a table, got 3"),
        (
            {"steps": 1, "leaves": [{"weight": -1}]},
            r"\[tree.leaves\[0\]\] weight must not be negative, got -1.0",
        ),
    ],
)
def test_a_wrong_table_is_refused_by_the_name_of_its_key(
    table: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        build(Tree, table, where="tree")


# --- overrides


RECIPE = """
[run]
folder = "out"
[finetune]
steps = 10
[[finetune.sources]]
path = "a.jsonl"
[[finetune.sources]]
path = "b.jsonl"
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


@pytest.mark.parametrize(
    ("override", "place", "value"),
    [
        ("finetune.steps=200", ("finetune", "steps"), 200),
        ("finetune.steps = 200", ("finetune", "steps"), 200),
        ("finetune.sources.0.weight=2", ("finetune", "sources", 0, "weight"), 2),
        ("finetune.sources.1.path=c.jsonl", ("finetune", "sources", 1, "path"), "c.jsonl"),
        ("finetune.optim.betas=[0.9, 0.95]", ("finetune", "optim", "betas"), [0.9, 0.95]),
        ("run.device=cpu", ("run", "device"), "cpu"),
        ("run.device = cpu", ("run", "device"), "cpu"),
        ("run.folder=/tmp/a=b", ("run", "folder"), "/tmp/a=b"),
        ('run.folder="1"', ("run", "folder"), "1"),
        ("finetune.lora.rank=4", ("finetune", "lora", "rank"), 4),
        ("finetune.skip_bad_records=true", ("finetune", "skip_bad_records"), True),
        ("finetune.optim.lr=1e-5", ("finetune", "optim", "lr"), 1e-5),
    ],
)
def test_an_override_replaces_or_adds_one_value(
    recipe: Path, override: str, place: tuple[str | int, ...], value: Any
) -> None:
    found: Any = read_toml(recipe, [override])
    for key in place:
        found = found[key]
    assert found == value
    assert type(found) is type(value)


def test_the_last_override_wins(recipe: Path) -> None:
    tables = read_toml(recipe, ["finetune.steps=1", "finetune.steps=2"])
    assert tables["finetune"]["steps"] == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("finetune.steps", "must look like section.key=value, got 'finetune.steps'"),
        ("=3", "must look like section.key=value"),
        ("finetune.sources.2.weight=1", "expected a number below 2, got '2'"),
        ("finetune.sources.-1.weight=1", "expected a number below 2, got '-1'"),
        ("finetune.sources.²=1", "expected a number below 2"),
        ("finetune.sources.x=1", "expected a number below 2, got 'x'"),
        ("finetune.steps.many=1", "steps is not a section"),
    ],
)
def test_a_wrong_override_is_refused_in_its_own_words(
    recipe: Path, override: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        read_toml(recipe, [override])


def test_a_recipe_that_is_missing_or_no_toml_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"cannot read the recipe .*none\.toml: No such file"):
        read_toml(tmp_path / "none.toml")
    bad = tmp_path / "bad.toml"
    bad.write_text("[run\n")
    with pytest.raises(RecipeError, match=r"bad\.toml is not valid TOML: .*line 1"):
        read_toml(bad)
    bad.write_bytes(b'a = "\xff"')
    with pytest.raises(RecipeError, match=r"bad\.toml is not valid TOML"):
        read_toml(bad)


# --- and back


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FLOATS = st.floats(allow_nan=False)
LEAVES = st.builds(
    Leaf,
    weight=st.floats(min_value=0, allow_nan=False),
    path=st.sampled_from([Path("a"), Path("/b c/d"), Path('q"uote')]),
    names=st.lists(TEXTS, max_size=3).map(tuple),
)
TREES = st.builds(
    Tree,
    steps=st.integers(-(2**62), 2**62),
    kind=st.sampled_from(["oak", "elm"]),
    on=st.booleans(),
    pair=st.tuples(FLOATS, FLOATS),
    leaf=LEAVES,
    leaves=st.lists(LEAVES, max_size=3).map(tuple),
    limit=st.none() | st.integers(0, 9),
    best=st.none() | LEAVES,
)


@settings(deadline=None)
@given(TREES)
def test_a_configuration_written_as_toml_reads_back_the_same(tree: Tree) -> None:
    text = to_toml({"tree": to_tables(tree)})
    assert build(Tree, tomllib.loads(text)["tree"], where="tree") == tree


VALUES = st.recursive(
    st.booleans() | st.integers(-(2**62), 2**62) | FLOATS | TEXTS | st.lists(TEXTS, max_size=2),
    lambda inner: (
        st.dictionaries(TEXTS, inner, max_size=3)
        | st.lists(st.dictionaries(TEXTS, inner, max_size=2), min_size=1, max_size=2)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(TEXTS, VALUES, max_size=4))
def test_any_tables_with_any_keys_read_back_the_same(tables: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(tables)) == tables


def test_what_is_absent_is_left_out_of_the_tables() -> None:
    tables = to_tables(Tree(steps=1))
    assert "limit" not in tables
    assert "best" not in tables
    assert tables["leaf"] == {"weight": 1.0, "path": "a", "names": []}


@dataclass(frozen=True)
class Grown:
    """A stage's settings after two fields were added to what it had when it first ran."""

    steps: int = 1
    leaves: tuple[Leaf, ...] = ()
    cap: float = field(default=0.0, metadata=LATER)
    more: Leaf = field(default_factory=Leaf, metadata=LATER)


def test_fields_that_came_later_change_the_identity_only_once_they_are_set() -> None:
    before = {"steps": 1, "leaves": []}
    assert identity(Grown()) == before
    assert identity(Grown(cap=2.0)) == before | {"cap": 2.0}
    assert identity(Grown(more=Leaf(weight=2)))["more"]["weight"] == 2


def test_the_identity_of_a_run_does_not_change_with_where_it_lies() -> None:
    def at(run: str) -> dict[str, Any]:
        leaves = (Leaf(path=Path(run, "mine/checkpoint")), Leaf(path=Path("data/a")))
        return identity(Grown(leaves=leaves), run=Path(run))

    assert at("runs/here") == at("/elsewhere")
    assert [leaf["path"] for leaf in at("x")["leaves"]] == ["@mine/checkpoint", "data/a"]
