"""How stage mine finds the negatives of one source: texts, their vectors, the search, the rules."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from culet.data.batches.collate import record_prompts
from culet.data.mining.judges import Judge, ranked
from culet.data.mining.pair_index import PairIndex, build_index, open_index
from culet.data.mining.rules import choose, excluded, highest_allowed, within_margins
from culet.data.mining.tally import LOOKED_AT, MiningTally
from culet.data.records import Record, stream_records
from culet.embedder import Embedder
from culet.files.atomic import new_file
from culet.files.stores import TextStore, VectorStore
from culet.stages.contract import Job
from culet.stages.folder import StageFolder
from culet.terminal.progress import Progress
from culet.vectors.nearest import nearest

if TYPE_CHECKING:
    from culet.stages.mine import MineConfig, MineSource


class Miner:
    """Mines one source in steps, each of which can be resumed."""

    def __init__(
        self,
        config: MineConfig,
        source: MineSource,
        embedder: Embedder,
        judges: Sequence[Judge],
        folder: StageFolder,
        job: Job,
    ) -> None:
        self._config = config
        self._source = source
        self._embedder = embedder
        self._judges = judges
        self._device = job.device
        self._say = job.say
        self._name = f"{job.name} {source.label}"
        self._state = folder.state / source.label
        self._data = folder.path / "data" / source.label
        self._width = config.truncate_to or embedder.dim

    def run(self, whole: MiningTally) -> dict[str, Any]:
        """Mine what is not mined yet, add its counts to `whole` and return the source's report."""
        index = self._index()
        queries = self._vectors(index.queries, "queries")
        documents = self._vectors(index.documents, "documents")
        self._parts(index, queries, documents)
        tally = MiningTally()
        for path in sorted(self._state.glob("tally-*.json")):
            tally.add(MiningTally.read(path))
        report = tally.report() | {
            "queries": len(index.queries),
            "documents": int(index.candidates.sum()),
        }
        self._say(f"{self._name}: {tally.summary()}")
        if 2 * tally.without > tally.counts["records"]:
            warnings.warn(
                f"{self._name}: {tally.without:,} of {tally.counts['records']:,} records are "
                f"without a negative: {tally.why_without()}",
                stacklevel=2,
            )
        whole.add(tally)
        return report

    def _index(self) -> PairIndex:
        if (self._state / "index").exists():
            return open_index(self._state / "index")
        skipped: list[str] = []
        index = build_index(
            self._state / "index",
            [self._source.path],
            task=self._source.task,
            corpus=self._source.corpus,
            within=self._source.within,
            skip_bad=self._config.skip_bad_records,
            check=self._check,
            skipped=skipped,
        )
        if skipped:
            self._say(
                f"{self._name}: skipped {len(skipped)} bad records of {self._source.path}, "
                f"the first: {skipped[0]}"
            )
        return index

    def _check(self, record: Record) -> None:
        """Raise InputError if the embedder has no prompts for a record."""
        record_prompts(record, prompts=self._embedder.prompts, task=self._source.task)

    def _vectors(self, store: TextStore, what: str) -> VectorStore:
        """Return the vectors of a store, float16 [N, E], on disk, made now or earlier.

        They are appended window by window: a file of fewer rows than texts is resumed where it
        ends. Half precision moves a cosine by less than 0.0005.
        """
        path = self._state / f"{what}.f16"
        row = 2 * self._width
        done = path.stat().st_size // row if path.exists() else 0
        with (
            Progress(f"{self._name}: embedding", total=len(store), unit=what, done=done) as bar,
            path.open("ab") as file,
        ):
            file.truncate(done * row)
            for vectors in self._embed(store.since(done), what):
                file.write(vectors.astype(np.float16).tobytes())
                file.flush()
                os.fsync(file.fileno())  # else a crash of the machine may leave a run of zeros
                bar.advance(len(vectors))
        return VectorStore(path, self._width)

    def _embed(self, entries: Iterator[list[Any]], what: str) -> Iterator[np.ndarray]:
        """Yield the vectors of a store's entries; warnings about long texts are reported once."""
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always")
            for task, run in groupby(entries, key=lambda entry: entry[0]):
                if task is not None:
                    texts = (entry[-1] for entry in run)
                    yield from self._embedder.stream_query(
                        texts, task=task, truncate_to=self._width
                    )
                else:
                    pairs = ((entry[1], entry[2]) for entry in run)
                    yield from self._embedder.stream_document(pairs, truncate_to=self._width)
        if notes:
            self._say(f"{self._name}: {notes[0].message} ({len(notes)} such windows of {what})")

    def _parts(self, index: PairIndex, queries: VectorStore, documents: VectorStore) -> None:
        """Write the missing parts of the output."""
        skip_bad = self._config.skip_bad_records
        rows = stream_records([self._source.path], skip_bad=skip_bad, check=self._check)
        block, total = self._config.block_rows, len(index.query)
        self._data.mkdir(parents=True, exist_ok=True)
        with Progress(f"{self._name}: searching", total=total, unit="records") as bar:
            for first in range(0, total, block):
                part = list(islice(rows, block))
                path = self._data / f"part-{first // block:05d}.jsonl"
                tally_path = self._state / f"tally-{first // block:05d}.json"
                if not (path.exists() and tally_path.exists()):
                    found, tally = self._mine(part, first, index, queries, documents)
                    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
                    with new_file(path) as aside:
                        # an unpaired surrogate in a field that is passed on stays a JSON escape
                        aside.write_text(text, encoding="utf-8", errors="backslashreplace")
                    tally.write(tally_path)
                bar.advance(len(part))

    def _mine(
        self,
        part: list[Any],
        first: int,
        index: PairIndex,
        queries: VectorStore,
        documents: VectorStore,
    ) -> tuple[list[dict[str, Any]], MiningTally]:
        """Return the rows of one block with their negatives, and what was counted."""
        here, rules = slice(first, first + len(part)), self._config.rules
        query, right = index.query[here], documents[index.positive[here]]
        positive = np.einsum(
            "re,re->r", queries[query].astype(np.float32), right.astype(np.float32)
        )
        # with a ceiling per record each record is searched for, otherwise each distinct query
        asked, place = np.unique(query, return_inverse=True)
        if rules.below_margins:
            asked, place = query, np.arange(len(query))
        grouped = bool(self._source.within)
        scores, numbers, top = nearest(
            queries[asked].astype(np.float32),
            documents,
            depth=rules.depth,
            banned=index.banned(asked),
            query_groups=index.query_groups[asked] if grouped else None,
            groups=index.groups if grouped else None,
            candidates=None if index.candidates.all() else index.candidates,
            ceiling=highest_allowed(positive, rules) if rules.below_margins else None,
            block=self._config.block_documents,
            device=self._device,
        )
        scores, numbers, top = scores[place], numbers[place], top[place]
        keep = within_margins(scores, numbers, positive, rules)
        against = excluded(scores, positive, rules)
        tally, found = MiningTally(), []
        for i, (record, row) in enumerate(part):
            left, ungraded = self._ranked(record, numbers[i][keep[i]], index, scores[i][keep[i]])
            looked = numbers[i] >= 0
            rng = np.random.default_rng([self._config.seed, first + i])
            chosen = choose(left, self._config.rules, rng)
            value = dict(zip(numbers[i].tolist(), scores[i].tolist(), strict=True))
            tally.count(
                positive=float(positive[i]),
                nearest=float(top[i]),
                left=int(keep[i].sum()),
                negatives=[value[n] for n in chosen.tolist()],
                against={LOOKED_AT: int(looked.sum())}
                | {rule: int((looked & mask[i]).sum()) for rule, mask in against.items()}
                | ({"rescore": int(keep[i].sum()) - len(left)} if self._judges else {}),
                ungraded=ungraded,
            )
            texts = [index.documents[n][2] for n in chosen.tolist()]
            if written := self._row(row.value, texts):
                found.append(written)
        return found, tally

    def _ranked(
        self, record: Any, numbers: np.ndarray, index: PairIndex, scores: np.ndarray
    ) -> tuple[np.ndarray, int | None]:
        """Return the documents that judges leave, in their order, and how many have no grade."""
        if not self._judges or not len(numbers):
            return numbers, 0 if self._judges else None
        texts = [index.documents[n][2] for n in numbers.tolist()]
        places, ungraded = ranked(
            self._judges, self._config.rescore, record.query, record.positive, texts, scores
        )
        return numbers[places], ungraded

    def _row(self, row: dict[str, Any], mined: list[Any]) -> dict[str, Any] | None:
        """Return a record's line with its negatives, or None if it is to be left out."""
        if self._config.keep_given:
            by_text: dict[str, Any] = {}
            for one in [*(row.get("negatives") or []), *mined]:  # a given one may have a title
                by_text.setdefault(one["text"] if isinstance(one, dict) else one, one)
            mined = list(by_text.values())
        if not mined and self._config.drop_without:
            return None
        kept = {key: v for key, v in row.items() if key != "negatives"}
        return kept | {"negatives": mined} if mined else kept
