"""Training data written or graded by a language model behind an OpenAI-compatible endpoint.

One of three jobs, see `culet.data.endpoints.synthesis`:

[<stage>.queries]         rows of documents → pairs of a query and its document
[<stage>.grades]          pairs and their negatives → grades, which the miner can fuse
[<stage>.classification]  labels → texts with labels, as training rows

Every answer that is not empty is kept in a file beside the stage's folder, under a hash of its
question. A run that was stopped, or one with other settings, pays only for questions that have not
been answered yet.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice, tee
from pathlib import Path
from typing import Any, TypeVar

from culet.data.endpoints.chat import ChatAnswer, ChatClient, ChatEndpoint, Messages
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
from culet.data.field_names import record_rows
from culet.data.ledger import LEDGER, UNSTATED, LedgerEntry, ledger_of, write_ledger
from culet.data.prepare.chunks import PairOrText, pair_or_text
from culet.data.prepare.examine import RowTally, cut
from culet.data.records import stream_records
from culet.errors import InputError, Interrupted, RecipeError
from culet.files.atomic import new_file, write_json
from culet.files.settings import KNOWN_BY
from culet.stages.contract import Contract, Inputs, Job, of_records
from culet.stages.estimate import Context, Estimate
from culet.stages.folder import StageFolder
from culet.terminal.progress import Progress

Rows = Iterator[dict[str, Any]]
Subject = TypeVar("Subject")


@dataclass(frozen=True)
class PairGradesConfig:
    """Grades of pairs and of their negatives.

    Attributes:
        by: Ways of asking. Each gives a ranking of its own; Gemini Embedding fuses two.
    """

    by: tuple[By, ...] = ("relevance", "likelihood")

    def __post_init__(self) -> None:
        if not self.by or len(set(self.by)) < len(self.by):
            raise RecipeError(f"grades.by must name one or more ways, each once; got {self.by}")


@dataclass(frozen=True)
class GenerateConfig:
    """One job for a language model: exactly one of `queries`, `grades` and `classification`.

    Attributes:
        endpoint: The language model.
        inputs: Files or folders of rows: documents (or pairs, whose positives are the documents)
            for `queries`, pairs for `grades`; none for `classification`.
        limit: How many rows of the inputs to use; 0 uses all.
        queries: Ask for queries of documents.
        grades: Ask for grades of pairs.
        classification: Ask for texts with labels.
        licence: Licence of the result in the ledger; that of the inputs if left out.
        cache: File of answers; beside the stage's folder if left out.
    """

    endpoint: ChatEndpoint = field(metadata={KNOWN_BY: ChatEndpoint.asked_with})
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


def run(config: GenerateConfig, folder: StageFolder, job: Job) -> None:
    """Do the job and leave its rows, a report and a ledger.

    Raises:
        InputError: If a row is bad, or the endpoint refuses or fails; what it answered is kept.
        Interrupted: After Ctrl-C; what it answered is kept.
    """
    name, say = job.name, job.say
    data = folder.path / "data"
    cache = config.cache or folder.answers
    asked = _Job(config, ChatClient(config.endpoint, cache))
    try:
        written = _write_rows(asked, data / "rows.jsonl", name)
    except KeyboardInterrupt:
        raise Interrupted(f"{name}: stopped; run the same again to go on") from None
    if not written:
        (data / "rows.jsonl").unlink()
        raise _none_usable(name, config.endpoint.model, cache, asked.tally)
    _write_report(asked, folder.path / "report.json", written)
    write_ledger(folder.path / LEDGER, [_ledger_entry(asked, name, written)])
    counts = "".join(f", {count:,} {reason}" for reason, count in asked.tally.counts.items())
    say(f"{name}: {written:,} rows; {asked.client.cost.summary()}{counts}")
    folder.finish({"rows": written})


def estimate(config: GenerateConfig, context: Context) -> Estimate:
    """Return an empty estimate: what a model will write is not known before."""
    return Estimate()


class _Job:
    """Rows from answers, and an account of the rows used and of what was of no use."""

    def __init__(self, config: GenerateConfig, client: ChatClient) -> None:
        self.config = config
        self.client = client
        self.used = 0
        self.tally = RowTally()

    def rows(self) -> Rows:
        """Return the rows of the job, as answers come in."""
        if self.config.queries is not None:
            made = self._queries(self.config.queries)
            lowest = self.config.queries.min_grade
            return self._graded(made, lowest) if lowest else made
        if self.config.grades is not None:
            return self._grades(self.config.grades)
        assert self.config.classification is not None  # __post_init__
        return self._classified(self.config.classification)

    def _answered(
        self, subjects: Iterable[Subject], question: Callable[[Subject], Messages]
    ) -> Iterator[tuple[Subject, ChatAnswer]]:
        """Yield each subject with the answer to the question about it."""
        kept, shown = tee(subjects)
        return zip(kept, self.client.answers(map(question, shown)), strict=True)

    def _count_unusable(self, what: str, answer: ChatAnswer) -> None:
        """Count an answer of no use; an empty one by itself, which another run asks for again."""
        self.tally.add("unanswered" if answer.empty else "unusable", example=_shown(what, answer))

    def _documents(self) -> Iterator[PairOrText]:
        for raw in record_rows(self.config.inputs):
            yield pair_or_text(raw.json, raw.origin)

    def _used(self, rows: Iterable[Subject]) -> Iterator[Subject]:
        for row in islice(rows, self.config.limit or None):
            self.used += 1
            yield row

    def _queries(self, config: QueriesConfig) -> Rows:
        def question(row: PairOrText) -> Messages:
            return query_question(row.positive, config, lang=row.lang)

        for row, answer in self._answered(self._used(self._documents()), question):
            queries = read_queries(answer.text, config)
            if queries is None:
                self._count_unusable(row.origin, answer)
            for query in queries or ():
                lang = {} if row.lang is None else {"lang": row.lang}
                yield {"query": query, "positive": row.positive} | lang

    def _graded(self, rows: Rows, lowest: int) -> Rows:
        """Pass on rows whose own grade is high enough; those without a grade as well."""

        def question(row: dict[str, Any]) -> Messages:
            return grade_question(row["query"], row["positive"])

        for row, answer in self._answered(rows, question):
            grade = read_grade(answer.text)
            if grade is None:
                self.tally.add("ungraded", example=_shown(row["query"], answer))
                yield row
            elif grade >= lowest:
                yield row | {"grade": grade}
            else:
                example = {key: cut(row[key]) for key in ("query", "positive")}
                self.tally.add("low grade", example=example | {"grade": str(grade)})

    def _grades(self, config: PairGradesConfig) -> Rows:
        wanted = (
            (record.query, document, by)
            for record, _ in self._used(stream_records(self.config.inputs))
            for document in (record.positive, *record.negatives)
            for by in config.by
        )
        for subject, answer in self._answered(wanted, lambda subject: grade_question(*subject)):
            query, document, by = subject
            grade = read_grade(answer.text)
            if grade is None:
                self._count_unusable(query, answer)
            else:
                yield {"query": query, "document": document, "grade": grade, "by": by}

    def _classified(self, config: ClassificationConfig) -> Rows:
        (listed,) = self.client.answers([list_question(config)])
        subjects = read_list(listed.text)
        if not subjects:
            self._count_unusable("list", listed)
            return

        def question(wanted: tuple[int, tuple[str, str]]) -> Messages:
            number, (label, subject) = wanted
            return example_question(label, subject, number, config)

        texts = []
        wanted = enumerate(drawn_examples(subjects, config))
        for (_, (label, subject)), answer in self._answered(wanted, question):
            self.used += 1
            text = read_example(answer.text)
            if text is None:
                self._count_unusable(subject, answer)
            else:
                texts.append((label, text))
        yield from classification_rows(texts, config)


def _write_rows(job: _Job, path: Path, name: str) -> int:
    """Write the rows of a job, all or none, and return how many they are."""
    model, cost, written = job.config.endpoint.model, job.client.cost, 0
    origin = {} if job.config.grades is not None else {"source": name, "made_by": model}
    with (
        new_file(path) as aside,
        aside.open("w", encoding="utf-8") as file,
        Progress(f"{name}: asking {model}", unit="rows", show=None) as progress,
    ):
        for row in job.rows():
            file.write(json.dumps(row | origin, ensure_ascii=False) + "\n")
            written += 1
            progress.advance(1, paid=cost.paid, cached=cost.cached)
    return written


def _write_report(job: _Job, path: Path, written: int) -> None:
    report = {
        "rows": {"used": job.used, "written": written},
        "answers": dict(job.tally.counts),
        "examples": job.tally.examples,
        "cost": job.client.cost.report(),
    }
    write_json(path, report)


def _ledger_entry(job: _Job, name: str, written: int) -> LedgerEntry:
    entries = ledger_of(job.config.inputs) or [LedgerEntry(name)]
    licences = dict.fromkeys(entry.licence for entry in entries)
    credited = dict.fromkeys(entry.attribution for entry in entries if entry.attribution)
    return LedgerEntry(
        name,
        licence=job.config.licence or ", ".join(licences) or UNSTATED,
        attribution=", ".join(credited),
        origin=", ".join(entry.source for entry in entries if entry.source != name),
        made_by=job.config.endpoint.model,
        rows_read=job.used,
        rows_kept=written,
    )


def _shown(what: str, answer: ChatAnswer) -> dict[str, str]:
    return {"for": cut(what), "answer": cut(answer.text)}


def _none_usable(name: str, model: str, cache: Path, tally: RowTally) -> InputError:
    words = f"{name}: no answer of {model} could be used; {cache} holds its answers"
    if unusable := tally.examples.get("unusable"):
        words += f", the last: {unusable[-1]['answer']!r}"
    if empty := tally.counts["unanswered"]:
        words += (
            f"; empty answers, which are not kept: {empty:,}; run again to ask again, with a "
            "larger max_tokens if the model thinks before it answers"
        )
    return InputError(words)


def reads(config: GenerateConfig, inputs: Inputs) -> list[str]:
    """Return the content of the rows."""
    return [of_records(inputs, *config.inputs)]


STAGE = Contract(
    config=GenerateConfig,
    gives={"data": "data"},
    run=run,
    reads=reads,
    estimate=estimate,
    unimportant=("cache",),
    records=(),
    optional=("cache",),
)
