"""Recipes: from TOML sections to frozen dataclasses, overrides by dotted key, and back to TOML.

Unknown keys are errors that list the known ones; a number in place of a string is an error that
names the key. A run has no other configuration.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from culet.errors import CuletError, RecipeError
from culet.files.addresses import shown

Config = TypeVar("Config")

LATER = {"later": True}  # metadata of a field added after stages had been run without it
WRITTEN_AS = "written as"  # in the metadata of a field: how to write a value without its secret

KNOWN_BY = "known by"  # in the metadata of a field: the part of its value that identifies a run


def read_toml(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the tables of a recipe after overrides such as "finetune.steps=200".

    Raises:
        RecipeError: If the file is missing or not TOML, or an override is not key=value.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid TOML: {error}") from error
    for override in overrides:
        _override(tables, override)
    return tables


def build(
    kind: type[Config],
    table: Mapping[str, Any],
    *,
    where: str,
    path: Callable[[str], Path] = Path,
) -> Config:
    """Return a dataclass from a table, checking every key and type.

    Args:
        kind: A frozen dataclass whose fields are numbers, strings, paths, tuples, literals,
            optional values or further dataclasses.
        table: The TOML table.
        where: Its dotted name, for messages.
        path: Converts a string to a path; a pipeline resolves references here.

    Raises:
        RecipeError: Unknown or missing key, or a value of the wrong type.
    """
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(table) - set(fields)):
        raise RecipeError(
            f"[{where}] has unknown keys: {', '.join(unknown)}; known are: {', '.join(fields)}"
        )
    required = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing := [name for name in required if name not in table]:
        raise RecipeError(f"[{where}] needs {', '.join(missing)}")
    values = {
        name: _value(hints[name], value, where=f"{where}.{name}", path=path)
        for name, value in table.items()
    }
    try:
        return kind(**values)
    except CuletError as error:
        raise RecipeError(f"[{where}] {error}") from error


def to_tables(config: Any) -> dict[str, Any]:
    """Return a dataclass as plain tables; None is left out, as TOML has no such value."""
    table = {}
    for field in dataclasses.fields(config):
        value = _plain(getattr(config, field.name))
        if WRITTEN_AS in field.metadata:
            value = field.metadata[WRITTEN_AS](value)
        if value is not None:
            table[field.name] = value
    return table


def identity(config: Any, *, run: Path | None = None) -> dict[str, Any]:
    """Return the settings that identify a run of a stage, as plain tables.

    A field whose metadata is `LATER` is left out at its default: it was added after runs had
    finished without it. Of one whose metadata has `KNOWN_BY` only that part counts. Paths inside
    the folder `run` become "@...", wherever that folder lies, so that a run can be moved.
    """
    tables: dict[str, Any] = _portable(to_tables(config), f"{run}/" if run else None)
    _drop_later(tables, config)
    return tables


def to_toml(tables: Mapping[str, Any]) -> str:
    """Return TOML text of nested tables and lists of tables."""
    lines: list[str] = []
    _write_table(lines, tables, prefix="")
    return "\n".join(lines).strip() + "\n"


def _value(hint: Any, value: Any, *, where: str, path: Callable[[str], Path]) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        inner = [arg for arg in args if arg is not type(None)]
        return _value(inner[0], value, where=where, path=path)
    if origin is Literal:
        if value not in args:
            raise RecipeError(
                f"{where} must be one of {', '.join(map(repr, args))}, got {shown(value)}"
            )
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise RecipeError(f"{where} must be a list, got {shown(value)}")
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(
                _value(args[0], v, where=f"{where}[{i}]", path=path) for i, v in enumerate(value)
            )
        if len(args) != len(value):
            raise RecipeError(f"{where} must have {len(args)} entries, got {shown(value)}")
        return tuple(_value(a, v, where=where, path=path) for a, v in zip(args, value, strict=True))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise RecipeError(f"{where} must be a table, got {shown(value)}")
        return build(hint, value, where=where, path=path)
    if hint is Path and isinstance(value, str):
        return path(value)
    return _scalar(hint, value, where=where)


def _scalar(hint: Any, value: Any, *, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise RecipeError(
            f"{where} must be of type {getattr(hint, '__name__', hint)}, got {shown(value)}"
        )
    return value


def _override(tables: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"an override must look like section.key=value, got {shown(override)}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word is a string: --set run.device=cpu
    *parents, last = key.strip().split(".")
    table: Any = tables
    for parent in parents:
        if isinstance(table, list):
            table = table[_index(parent, table, override)]
        else:
            table = table.setdefault(parent, {})
        if not isinstance(table, dict | list):
            raise RecipeError(f"override {shown(override)}: {parent} is not a section")
    if isinstance(table, list):
        table[_index(last, table, override)] = value
    else:
        table[last] = value


def _index(text: str, table: list[Any], override: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) >= len(table):
        raise RecipeError(
            f"override {shown(override)}: expected a number below {len(table)}, got {text!r}"
        )
    return int(text)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_tables(value)
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _write_table(lines: list[str], table: Mapping[str, Any], *, prefix: str) -> None:
    nested = {k: v for k, v in table.items() if isinstance(v, Mapping)}
    lists = {
        k: v
        for k, v in table.items()
        if isinstance(v, list) and v and all(isinstance(e, Mapping) for e in v)
    }
    for key, value in table.items():
        if key not in nested and key not in lists:
            lines.append(f"{_toml_key(key)} = {_toml_value(value)}")
    for key, value in nested.items():
        lines.extend(["", f"[{prefix}{_toml_key(key)}]"])
        _write_table(lines, value, prefix=f"{prefix}{_toml_key(key)}.")
    for key, entries in lists.items():
        for entry in entries:
            lines.extend(["", f"[[{prefix}{_toml_key(key)}]]"])
            _write_table(lines, entry, prefix=f"{prefix}{_toml_key(key)}.")


def _drop_later(table: dict[str, Any], config: Any) -> None:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if field.metadata.get("later") and value == default:
            table.pop(field.name, None)
        elif KNOWN_BY in field.metadata:
            table[field.name] = field.metadata[KNOWN_BY](value)
        elif dataclasses.is_dataclass(value):
            _drop_later(table[field.name], value)
        elif isinstance(value, tuple):
            for item, entry in zip(value, table[field.name], strict=True):
                if dataclasses.is_dataclass(item):
                    _drop_later(entry, item)


def _portable(value: Any, run: str | None) -> Any:
    if isinstance(value, Mapping):
        return {key: _portable(item, run) for key, item in value.items()}
    if isinstance(value, list):
        return [_portable(item, run) for item in value]
    if run and isinstance(value, str) and value.startswith(run):
        return "@" + value[len(run) :]
    return value


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml_value(key)


def _toml_value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(v) for v in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # a JSON string is a TOML basic string, except for DEL, which TOML needs escaped
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)  # floats need a point or an exponent, as repr gives
