"""Texts and links between translations, from folders of corpora, without what evaluations hold.

Writes texts.parquet (key, text, lang, source) and links.parquet (en, xx, lang, source), where `en`
and `xx` are keys of texts that say the same in English and in another language.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from culet.data.prepare.contamination import OverlapIndex
from culet.evaluate import list_tasks

MAX_CHARS = 180  # half as many of Chinese, Japanese and Korean characters
LONGEST_TRANSLATED = 2.2 * MAX_CHARS  # cutting would break the alignment of longer ones
BATCH = 4096
NO_SENTENCES = ("freedict", "thesauri")  # entries that mean little without their English side
_CJK = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]")
_STOPS = (". ", "? ", "! ", "。", "; ")

Text = tuple[str, str, str]  # text, language, source
Link = tuple[int, int, str, str]  # English key, other key, other language, source


def shortened(text: str) -> str:
    """Return the text on one line, cut at a sentence or a word where it is long."""
    text = " ".join(text.split())
    limit = MAX_CHARS if len(_CJK.findall(text[:60])) < 15 else MAX_CHARS // 2
    if len(text) <= limit:
        return text
    head = text[:limit]
    stop = max(head.rfind(mark) for mark in _STOPS)
    return head[: stop + 1] if stop > limit // 3 else head.rpartition(" ")[0] or head


def key_of(text: str) -> int:
    """Return a 63-bit hash of the text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def read_rows(corpora: Iterable[Path]) -> Iterator[tuple[str, str | None, str, str]]:
    """Yield (query, positive, lang, source) of every row; positive is None for a lone text."""
    for corpus in corpora:
        for name in ("pairs.jsonl.gz", "text.jsonl.gz"):
            if not (corpus / name).exists():
                continue
            with gzip.open(corpus / name, "rt", encoding="utf-8") as lines:
                for row in map(json.loads, lines):
                    text = row.get("text", row.get("query"))
                    yield text, row.get("positive"), row["lang"], row["source"]


class Gathered:
    """Texts by key and the links among them."""

    def __init__(self) -> None:
        self.texts: dict[int, Text] = {}
        self.links: list[Link] = []

    def add_row(self, query: str, positive: str | None, lang: str, source: str) -> None:
        """Add a row's texts, and a link if one side translates the other into English."""
        first, _, second = lang.partition("-")
        if positive is None:
            self._add(query, lang, source)
        elif lang.startswith("code"):
            self._add(query, "en", source)
            self._add(positive, lang, source)
        elif first == "en" and second:
            self._link(query, positive, second, source)
        elif second == "en":
            self._link(positive, query, first, source)
        elif not second or source.split("/")[0] not in NO_SENTENCES:
            self._add(query, lang, source)
            self._add(positive, lang, source)

    def _add(self, text: str, lang: str, source: str) -> int | None:
        text = shortened(text)
        if len(text) < 2:
            return None
        key = key_of(text)
        self.texts.setdefault(key, (text, lang, source))
        return key

    def _link(self, english: str, other: str, lang: str, source: str) -> None:
        if len(english) > LONGEST_TRANSLATED:
            return
        en, xx = self._add(english, "en", source), self._add(other, lang, source)
        if en is not None and xx is not None and en != xx:
            self.links.append((en, xx, lang, source))

    def drop(self, keys: set[int]) -> None:
        """Remove texts and the links that need them; links are left once each."""
        self.texts = {key: text for key, text in self.texts.items() if key not in keys}
        once = {(link[0], link[1]): link for link in reversed(self.links)}
        self.links = [
            link for link in once.values() if link[0] in self.texts and link[1] in self.texts
        ]


def texts_of_tasks(folders: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Yield (task, text) of every text of the evaluation tasks in the folders."""
    for folder in folders:
        for info in list_tasks(folder):
            for path in sorted(Path(info.folder).rglob("*.jsonl*")):
                opened = gzip.open if path.suffix == ".gz" else open
                with opened(path, "rt", encoding="utf-8") as lines:
                    for row in map(json.loads, lines):
                        for value in row.values():
                            values = value if isinstance(value, list) else [value]
                            yield from ((info.name, v) for v in values if isinstance(v, str))


def contaminated(texts: dict[int, Text], tasks: Iterable[Path]) -> set[int]:
    """Return the keys of texts that share a run of words, or all words, with a task."""
    index = OverlapIndex(texts_of_tasks(tasks), words=13, shortest=5)
    keys, bad = list(texts), set()
    for start in range(0, len(keys), BATCH):
        part = keys[start : start + BATCH]
        bad |= {part[hit.text] for hit in index.hits([texts[key][0] for key in part])}
    return bad


def write(gathered: Gathered, work: Path) -> None:
    """Write both tables into the folder."""
    columns = [list(gathered.texts), *map(list, zip(*gathered.texts.values(), strict=True))]
    table = pa.table(dict(zip(("key", "text", "lang", "source"), columns, strict=True)))
    pq.write_table(table, work / "texts.parquet")
    links = list(zip(*gathered.links, strict=True)) or [(), (), (), ()]
    types = (pa.int64(), pa.int64(), pa.string(), pa.string())
    arrays = [pa.array(values, kind) for values, kind in zip(links, types, strict=True)]
    pq.write_table(pa.table(arrays, ["en", "xx", "lang", "source"]), work / "links.parquet")


def main() -> None:
    """Gather the texts of the corpora named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpora", nargs="+", type=Path, help="folders that `culet corpus` wrote")
    parser.add_argument("--tasks", nargs="+", type=Path, required=True, help="folders of tasks")
    parser.add_argument("--work", type=Path, required=True, help="folder of all steps' results")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    gathered = Gathered()
    for row in read_rows(args.corpora):
        gathered.add_row(*row)
    bad = contaminated(gathered.texts, args.tasks)
    gathered.drop(bad)
    write(gathered, args.work)
    print(f"{len(gathered.texts):,} texts, {len(gathered.links):,} links; {len(bad):,} left out")


if __name__ == "__main__":
    main()
