"""Training data written or graded by a language model behind an OpenAI-compatible endpoint.

One of three jobs, see `culet.data.endpoints.synthesis`:

[<stage>.queries]         rows of documents → pairs of a query and its document
[<stage>.grades]          pairs and their negatives → grades, which the miner can fuse
[<stage>.classification]  labels → texts with labels, as training rows

Every answer but an empty one is kept in a file beside the stage's folder under the hash of its
question: a stopped run asks only what it has not asked yet, and so does one with other settings
where questions are the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice, tee
from pathlib import Path
from typing import Any

from culet.data.endpoints.chat import ChatAnswer, ChatClient, ChatEndpoint
from culet.data.endpoints.synthesis import (
    By,
    ClassificationConfig,
    QueriesConfig,
    classification_rows,
    drawn_examples,
    example_question,
    grade_question,
    list_question,
    query_question,
    read_example,
    read_grade,
    read_list,
    read_queries,
)
from culet.data.ledger import LEDGER, UNSTATED, LedgerEntry, ledger_of, write_ledger
from culet.data.prepare.chunks import Row, parse_row
from culet.data.prepare.examine import Tally, cut
from culet.data.records import data_files, raw_rows, stream_records
from culet.errors import InputError, Interrupted, RecipeError
from culet.files import fingerprint
from culet.files.atomic import new_file
from culet.files.settings import identity, to_tables
from culet.stages.estimate import Context, Estimate
from culet.stages.folder import StageFolder
from culet.terminal.progress import Progress

Rows = Iterator[dict[str, Any]]


@dataclass(frozen=True)
class PairGradesConfig:
    """Grades of pairs and of their negatives.

    Attributes:
        by: Ways of asking, each a ranking of its own: Gemini Embedding fuses two.
    """

    by: tuple[By, ...] = ("relevance", "likelihood")

    def __post_init__(self) -> None:
        if not self.by or len(set(self.by)) < len(self.by):
            raise RecipeError(f"grades.by must name one or more ways, each once; got {self.by}")


@dataclass(frozen=True)
class GenerateConfig:
    """One job for a language model.

    Attributes:
        endpoint: Whom to ask.
        inputs: Files or folders of rows: documents (or pairs, whose positives are the documents)
            for `queries`, pairs for `grades`; none for `classification`.
        limit: Rows of the inputs that are used; 0 uses all.
        queries: Ask for queries.
        grades: Ask for grades.
        classification: Ask for texts with labels.
        licence: What the ledger says of the result; that of the inputs if left out.
        cache: File of answers; beside the stage's folder if left out.
    """

    endpoint: ChatEndpoint
    inputs: tuple[Path, ...] = ()
    limit: int = 0
    queries: QueriesConfig | None = None
    grades: PairGradesConfig | None = None
    classification: ClassificationConfig | None = None
    licence: str | None = None
    cache: Path | None = None

    def __post_init__(self) -> None:
        jobs = [self.queries, self.grades, self.classification]
        if sum(job is not None for job in jobs) != 1:
            raise RecipeError("give one table of queries, grades and classification")
        if (self.classification is None) != bool(self.inputs):
            raise RecipeError("queries and grades need inputs, classification takes none")
        if self.limit < 0:
            raise RecipeError(f"limit must not be negative, got {self.limit}; 0 uses all rows")


@dataclass
class _Account:
    """What happens on the way: rows used, answers of no use, rows that went."""

    used: int = 0
    tally: Tally = field(default_factory=Tally)

    def count_unusable(self, what: str, answer: ChatAnswer) -> None:
        """Count an answer of no use; an empty one by itself, which another run asks for again."""
        self.tally.add("unanswered" if answer.empty else "unusable", example=_shown(what, answer))


def run(
    config: GenerateConfig,
    *,
    out: Path,
    name: str = "generate",
    device: str = "cpu",
    say: Callable[[str], None] = print,
) -> Path:
    """Do the job and return the folder of the rows.

    Args:
        config: The job.
        out: The stage's folder.
        name: What messages call the stage, and the source in the rows.
        device: Not used; the work is done elsewhere.
        say: Takes lines for the person watching.

    Raises:
        InputError: If a row is bad, or the endpoint refuses or fails; what it answered is kept.
        Interrupted: After Ctrl-C; what it answered is kept.
    """
    folder = StageFolder(
        out, fingerprint=_fingerprint(config, out.parent), settings={name: to_tables(config)}
    )
    data = folder.path / "data"
    if folder.announced(name, say):
        return data
    cache = config.cache or out.with_name(f"{out.name}-answers.sqlite")
    endpoint = ChatClient(config.endpoint, cache)
    account = _Account()
    written = 0
    try:
        with (
            new_file(data / "rows.jsonl") as aside,
            aside.open("w", encoding="utf-8") as file,
            Progress(f"{name}: asking {config.endpoint.model}", unit="rows", show=None) as progress,
        ):
            for row in _rows(config, endpoint, account, name):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                written += 1
                progress.advance(1, paid=endpoint.cost.paid, cached=endpoint.cost.cached)
    except KeyboardInterrupt:
        raise Interrupted(f"{name}: stopped; run the same again to go on") from None
    if not written:
        (data / "rows.jsonl").unlink()
        raise _none_usable(name, config.endpoint.model, cache, account.tally)
    _write_papers(config, folder, account, endpoint, name=name, written=written)
    say(_summary(name, written, account, endpoint))
    folder.finish({"rows": written})
    return data


def estimate(config: GenerateConfig, context: Context) -> Estimate:
    """Return what is known of what a model will write: nothing."""
    return Estimate()


def _rows(config: GenerateConfig, endpoint: ChatClient, account: _Account, name: str) -> Rows:
    """Return the rows of the job, as answers come in."""
    if config.queries is not None:
        made = _queries(_inputs(config, account), config.queries, endpoint, account)
        if config.queries.min_grade:
            made = _graded(made, config.queries.min_grade, endpoint, account)
    elif config.grades is not None:
        return _grades(config, config.grades, endpoint, account)
    else:
        assert config.classification is not None
        made = _classified(config.classification, endpoint, account)
    return (row | {"source": name, "made_by": config.endpoint.model} for row in made)


def _inputs(config: GenerateConfig, account: _Account) -> Iterator[Row]:
    def rows() -> Iterator[Row]:
        for path in config.inputs:
            for file in data_files(path):
                for line, raw in raw_rows(file, also=None):
                    yield parse_row(raw, f"{file}:{line}")

    for row in islice(rows(), config.limit or None):
        account.used += 1
        yield row


def _queries(
    rows: Iterable[Row], config: QueriesConfig, endpoint: ChatClient, account: _Account
) -> Rows:
    documents, shown = tee(rows)
    questions = (query_question(row.positive, config, lang=row.lang) for row in shown)
    for row, answer in zip(documents, endpoint.answers(questions), strict=True):
        queries = read_queries(answer.text, config)
        if queries is None:
            account.count_unusable(row.origin, answer)
        for query in queries or ():
            lang = {} if row.lang is None else {"lang": row.lang}
            yield {"query": query, "positive": row.positive} | lang


def _graded(rows: Rows, lowest: int, endpoint: ChatClient, account: _Account) -> Rows:
    """Pass on rows whose own grade is high enough; those without a grade as well."""
    kept, shown = tee(rows)
    questions = (grade_question(row["query"], row["positive"]) for row in shown)
    for row, answer in zip(kept, endpoint.answers(questions), strict=True):
        grade = read_grade(answer.text)
        if grade is None:
            account.tally.add("ungraded", example=_shown(row["query"], answer))
            yield row
        elif grade >= lowest:
            yield row | {"grade": grade}
        else:
            example = {key: cut(row[key]) for key in ("query", "positive")}
            account.tally.add("low grade", example=example | {"grade": str(grade)})


def _grades(
    config: GenerateConfig, grades: PairGradesConfig, endpoint: ChatClient, account: _Account
) -> Rows:
    def wanted() -> Iterator[tuple[str, str, By]]:
        for record, _ in islice(stream_records(config.inputs), config.limit or None):
            account.used += 1
            for document in (record.positive, *record.negatives):
                for by in grades.by:
                    yield record.query, document, by

    kept, shown = tee(wanted())
    questions = (grade_question(query, document, by) for query, document, by in shown)
    for (query, document, by), answer in zip(kept, endpoint.answers(questions), strict=True):
        grade = read_grade(answer.text)
        if grade is None:
            account.count_unusable(query, answer)
        else:
            yield {"query": query, "document": document, "grade": grade, "by": by}


def _classified(config: ClassificationConfig, endpoint: ChatClient, account: _Account) -> Rows:
    (listed,) = endpoint.answers([list_question(config)])
    subjects = read_list(listed.text)
    if not subjects:
        account.count_unusable("list", listed)
        return
    wanted = drawn_examples(subjects, config)
    questions = (
        example_question(label, subject, number, config)
        for number, (label, subject) in enumerate(wanted)
    )
    texts = []
    for (label, subject), answer in zip(wanted, endpoint.answers(questions), strict=True):
        account.used += 1
        text = read_example(answer.text)
        if text is None:
            account.count_unusable(subject, answer)
        else:
            texts.append((label, text))
    yield from classification_rows(texts, config)


def _write_papers(
    config: GenerateConfig,
    folder: StageFolder,
    account: _Account,
    endpoint: ChatClient,
    *,
    name: str,
    written: int,
) -> None:
    report = {
        "rows": {"used": account.used, "written": written},
        "answers": dict(account.tally.counts),
        "examples": account.tally.examples,
        "cost": endpoint.cost.report(),
    }
    with new_file(folder.path / "report.json") as aside:
        text = json.dumps(report, indent=1, ensure_ascii=False)
        aside.write_text(text + "\n", encoding="utf-8")
    entries = ledger_of(config.inputs) or [LedgerEntry(name)]
    licences = dict.fromkeys(entry.licence for entry in entries)
    own = LedgerEntry(
        name,
        licence=config.licence or ", ".join(licences) or UNSTATED,
        origin=", ".join(entry.source for entry in entries if entry.source != name),
        made_by=config.endpoint.model,
        rows_read=account.used,
        rows_kept=written,
    )
    who = dict.fromkeys(entry.attribution for entry in entries if entry.attribution)
    write_ledger(folder.path / LEDGER, [replace(own, attribution=", ".join(who))])


def _summary(name: str, written: int, account: _Account, endpoint: ChatClient) -> str:
    words = f"{name}: {written:,} rows; {endpoint.cost.summary()}"
    for reason, count in account.tally.counts.items():
        words += f", {count:,} {reason}"
    return words


def _shown(what: str, answer: ChatAnswer) -> dict[str, str]:
    return {"for": cut(what), "answer": cut(answer.text)}


def _none_usable(name: str, model: str, cache: Path, tally: Tally) -> InputError:
    words = f"{name}: no answer of {model} could be used; {cache} holds what it said"
    if unusable := tally.examples.get("unusable"):
        words += f", the last: {unusable[-1]['answer']!r}"
    if empty := tally.counts["unanswered"]:
        words += (
            f"; empty answers, which are not kept: {empty:,}; run again to ask again, with a "
            "larger max_tokens if the model thinks before it answers"
        )
    return InputError(words)


def _fingerprint(config: GenerateConfig, run: Path) -> str:
    settings = identity(config, run=run) | {"endpoint": config.endpoint.asked_with()}
    settings.pop("cache", None)
    files = [file for path in config.inputs for file in data_files(path)]
    return fingerprint.of_settings([settings, fingerprint.of_files(files)])
