"""Evaluation tasks read from a folder: task.json beside rows in JSON lines, gzipped or not.

| type | files | fields |
|---|---|---|
| sts, pair_classification | pairs.jsonl | a, b, score or label (0 or 1) |
| bitext | pairs.jsonl | a, b |
| classification | train.jsonl, test.jsonl | text, label |
| clustering | test.jsonl | text, label |
| retrieval | corpus.jsonl, queries.jsonl, qrels.tsv | id, title, text; id, text; three columns |
| the same in BEIR's layout | qrels/test.tsv, no task.json | _id in place of id |
| reranking | test.jsonl | query, positive, negative, grades (optional) |

A task whose task.json lists `subsets` holds a `subset` field in every row, or, for retrieval,
one folder per subset. Subsets never mix: each is scored alone, and the task's score is their mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from culet.errors import InputError
from culet.files.fields import (
    any_string_of,
    choice_of,
    id_of,
    label_of,
    number_of,
    strings_of,
    wrong_field,
)
from culet.files.file_names import check_file_name
from culet.files.rows import Row, numbered_lines, read_rows, text_lines
from culet.files.unique_json import parse_json

WHOLE = "default"
"""The name of the one subset of a task that lists none, as in MTEB."""


@dataclass(frozen=True)
class Pairs:
    """Texts in two columns; `target` is the score or label of each pair."""

    a: tuple[str, ...]
    b: tuple[str, ...]
    target: tuple[float, ...] = ()


@dataclass(frozen=True)
class LabelledTexts:
    """Texts with one label each."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class ClassificationData:
    """The rows a classifier may be trained on, and the rows it is scored on."""

    train: LabelledTexts
    test: LabelledTexts


@dataclass(frozen=True)
class RetrievalData:
    """A corpus, queries, and for each query the judged gain of some documents by their ids."""

    document_ids: tuple[str, ...]
    titles: tuple[str, ...]
    documents: tuple[str, ...]
    query_ids: tuple[str, ...]
    queries: tuple[str, ...]
    qrels: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class RerankingData:
    """Queries, each with its own candidates; `grades` are the gains of the positives."""

    queries: tuple[str, ...]
    positives: tuple[tuple[str, ...], ...]
    negatives: tuple[tuple[str, ...], ...]
    grades: tuple[tuple[int, ...], ...]


SubsetData = Pairs | LabelledTexts | ClassificationData | RetrievalData | RerankingData


@dataclass(frozen=True)
class TaskInfo:
    """The content of task.json: a task without its rows.

    `protocol` holds the settings of MTEB's evaluator (`mteb_protocol`), `prompt` the instruction
    text for its queries. `comparable` is whether a score may be reported under the MTEB name.
    """

    name: str
    type: str
    metric: str
    folder: Path
    subsets: tuple[str, ...] = (WHOLE,)
    split: str = "test"
    languages: tuple[str, ...] = ()
    domain: tuple[str, ...] = ()
    mteb_name: str | None = None
    dataset_revision: str | None = None
    comparable: bool = False
    prompt: str | None = None
    protocol: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EvalTask:
    """A task and the rows of each of its subsets, in the order they are scored."""

    info: TaskInfo
    subsets: Mapping[str, SubsetData]

    @property
    def name(self) -> str:
        """The name of the task."""
        return self.info.name


def list_tasks(folder: Path | str) -> list[TaskInfo]:
    """Read the task.json of every task folder inside a folder, by name.

    Raises:
        InputError: when the folder holds none, or one cannot be read.
    """
    inside = sorted(Path(folder).glob("*"))
    found = [path for path in inside if (path / "task.json").is_file() or _is_beir(path)]
    if not found:
        raise InputError(
            f"{folder}: expected a folder of task folders, each with a task.json or in BEIR's "
            "layout, found none; give the folder above the tasks"
        )
    return [read_task_info(path) for path in found]


def _is_beir(folder: Path) -> bool:
    """Return whether a folder is a data set in BEIR's layout, which has no task.json."""
    corpus = any((folder / f"corpus.jsonl{end}").is_file() for end in ("", ".gz"))
    return corpus and (folder / "qrels").is_dir() and not (folder / "task.json").exists()


def read_task_info(folder: Path | str) -> TaskInfo:
    """Read the task.json of one task folder.

    Raises:
        InputError: when it is missing, not JSON, lacks a key or names an unknown type.
    """
    path = Path(folder) / "task.json"
    if _is_beir(Path(folder)):
        return TaskInfo(Path(folder).name, "retrieval", "ndcg_at_10", Path(folder))
    try:
        raw = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; a task folder needs a task.json") from None
    except ValueError as error:
        raise InputError(f"{path}: expected JSON in UTF-8, got {error}; repair the file") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path}: expected one JSON object, got {type(raw).__name__}")
    for key in ("name", "type", "metric"):
        if not isinstance(raw.get(key), str):
            raise InputError(f"{path}: expected a string under {key!r}, got {raw.get(key)!r}")
    if raw["type"] not in TASK_TYPES:
        raise InputError(
            f"{path}: unknown task type {raw['type']!r}; the known ones are {', '.join(TASK_TYPES)}"
        )
    info = _info(raw, Path(folder))
    # Results and the folders of subsets are named after them.
    names = (info.name, *([] if info.mteb_name is None else [info.mteb_name]), *info.subsets)
    for name in names:
        check_file_name(name, str(path))
    return info


