"""A small set of English texts, pairs and tasks for `adaptation.py`, cut with a fixed seed.

    python benchmarks/adaptation_data.py --texts FILE... --pairs FILE... --tasks FOLDER... --out DIR

Leaves DIR/text.jsonl (English prose), DIR/pairs-*.jsonl (one file each, English, short),
DIR/held-out.jsonl (more pairs) and DIR/tasks/* (some hundred rows of each task). Pairs with a text
that stands in a task are left out, and so are hard negatives.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]
HELD_OUT = 32  # pairs of each file that no arm is trained on: by them learning rates are chosen
LONGEST = 400  # characters of a text of a pair; the few longer ones are left out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=Path, nargs="+", required=True, help="{'text', 'lang'}")
    parser.add_argument("--pairs", type=Path, nargs="+", required=True, help="training pairs")
    parser.add_argument("--tasks", type=Path, nargs="+", required=True, help="task folders")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=200, help="of a task, about")
    parser.add_argument("--most-pairs", type=int, default=6000, help="of a file")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    seen: set[str] = set()
    for task in args.tasks:
        rows = cut(task, args.out / "tasks" / task.name, args.rows, random.Random(args.seed))
        texts = {text for row in rows for text in strings(row)}
        print(f"{task.name}: {len(texts)} texts, {sum(map(len, texts)):,} characters")
        seen |= texts
    texts = [{"text": row["text"]} for path in args.texts for row in english(path)]
    write(args.out / "text.jsonl", [row for row in texts if row["text"] not in seen])
    held_out: list[Row] = []
    for path in args.pairs:
        kept = [row for row in english(path) if short(row) and not seen & set(strings(row))]
        kept = [{k: v for k, v in row.items() if k != "negatives"} for row in kept]
        kept = sample(kept, args.most_pairs + HELD_OUT, random.Random(args.seed))
        held_out += kept[:HELD_OUT]
        kept = kept[HELD_OUT:]
        write(args.out / f"pairs-{path.parent.name}-{path.name.split('.')[0]}.jsonl", kept)
    write(args.out / "held-out.jsonl", held_out)


def cut(task: Path, out: Path, most: int, draw: random.Random) -> list[Row]:
    """Copy about so many rows of a task; return them."""
    out.mkdir(parents=True, exist_ok=True)
    info = json.loads((task / "task.json").read_text("utf-8"))
    info["mteb_name"], info["name"] = None, f"{info['name']}-cut"  # no score to compare with
    (out / "task.json").write_text(json.dumps(info, ensure_ascii=False, indent=1) + "\n", "utf-8")
    kind = info["type"]
    if kind == "retrieval":
        return retrieval(task, out, most, draw)
    if kind == "classification":
        return classification(task, out, most, draw)
    names = {"sts": "pairs", "pair_classification": "pairs", "bitext": "pairs"}
    name = names.get(kind, "test")
    rows = list(rows_of(task / f"{name}.jsonl.gz"))
    share = most // 20 if kind == "reranking" else most
    chosen = sorted(draw.sample(range(len(rows)), min(share, len(rows))))
    kept = [rows[i] for i in chosen]
    write(out / f"{name}.jsonl", kept)
    return kept


def retrieval(task: Path, out: Path, most: int, draw: random.Random) -> list[Row]:
    """Keep a third of `most` queries, what answers them, and others up to `most` documents."""
    queries = list(rows_of(task / "queries.jsonl.gz"))
    queries = draw.sample(queries, min(most // 3, len(queries)))
    wanted = {row["id"] for row in queries}
    with gzip.open(task / "qrels.tsv.gz", "rt", encoding="utf-8") as file:
        head, *judged = list(csv.reader(file, delimiter="\t"))
    judged = [row for row in judged if row[0] in wanted]
    right = {row[1] for row in judged}
    corpus = list(rows_of(task / "corpus.jsonl.gz"))
    other = [row["id"] for row in corpus if row["id"] not in right]
    right |= set(draw.sample(other, max(0, min(len(other), most - len(right)))))
    documents = [row for row in corpus if row["id"] in right]
    write(out / "queries.jsonl", queries)
    write(out / "corpus.jsonl", documents)
    lines = ["\t".join(row) + "\n" for row in [head, *judged]]
    (out / "qrels.tsv").write_text("".join(lines), encoding="utf-8")
    return queries + documents


def classification(task: Path, out: Path, most: int, draw: random.Random) -> list[Row]:
    """Keep eight training rows a label, of some labels, and as many test rows in all."""
    train, test = (list(rows_of(task / f"{name}.jsonl.gz")) for name in ("train", "test"))
    labels = sorted({row["label"] for row in train})
    labels = draw.sample(labels, min(len(labels), most // 16))
    few, many = (
        [row for label in labels for row in sample(of(rows, label), 8, draw)]
        for rows in (train, test)
    )
    write(out / "train.jsonl", few)
    write(out / "test.jsonl", many)
    return few + many


def of(rows: list[Row], label: str) -> list[Row]:
    return [row for row in rows if row["label"] == label]


def sample(rows: list[Row], most: int, draw: random.Random) -> list[Row]:
    return draw.sample(rows, min(most, len(rows)))


def english(path: Path) -> Iterator[Row]:
    return (row for row in rows_of(path) if row.get("lang", "en") == "en")


def short(row: Row) -> bool:
    return max(map(len, strings({k: row[k] for k in ("query", "positive")}))) <= LONGEST


def strings(row: Row) -> Iterator[str]:
    """Yield the texts of a row, without ids and labels."""
    for key, value in row.items():
        if key in ("id", "label", "score", "lang", "source", "task"):
            continue
        items = value if isinstance(value, list) else [value]
        yield from (item for item in items if isinstance(item, str))


def rows_of(path: Path) -> Iterator[Row]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def write(path: Path, rows: Iterable[Row]) -> None:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
    if path.parent.name != "tasks" and not (path.parent / "task.json").exists():
        print(f"{path.name}: {len(lines):,} rows, {sum(map(len, lines)):,} characters")


if __name__ == "__main__":
    main()
