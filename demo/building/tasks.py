"""The bundled evaluation tasks, drawn from the held-out rows.

Draws follow `Row.order`, so the same corpora give the same tasks. There is no STS task: no source
grades the likeness of two texts, and an invented grade would measure the inventor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from building import labelled_tasks, matching_tasks, ranking_tasks
from building.corpora import Row
from building.held_out import translated_sections
from building.task import Task


def build_tasks(held: Iterable[Row], rows: Iterable[Row]) -> list[Task]:
    """Return all tasks, drawn from the held-out rows.

    `rows` are all rows: the translated headings among them are looked up wherever they fell, and
    blocked in training with the other texts of the tasks.
    """
    sections = translated_sections(rows)
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(held, key=Row.order):
        groups[row.group].append(row)
    return [
        ranking_tasks.docs_retrieval(groups["documents"]),
        ranking_tasks.code_retrieval(groups["code"]),
        ranking_tasks.definition_retrieval(
            groups["wordnet"] + groups["definitions"] + groups["ontologies"]
        ),
        ranking_tasks.package_retrieval(groups["documents"], groups["interface"]),
        ranking_tasks.cross_lingual_retrieval(sections, groups["documents"]),
        ranking_tasks.docs_reranking(groups["docs"]),
        ranking_tasks.term_reranking(groups["ontologies"]),
        matching_tasks.docs_bitext(groups["translations"]),
        matching_tasks.interface_bitext(groups["interface"]),
        matching_tasks.translation_pairs(groups["translations"]),
        matching_tasks.synonym_pairs(groups["ontologies"]),
        labelled_tasks.manual_classification(groups["manuals"] + groups["documents"]),
        labelled_tasks.app_classification(groups["interface"]),
        labelled_tasks.app_clustering(groups["interface"]),
    ]
