"""The passes of a preparation over its rows, each resumable; see `culet.stages.prepare`.

Rows are never held between passes: they are read again, and what is known of them is looked up by
their number.
"""

from __future__ import annotations

import gzip
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO

from culet.data.endpoints.chat import ChatClient
from culet.data.endpoints.synthesis import GradesConfig, grade_question, read_grade
from culet.data.prepare.chunks import PairOrText, Position, RowChunk, chunks, pair_or_text
from culet.data.prepare.consistency import (
    ConsistencyConfig,
    PlacedPair,
    Pool,
    TextEncoder,
    consistent,
    draw,
)
from culet.data.prepare.dedup import remove_exact, remove_near
from culet.data.prepare.examine import VERDICTS, Examiner, cut, shown
from culet.data.prepare.minhash import NearConfig
from culet.data.prepare.survey import SAVE_SECONDS, Survey
from culet.data.prepare.workers import examined
from culet.errors import InputError
from culet.files.atomic import new_file
from culet.terminal.progress import Progress

_JUDGED = 1024  # rows at a time where each takes long, so that a stop loses little


class Passes:
    """Passes over the rows of some files, in one order.

    Args:
        files: The files.
        owners: The source of each file.
        state: Folder for what interrupted passes resume from.
        name: What messages call the run.
        say: Takes lines for the person watching.
        examples: Examples kept of each source and reason; of duplicates, of each reason.

    Attributes:
        survey: What is known of the rows so far.
    """

    def __init__(
        self,
        files: Sequence[Path],
        owners: Sequence[str],
        *,
        state: Path,
        name: str,
        say: Callable[[str], None],
        examples: int,
    ) -> None:
        self.files = files
        self.owners = owners
        self.survey = Survey(state, keep=examples)
        self._state = state
        self._name = name
        self._say = say
        self._examples = examples

    def examine(self, make_examiner: Callable[[], Examiner], *, workers: int) -> None:
        """Judge each row by itself; leave what finds duplicates."""
        survey = self.survey
        with survey.doing("examine") as todo:
            if todo:
                if survey.position.number:
                    self._say(f"{self._name}: resuming after {survey.position.number:,} rows")
                examiner = make_examiner()
                with self._progress("reading", None, survey.position.number) as progress:
                    owned = (
                        (chunk, self.owners[chunk.file])
                        for chunk in chunks(self.files, survey.position)
                    )
                    keep = survey.tally.keep
                    with closing(examined(owned, examiner, workers=workers, keep=keep)) as stream:
                        for chunk, facts, tally in stream:
                            survey.tally.join(tally)
                            ended = chunk.after.file > chunk.file
                            survey.append(facts, chunk.after, file_ended=ended)
                            progress.advance(len(chunk.raw), file=chunk.path.name)
        survey.load_verdicts()
        if not len(survey.verdicts):
            raise InputError(f"{self._name}: the sources hold no row at all")

    def remove_duplicates(self, *, exact: bool, near: NearConfig | None) -> None:
        """Remove rows that an earlier one is equal to, then those it is nearly equal to."""
        survey = self.survey
        with survey.doing("exact") as todo:
            if todo and exact:
                with self._progress("exact duplicates", len(survey.verdicts)) as progress:
                    found = remove_exact(
                        survey.keys,
                        survey.verdicts,
                        code=VERDICTS["exact"],
                        folder=self._state / "exact",
                        advance=progress.advance,
                        examples=self._examples,
                    )
                survey.notes["exact"] = {"examples": found.examples}
        with survey.doing("near") as todo:
            if todo and near is not None:
                with self._progress("near duplicates", len(survey.verdicts)) as progress:
                    found = remove_near(
                        survey.signatures,
                        survey.verdicts,
                        near,
                        code=VERDICTS["near"],
                        folder=self._state / "near",
                        advance=progress.advance,
                        examples=self._examples,
                    )
                survey.notes["near"] = {
                    "examples": found.examples,
                    "uncompared": found.uncompared,
                }

    def check_consistency(
        self, config: ConsistencyConfig, load_encoder: Callable[[], TextEncoder]
    ) -> None:
        """Remove pairs whose document is not among the nearest to their query."""
        survey = self.survey
        with survey.doing("consistency") as todo:
            if not todo:
                return
            encoder = load_encoder()
            path = self._state / "pool.npz"
            if not path.exists():
                pairs = (
                    pair
                    for chunk in chunks(self.files, Position())
                    for pair in self._pairs(chunk, config.sources)
                )
                drawn = draw(pairs, config)
                self._say(
                    f"{self._name}: embedding {len(drawn.drawn()):,} documents to compare with"
                )
                Pool.embedded(drawn, encoder, config).save(path)
            pool = Pool.load(path)
            saved = time.monotonic()
            total, done = len(survey.verdicts), survey.position.number
            with self._progress("consistency", total, done) as progress:
                for chunk in chunks(self.files, survey.position, max_rows=_JUDGED):
                    some = self._pairs(chunk, config.sources)
                    for pair, stays in zip(
                        some, consistent(some, pool, encoder, config), strict=True
                    ):
                        if not stays:
                            self._remove(pair, chunk, "inconsistent")
                    survey.position = chunk.after
                    if time.monotonic() - saved > SAVE_SECONDS:
                        survey.save(verdicts="consistency-unfinished")
                        saved = time.monotonic()
                    progress.advance(len(chunk.raw))

    def check_grades(self, config: GradesConfig, endpoint: ChatClient) -> None:
        """Remove pairs that a language model grades low; those it does not grade stay."""
        survey = self.survey
        with survey.doing("grades") as todo:
            if not todo:
                return
            notes = survey.notes.setdefault("grades", {"graded": {}, "unusable": 0, "cost": {}})
            total, done = len(survey.verdicts), survey.position.number
            before = dict(notes["cost"])
            with self._progress("grading", total, done) as progress:
                for chunk in chunks(self.files, survey.position, max_rows=_JUDGED):
                    pairs = self._pairs(chunk, config.sources)
                    questions = (grade_question(pair.query, pair.document) for pair in pairs)
                    for pair, answer in zip(pairs, endpoint.answers(questions), strict=True):
                        grade = read_grade(answer.text)
                        if grade is None:
                            notes["unusable"] += 1
                            survey.tally.add("ungraded", example={"answer": answer.text[:160]})
                            continue
                        graded = notes["graded"]
                        graded[str(grade)] = graded.get(str(grade), 0) + 1
                        if grade < config.min_grade:
                            self._remove(pair, chunk, "low grade", grade=str(grade))
                        progress.advance(0, paid=round(endpoint.cost.paid, 4))
                    notes["cost"] = {
                        name: before.get(name, 0) + value
                        for name, value in asdict(endpoint.cost).items()
                    }
                    survey.position = chunk.after
                    survey.save(verdicts="grades-unfinished")
                    progress.advance(len(chunk.raw))

    def _remove(self, pair: PlacedPair, chunk: RowChunk, reason: str, **more: str) -> None:
        self.survey.verdicts[pair.place] = VERDICTS[reason]
        example = {
            "row": chunk.origin(pair.place - chunk.first),
            "query": cut(pair.query),
            "positive": cut(pair.document),
        }
        source = self.owners[chunk.file]
        self.survey.tally.add("removed", source, reason, example=example | more)

    def write(self, data: Path, rejects: Path, *, shard_rows: int, compress: bool) -> None:
        """Write the rows that are left, and bad lines apart; both in shards."""
        survey = self.survey
        with survey.doing("write") as todo:
            if not todo:
                return
            if not survey.position.number:
                shutil.rmtree(data, ignore_errors=True)
                shutil.rmtree(rejects, ignore_errors=True)
                survey.notes["shards"] = {}
            total, done = len(survey.verdicts), survey.position.number
            with self._progress("writing", total, done) as progress:
                stream = chunks(self.files, survey.position)
                chunk = next(stream, None)
                while chunk is not None:
                    chunk = self._shard(
                        chunk, stream, (data, rejects), shard_rows, compress, progress
                    )
                    survey.save()

    def _shard(
        self,
        chunk: RowChunk | None,
        stream: Iterator[RowChunk],
        folders: tuple[Path, Path],
        shard_rows: int,
        compress: bool,
        progress: Progress,
    ) -> RowChunk | None:
        """Write one shard of the chunk's source; return the first chunk beyond it."""
        assert chunk is not None
        survey, source, rows, wanted = self.survey, self.owners[chunk.file], 0, self._wanted()
        shards = survey.notes["shards"]
        name = f"{shards.get(source, 0):05d}.jsonl" + (".gz" if compress else "")
        rejects: IO[bytes] | None = None
        with ExitStack() as stack:
            file = stack.enter_context(_new_lines(folders[0] / source / name))
            while chunk is not None and self.owners[chunk.file] == source:
                for place, raw in enumerate(chunk.raw):
                    number = chunk.first + place
                    verdict = survey.verdicts[number]
                    if verdict == VERDICTS["bad line"]:
                        if rejects is None:
                            path = folders[1] / source / name
                            rejects = stack.enter_context(_new_lines(path))
                        rejects.write(_reject(raw, chunk.origin(place)))
                        continue
                    if verdict != 0 and number not in wanted:
                        continue
                    row = pair_or_text(raw, chunk.origin(place))
                    if number in wanted:
                        survey.notes.setdefault("examples", {})[str(number)] = shown(row)
                    if verdict == 0:
                        file.write(raw + b"\n")
                        rows += 1
                        survey.tally.add("language", row.lang or "not declared")
                survey.position = chunk.after
                progress.advance(len(chunk.raw))
                chunk = next(stream, None)
                if rows >= shard_rows:
                    break
        if rows:
            shards[source] = shards.get(source, 0) + 1
        else:
            (folders[0] / source / name).unlink()
        return chunk

    def _pairs(self, chunk: RowChunk, sources: Sequence[str]) -> list[PlacedPair]:
        """Return the pairs of a chunk that are still there and to be judged."""
        if sources and self.owners[chunk.file] not in sources:
            return []
        found = []
        for place, row in self._remaining(chunk):
            if row.query is not None:
                found.append(PlacedPair(chunk.first + place, row.query, row.positive))
        return found

    def _remaining(self, chunk: RowChunk) -> Iterator[tuple[int, PairOrText]]:
        verdicts = self.survey.verdicts[chunk.first : chunk.after.number]
        for place in (verdicts == 0).nonzero()[0].tolist():
            yield place, pair_or_text(chunk.raw[place], chunk.origin(place))

    def _wanted(self) -> set[int]:
        notes = self.survey.notes
        return {
            number
            for reason in ("exact", "near")
            for pair in notes.get(reason, {}).get("examples", [])
            for number in pair
        }

    def _progress(self, what: str, total: int | None, done: int = 0) -> Progress:
        return Progress(f"{self._name}: {what}", total=total, done=done, unit="rows", show=None)


@contextmanager
def _new_lines(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file of lines to write to, whole under its name or not there."""
    with new_file(path) as aside, aside.open("wb") as raw:
        if path.suffix != ".gz":
            yield raw
            return
        # no name and no time inside: equal rows make equal files
        with gzip.GzipFile("", "wb", 5, raw, mtime=0) as file:
            yield file  # type: ignore[misc]


def _reject(raw: bytes, origin: str) -> bytes:
    """Return a line with what is wrong with another, and that line."""
    try:
        pair_or_text(raw, origin)
        error = f"{origin}: was not read alike before"
    except InputError as wrong:
        error = str(wrong)
    text = raw.decode("utf-8", "replace")
    return json.dumps({"error": error, "line": text}).encode() + b"\n"