def _info(raw: dict[str, Any], folder: Path) -> TaskInfo:
    protocol = dict(raw.get("mteb_protocol") or {})
    prompt = protocol.pop("prompt", None)
    if isinstance(prompt, dict):
        prompt = prompt.get("query")
    fidelity = str(raw.get("fidelity") or "")
    subsets = tuple(subset["name"] for subset in raw.get("subsets") or ())
    return TaskInfo(
        name=raw["name"],
        type=raw["type"],
        metric=raw["metric"],
        folder=folder,
        subsets=subsets or (WHOLE,),
        split=raw.get("split") or "test",
        languages=tuple(raw.get("languages") or ()),
        domain=tuple(raw.get("domain") or ()),
        mteb_name=raw.get("mteb_name"),
        dataset_revision=raw.get("mteb_revision"),
        comparable=raw.get("mteb_name") is not None and fidelity.startswith(("exact", "near")),
        prompt=prompt,
        protocol=protocol,
    )


def read_task(folder: Path | str, *, subsets: Collection[str] | None = None) -> EvalTask:
    """Read a task folder whole, or only the named subsets of it.

    Queries without judgements are left out, as MTEB leaves them out.

    Raises:
        InputError: for a file or row that does not follow the format, naming file and line.
    """
    info = read_task_info(folder)
    wanted = chosen_subsets(info, subsets)
    if info.type == "retrieval":
        read = {name: _retrieval(info, name) for name in wanted}
        return EvalTask(info, read)
    files = {name: _by_subset(info, name) for name in _FILES[info.type]}
    data: dict[str, SubsetData] = {}
    for subset in wanted:
        data[subset] = _PARSERS[info.type](*(rows.get(subset, []) for rows in files.values()))
        if not all(rows.get(subset) for rows in files.values()):
            raise InputError(
                f"{info.folder}: expected rows of the subset {subset!r} in "
                f"{', '.join(files)}, found none; add them or drop the subset from task.json"
            )
    return EvalTask(info, data)


def chosen_subsets(info: TaskInfo, subsets: Collection[str] | None) -> tuple[str, ...]:
    """Return the wanted subsets of the task; all of them for None or a task without subsets.

    Raises:
        InputError: when the task has subsets and none is among the wanted.
    """
    if subsets is None or info.subsets == (WHOLE,):
        return info.subsets
    kept = tuple(name for name in info.subsets if name in set(subsets))
    if not kept:
        raise InputError(
            f"{info.name}: expected at least one of its subsets {', '.join(info.subsets[:10])}"
            f"{' ...' if len(info.subsets) > 10 else ''}, got {', '.join(subsets)}"
        )
    return kept


def _by_subset(info: TaskInfo, name: str) -> dict[str, list[Row]]:
    grouped: dict[str, list[Row]] = {}
    for row in read_rows([_packed_or_plain(info.folder / f"{name}.jsonl")]):
        subset = WHOLE
        if info.subsets != (WHOLE,):
            subset = choice_of(row, "subset", info.subsets)
        grouped.setdefault(subset, []).append(row)
    return grouped


def _pairs(rows: list[Row]) -> Pairs:
    return Pairs(
        tuple(any_string_of(row, "a") for row in rows),
        tuple(any_string_of(row, "b") for row in rows),
    )


def _scored_pairs(rows: list[Row]) -> Pairs:
    plain = _pairs(rows)
    return Pairs(plain.a, plain.b, tuple(number_of(row, "score") for row in rows))


def _labelled_pairs(rows: list[Row]) -> Pairs:
    plain = _pairs(rows)
    return Pairs(plain.a, plain.b, tuple(choice_of(row, "label", (0, 1)) for row in rows))


def _labelled(rows: list[Row]) -> LabelledTexts:
    texts = tuple(any_string_of(row, "text") for row in rows)
    return LabelledTexts(texts, tuple(label_of(row, "label") for row in rows))


def _classification(train: list[Row], test: list[Row]) -> ClassificationData:
    return ClassificationData(_labelled(train), _labelled(test))


