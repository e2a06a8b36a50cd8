"""The names that other tools give to the fields of a training record, and what was read as what.

sentence-transformers   anchor, positive, negative (triplets), or negative_1, negative_2, …
FlagEmbedding           query, pos (a list), neg (a list), pos_scores and neg_scores
Tevatron                query, positive_passages, negative_passages: lists of {docid, title, text}

Case, "-" and blanks for "_", a plural and a number at the end make no difference, and a text may
stand for a list of one. A row with several positives becomes a record for each of them. The
fields of culet's own records (`culet.data.records`) come before all others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from culet.files.rows import RawRow, raw_rows
from culet.files.unique_json import parse_json

if TYPE_CHECKING:
    from culet.data.reading import Reading

Role = Literal["query", "positive", "negatives"]

KNOWN_NAMES = (
    "query (or anchor), positive (or pos, positive_passages) and negatives (or negative, neg, "
    "negative_1, …, negative_passages)"
)

_LIST = r"s?(_?(passage|document|doc|text)s?)?_?\d*"
_ROLES: tuple[tuple[Role, re.Pattern[str]], ...] = (
    ("query", re.compile("query|anchor")),
    ("positive", re.compile("pos(itive)?" + _LIST)),
    ("negatives", re.compile("(hard_?)?neg(ative)?" + _LIST)),
)
# a line without such a key is taken as it is, without parsing it twice
_SUSPECT = re.compile(
    rb'"\s*(?:anchor|query|(?:(?:hard[_\- ]?)?neg|pos)[a-z0-9_\- ]*)\s*"\s*:', re.IGNORECASE
)
_OWN_KEY = re.compile(rb'"(?:query|positive|negatives)"')


def role_of(name: str) -> Role | None:
    """Return what a field is read as, None for one that is no text of a pair."""
    plain = re.sub(r"[\s\-]+", "_", name.strip().lower())
    return next((role for role, known in _ROLES if known.fullmatch(plain)), None)


def record_rows(paths: Iterable[Path], *, reading: Reading | None = None) -> Iterator[RawRow]:
    """Yield the rows of training data with their fields under culet's own names.

    Rows that are no pairs come as they are, bad ones too: whoever reads them says what is wrong.

    Args:
        paths: Files or folders, as for `culet.files.rows.data_files`.
        reading: Is given the names that were read, and which columns of a table are read at all;
            without it all are.
    """
    for raw in raw_rows(paths, columns=reading):
        for line in own_names(raw.json, reading):
            yield RawRow(raw.path, raw.line, line)


def own_names(line: bytes, reading: Reading | None = None) -> list[bytes]:
    """Return the records of a row of JSON under culet's own names: one for each positive."""
    if all(_OWN_KEY.match(key.group()) for key in _SUSPECT.finditer(line)):
        return [line]
    try:
        value = parse_json(line)
    except (ValueError, RecursionError):
        return [line]
    if not isinstance(value, dict):
        return [line]
    names: dict[Role, list[str]] = {role: [] for role in get_args(Role)}
    for name in value:
        role = role_of(name)
        if role is not None and name != role:
            names[role].append(name)
    names["query"] = [] if value.get("query") is not None else names["query"][:1]
    names["positive"] = [] if value.get("positive") is not None else names["positive"]
    names["negatives"].sort(key=_number_last)
    if not any(names.values()) or (value.get("query") is None and not names["query"]):
        return [line]  # without a query, "pos" may be a part of speech
    for role, found in names.items():
        if reading is not None and found:
            own = [role] if role == "negatives" and value.get(role) is not None else []
            reading.renamed(role, [*own, *found])
    return [json.dumps(record).encode() for record in _records(value, names)]


def _records(value: dict[str, Any], names: dict[Role, list[str]]) -> Iterator[dict[str, Any]]:
    used = {name for role in names for name in names[role]}
    record = {key: item for key, item in value.items() if key not in used}
    if names["query"]:
        record["query"] = value[names["query"][0]]
    given = value.get("negatives")
    if names["negatives"] and isinstance(given, list | None):
        negatives = [passage for name in names["negatives"] for passage in _passages(value[name])]
        record["negatives"] = [*(given or []), *negatives]
    positives = [passage for name in names["positive"] for passage in _passages(value[name])]
    if not positives:
        yield record | {name: value[name] for name in names["positive"]}
    for positive in positives:
        title = {}
        if isinstance(positive, dict):
            title = {"title": positive["title"]} if "title" in positive else {}
            positive = positive["text"]
        yield {**record, "positive": positive, **title}


def _passages(value: Any) -> list[Any]:
    """Return the texts of a field, those with a title as {"title", "text"}.

    What is no text stays as it is: whoever reads it names it.
    """
    items = value if isinstance(value, list) else [] if value is None else [value]
    return [_passage(item) if isinstance(item, dict) else item for item in items]


def _passage(item: dict[str, Any]) -> Any:
    text, title = item.get("text"), item.get("title")
    if not isinstance(title, str) or not title.strip():
        return text
    if text is None or (isinstance(text, str) and not text.strip()):
        return title
    return {"title": title, "text": text}


def _number_last(name: str) -> tuple[str, int]:
    stem = name.rstrip("0123456789")
    return stem, int(name[len(stem) :] or 0)


def names_expected(row: dict[str, Any]) -> str:
    """Return which fields a row without a pair has, and which are looked for."""
    return f"the row has {', '.join(map(str, row)) or 'no fields'}; culet reads {KNOWN_NAMES}"
