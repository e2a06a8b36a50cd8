"""Classification and clustering: texts with the label their source gives them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from building.corpora import Row
from building.task import BODY, Task
from building.text import clip, is_latin, normalise, weight

# Applications of clearly different purposes; training never pairs their messages by application.
APPS = {
    "vlc": "media player",
    "evolution": "mail",
    "inkscape": "vector graphics",
    "libvirt": "virtual machines",
    "gramps": "genealogy",
    "gnucash": "accounting",
    "pidgin": "chat",
    "freeciv-core": "strategy game",
    "gcc-12": "compiler",
    "phpmyadmin": "databases",
}
_CLASSIFICATION = {"samples_per_label": 8, "n_experiments": 10, "is_cross_validation": False}
_CLUSTERING = {
    "max_document_to_embed": None,
    "max_fraction_of_documents_to_embed": None,
    "max_documents_per_cluster": 16384,
    "n_clusters": 10,
    "k_mean_batch_size": 512,
}


def manual_classification(rows: Sequence[Row]) -> Task:
    """Section → the manual it comes from."""
    by_label: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.source.startswith("technical-docs/") and row.lang == "en" and is_latin(row.positive):
            by_label[row.source.split("/")[1]].append(clip(row.positive, BODY))
    train, test = _labelled(by_label, train=12, test=20)
    return Task(
        "ManualClassification",
        "classification",
        "accuracy",
        ("eng-Latn",),
        ("technical-docs",),
        "section of a technical manual -> which manual",
        {"train": train, "test": test},
        {"mteb_protocol": _CLASSIFICATION, "n_train": len(train), "labels": _labels(test)},
    )


def app_classification(rows: Sequence[Row]) -> Task:
    """Message in any language → the kind of program that shows it."""
    by_label: dict[str, list[str]] = defaultdict(list)
    for row, label in _messages({row.entity: row for row in rows}.values()):
        by_label[label].append(row.positive)  # one language a message, or train would tell test
    train, test = _labelled(by_label, train=16, test=30)
    return Task(
        "AppClassification",
        "classification",
        "accuracy",
        ("mul",),
        ("gettext-catalogues",),
        "translated message of a program, in any of some sixty languages -> the kind of program",
        {"train": train, "test": test},
        {"mteb_protocol": _CLASSIFICATION, "n_train": len(train), "labels": _labels(test)},
    )


def app_clustering(rows: Sequence[Row]) -> Task:
    """English message, grouped by the kind of program."""
    by_label: dict[str, list[str]] = defaultdict(list)
    for row, label in _messages(rows):
        by_label[label].append(row.query)
    _, test = _labelled(by_label, train=0, test=45)
    return Task(
        "AppClustering",
        "clustering",
        "v_measure",
        ("eng-Latn",),
        ("gettext-catalogues",),
        "message of a program in English -> the kind of program",
        {"test": test},
        {"mteb_protocol": _CLUSTERING, "labels": _labels(test)},
    )


def _messages(rows: Iterable[Row]) -> Iterator[tuple[Row, str]]:
    for row in rows:
        label = APPS.get(row.source.removeprefix("gettext-catalogues/"))
        if label is not None and weight(row.query) >= 30:
            yield row, label


def _labelled(
    by_label: dict[str, list[str]], *, train: int, test: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return `train` and `test` rows a label; labels with too few distinct texts are left out."""
    chosen: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for label in sorted(by_label):
        distinct = list({normalise(text): text for text in reversed(by_label[label])}.values())
        if len(distinct) < train + test:
            continue
        for place, text in enumerate(distinct[: train + test]):
            chosen[0 if place < train else 1].append({"text": text, "label": label})
    return chosen


def _labels(records: Iterable[dict[str, Any]]) -> list[str]:
    return sorted({record["label"] for record in records})
