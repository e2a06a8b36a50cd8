"""Build `demo/data` from a folder of training corpora: python demo/build_data.py CORPORA.

CORPORA holds one folder a source with `pairs.jsonl.gz` (query, positive, negatives, lang, source)
and `source.json` (packages, licence). The same corpora and seed give the same bytes. What is made:

    data/prefinetune/*.jsonl.gz   pairs without negatives, one file a kind
    data/finetune/*.jsonl.gz      pairs with hard negatives, one file a kind
    data/eval/<Task>/             held-out evaluation tasks, with a task.json each
    data/manifest.json            rows, bytes, sha256, languages and sources of every file
    LICENCES.md                   every source with its packages and licence

The script refuses to write when a text of the evaluation also stands in training.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from building.corpora import SOURCES, read_rows
from building.held_out import Blocklist, overlap, split
from building.licences import licences, write_licences
from building.mixture import File, build_files, tidy
from building.task import Task
from building.tasks import build_tasks

HERE = Path(__file__).resolve().parent
SEED = 20


def main() -> None:
    """Read the corpora, split, draw, check, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpora", type=Path, help="folder of the training corpora")
    parser.add_argument("--out", type=Path, default=HERE, help="folder that gets data/")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--scale", type=int, default=1, help="times as many training rows")
    options = parser.parse_args()
    build(options.corpora, out=options.out, seed=options.seed, scale=options.scale)


def build(corpora: Path, *, out: Path, seed: int, scale: int = 1) -> None:
    """Write `out/data` and `out/LICENCES.md`."""
    rows = read_rows(corpora)
    held, rest = split(rows, seed=seed)
    tasks = build_tasks(held, rows)
    blocklist = Blocklist((text for task in tasks for text in task.texts()), rows)
    clean = list(blocklist.clean(rest))
    print(f"{len(rows)} rows: {len(held)} held out, {len(rest) - len(clean)} linked to evaluation")
    files = [
        File(file.stage, file.name, tidy(file.records)) for file in build_files(clean, scale=scale)
    ]
    leaked = overlap(
        (text for file in files for record in file.records for text in record_texts(record)),
        (text for task in tasks for text in task.texts()),
    )
    if leaked:
        sys.exit(
            f"{len(leaked)} texts are in training and evaluation, such as {sorted(leaked)[:3]}"
        )
    data = out / "data"
    entries = [write_file(data, file) for file in files]
    entries += [write_task(data, task, licences(corpora, task.sources)) for task in tasks]
    manifest = {"seed": seed, "scale": scale, "files": entries}
    (data / "manifest.json").write_text(json.dumps(manifest, ensure_ascii=False, indent=1) + "\n")
    write_licences(out / "LICENCES.md", corpora=corpora, sources=SOURCES)


def record_texts(record: dict[str, Any]) -> list[str]:
    """Return every text of a training record."""
    texts = [record["query"], record["positive"], *record.get("negatives", [])]
    return texts + ([record["title"]] if "title" in record else [])


def write_file(data: Path, file: File) -> dict[str, Any]:
    """Write one training file and return its entry of the manifest."""
    path = data / file.stage / f"{file.name}.jsonl.gz"
    write_gzip(path, jsonl(file.records))
    return describe(path, data) | {
        "rows": len(file.records),
        "languages": dict(Counter(record["lang"] for record in file.records).most_common()),
        "sources": dict(Counter(record["source"] for record in file.records).most_common()),
        "tasks": dict(Counter(record["task"] for record in file.records).most_common()),
    }


def write_task(data: Path, task: Task, licence: str) -> dict[str, Any]:
    """Write one evaluation task and return its entry of the manifest."""
    folder = data / "eval" / task.name
    for name, records in task.files.items():
        if name.endswith("qrels"):
            lines = ["\t".join(map(str, record.values())) for record in records]
            write_gzip(folder / f"{name}.tsv.gz", "\n".join(["\t".join(records[0]), *lines]) + "\n")
        else:
            write_gzip(folder / f"{name}.jsonl.gz", jsonl(records))
    about = task_json(task, licence)
    (folder / "task.json").write_text(json.dumps(about, ensure_ascii=False, indent=1) + "\n")
    paths = sorted(folder.rglob("*.gz"))
    return {
        "path": f"eval/{task.name}",
        "bytes": sum(path.stat().st_size for path in paths),
        "sha256": {str(path.relative_to(folder)): digest(path) for path in paths},
        "rows": about["n"],
        "texts": sum(1 for _ in task.texts()),
        "languages": list(task.languages),
        "sources": list(task.sources),
    }


def task_json(task: Task, licence: str) -> dict[str, Any]:
    """Return what `task.json` says of the task."""
    counts = {name: len(records) for name, records in task.files.items()}
    main_files = ("queries", "test", "pairs")
    about: dict[str, Any] = {
        "name": task.name,
        "mteb_name": None,
        "type": task.type,
        "metric": task.metric,
        "languages": list(task.languages),
        "description": task.description,
        "domain": ["Programming" if task.name == "CodeRetrieval" else "Written"],
        "sources": list(task.sources),
        "licence": licence,
        "split": "held out",
        "n": sum(size for name, size in counts.items() if name.split("/")[-1] in main_files),
        "subsets": [],
        "difference_from_mteb": "not an MTEB task: drawn from the bundled data's own sources",
        "fidelity": "not-mteb",
        "files": sorted({name.split("/")[-1] for name in task.files}),
    }
    if task.type == "retrieval":
        about["n_corpus"] = sum(size for name, size in counts.items() if name.endswith("corpus"))
    return about | task.extra


def jsonl(records: Iterable[dict[str, Any]]) -> str:
    """Return the records one a line."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def write_gzip(path: Path, text: str) -> None:
    """Write a gzip file without name or time, so that equal texts give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=buffer, mode="wb", compresslevel=9, mtime=0) as file:
        file.write(text.encode())
    path.write_bytes(buffer.getvalue())


def digest(path: Path) -> str:
    """Return the sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def describe(path: Path, data: Path) -> dict[str, Any]:
    """Return place, size and sha256 of a file."""
    size = path.stat().st_size
    return {"path": str(path.relative_to(data)), "bytes": size, "sha256": digest(path)}


if __name__ == "__main__":
    main()