def _reranking(rows: list[Row]) -> RerankingData:
    positives = tuple(strings_of(row, "positive", least=1) for row in rows)
    return RerankingData(
        tuple(any_string_of(row, "query") for row in rows),
        positives,
        tuple(strings_of(row, "negative", least=0) for row in rows),
        tuple(_gains(row, len(right)) for row, right in zip(rows, positives, strict=True)),
    )


def _retrieval(info: TaskInfo, subset: str) -> RetrievalData:
    folder = info.folder if subset == WHOLE else info.folder / subset
    corpus: dict[str, tuple[str, str]] = {}
    for row in read_rows([_packed_or_plain(folder / "corpus.jsonl")]):
        title = str(row.value.get("title") or "")
        text = any_string_of(row, "text") if row.value.get("text") is not None or not title else ""
        corpus[_id_of(row, taken=corpus)] = (title, text)
    queries: dict[str, str] = {}
    for row in read_rows([_packed_or_plain(folder / "queries.jsonl")]):
        queries[_id_of(row, taken=queries)] = any_string_of(row, "text")
    qrels = _qrels(_judgements(folder, info.split), queries=queries, documents=corpus)
    judged = {ident: text for ident, text in queries.items() if ident in qrels}
    if not corpus or not judged:
        raise InputError(f"{folder}: expected documents and judged queries, found none")
    return RetrievalData(
        document_ids=tuple(corpus),
        titles=tuple(title for title, _ in corpus.values()),
        documents=tuple(text for _, text in corpus.values()),
        query_ids=tuple(judged),
        queries=tuple(judged.values()),
        qrels=qrels,
    )


def _id_of(row: Row, *, taken: Container[str]) -> str:
    """Return the id of a document or a query, under `id` or, as in BEIR, under `_id`."""
    return id_of(row, "_id" if "_id" in row.value and "id" not in row.value else "id", taken=taken)


def _judgements(folder: Path, split: str) -> Path:
    """Return the file of judgements: qrels.tsv, or qrels/<split>.tsv as in BEIR."""
    given = any((folder / f"qrels.tsv{end}").exists() for end in ("", ".gz"))
    beir = (folder / "qrels").is_dir() and not given
    return folder / (f"qrels/{split}.tsv" if beir else "qrels.tsv")


def _packed_or_plain(path: Path) -> Path:
    """Return a file of a task, or the gzipped one where only that is there."""
    packed = path.with_name(path.name + ".gz")
    if not path.exists() and not packed.exists():
        raise InputError(f"{path}: no such file, nor {packed.name}; the task needs one of them")
    return path if path.exists() else packed


def _qrels(
    path: Path, *, queries: Container[str], documents: Container[str]
) -> dict[str, dict[str, int]]:
    """Read tab-separated judgements (query-id, corpus-id, score), below a header line if any."""
    qrels: dict[str, dict[str, int]] = {}
    path = _packed_or_plain(path)
    lines = text_lines(numbered_lines(path), str(path))
    for number, (origin, line) in enumerate(lines):
        columns = line.rstrip("\r\n").split("\t")
        if number == 0 and not (columns[0] in queries and columns[1:2] != ["corpus-id"]):
            continue
        if len(columns) != 3:
            raise InputError(f"{origin}: expected 3 tab-separated columns, got {len(columns)}")
        query, document, text = columns
        if query not in queries:
            raise InputError(f"{origin}: expected the id of a query, got {query!r}")
        if document not in documents:
            raise InputError(f"{origin}: expected the id of a document, got {document!r}")
        try:
            gain = float(text)
        except ValueError:
            gain = math.nan
        qrels.setdefault(query, {})[document] = _whole(gain, origin)
    return qrels


def _gains(row: Row, number: int) -> tuple[int, ...]:
    """Return one whole gain above zero for each positive; all 1 where a row has no grades."""
    value = row.value.get("grades")
    if value is None:
        return (1,) * number
    if not isinstance(value, list) or len(value) != number:
        raise wrong_field(row, "grades", f"a list of {number} gains, one for each positive")
    gains = tuple(_whole(float(gain), row.origin) for gain in value)
    if min(gains) < 1:
        raise wrong_field(row, "grades", "gains above zero")
    return gains


def _whole(gain: float, origin: str) -> int:
    if not math.isfinite(gain) or gain != int(gain):
        raise InputError(f"{origin}: expected a whole number as gain, got {gain}")
    return int(gain)


_FILES = {
    "sts": ("pairs",),
    "pair_classification": ("pairs",),
    "bitext": ("pairs",),
    "classification": ("train", "test"),
    "clustering": ("test",),
    "reranking": ("test",),
}
_PARSERS: dict[str, Callable[..., SubsetData]] = {
    "sts": _scored_pairs,
    "pair_classification": _labelled_pairs,
    "bitext": _pairs,
    "classification": _classification,
    "clustering": _labelled,
    "reranking": _reranking,
}
TASK_TYPES: tuple[str, ...] = ("retrieval", *_PARSERS)
