"""Adapter of culet's models to mteb's evaluator, so that `mteb.evaluate` runs them directly.

For instance, with one of culet's embedders, or with any other encoder:

mteb.evaluate(MtebEncoder(culet.load()), tasks=[...])
mteb.evaluate(MtebEncoder(model, name="me/model", revision="1"), tasks=[...])
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from culet.errors import InputError, need
from culet.evaluate.encoding import Model
from culet.evaluate.results import engine_of, revision_name, revision_of
from culet.vectors.similarity import Vectors, paired_cosine, unit_rows

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models.model_meta import ModelMeta
    from mteb.types import PromptType

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")

QUERY_TASKS = {
    "BitextMining": "search",
    "Classification": "classification",
    "Clustering": "clustering",
    "InstructionReranking": "search",
    "InstructionRetrieval": "search",
    "MultilabelClassification": "classification",
    "PairClassification": "similarity",
    "Reranking": "search",
    "Retrieval": "search",
    "STS": "similarity",
    "Summarization": "similarity",
}
"""The prompt task of each MTEB task type; types not listed use "search"."""


class MtebEncoder:
    """An embedder behind mteb's EncoderProtocol.

    Documents of retrieval and reranking tasks are embedded as documents, with the title in front
    of the text, as mteb passes them; everything else is embedded as a query with the prompt
    of the task's type, or with the task's own instruction where one is given.
    """

    def __init__(
        self,
        embedder: Model,
        *,
        name: str | None = None,
        revision: str | None = None,
        instructions: Mapping[str, str] | None = None,
        truncate_to: int | None = None,
    ) -> None:
        """Wrap an embedder.

        Args:
            embedder: anything with encode_query and encode_document.
            name: organisation/model; without an organisation it becomes local/name. None takes the
                embedder's, the last part of a path.
            revision: of the weights; None takes the embedder's fingerprint, with backend, precision
                and width where they are not OpenVINO, float32 and the full one, so that mteb keeps
                the results of different settings apart.
            instructions: {MTEB task name: instruction}, in place of the prompt by type.
            truncate_to: the kept width, None for the model's own.

        Raises:
            InputError: when neither the embedder nor the caller names the model.
            MissingExtra: when mteb is not installed.
        """
        meta = need("mteb.models.model_meta", extra="mteb", purpose="running mteb's tasks")
        if name is None:
            name = _own_name(embedder)
        if revision is None and hasattr(embedder, "fingerprint"):
            weights = revision_of(embedder.fingerprint, **engine_of(embedder))
            revision = revision_name(weights, truncate_to, "float32")
        self._embedder = embedder
        self._instructions = dict(instructions or {})
        self._truncate_to = truncate_to
        self._meta: ModelMeta = meta.ModelMeta.create_empty(
            {
                "name": name if "/" in name else f"local/{name}",
                "revision": revision,
                "embed_dim": truncate_to,
                "similarity_fn_name": "cosine",
                "use_instructions": True,
                "modalities": ["text"],
            }
        )

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """What mteb records about the model beside its results."""
        return self._meta

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Any,
    ) -> Vectors:
        """Embed the batches of a data loader in order; kwargs (batch size ...) are ignored."""
        texts = [text for batch in inputs for text in batch["text"]]
        # The enumeration's values, so that mteb need not be imported for this.
        if prompt_type is not None and prompt_type.value == "document":
            return self._embedder.encode_document(texts, truncate_to=self._truncate_to)
        return self._embedder.encode_query(
            texts,
            task=query_task(task_metadata),
            instruction=self._instructions.get(task_metadata.name),
            truncate_to=self._truncate_to,
        )

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Vectors:
        """Return the cosine of every pair of rows: [B, E], [P, E] -> [B, P]."""
        a, b = unit_rows(_rows(embeddings1)), unit_rows(_rows(embeddings2))
        return np.asarray(a @ b.T, dtype=np.float32)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Vectors:
        """Return the cosine of rows with the same number: [B, E], [B, E] -> [B]."""
        return paired_cosine(_rows(embeddings1), _rows(embeddings2))


def query_task(metadata: TaskMetadata) -> str:
    """Return the prompt task for the queries of an MTEB task; searches for code take "code"."""
    task = QUERY_TASKS.get(metadata.type, "search")
    if task == "search" and "Programming" in (metadata.domains or []):
        return "code"
    return task


def _own_name(embedder: Model) -> str:
    """Return the name an embedder was loaded by: a hub id, or the last part of a path."""
    name = getattr(embedder, "name", None)
    if not isinstance(name, str) or not name:
        raise InputError(
            f"expected the name of the model, since {type(embedder).__name__} has none of its own; "
            "give MtebEncoder(..., name='organisation/model')"
        )
    return name if _HUB_NAME.fullmatch(name) else Path(name).resolve().name


def _rows(embeddings: Any) -> Vectors:
    return np.atleast_2d(np.asarray(embeddings, dtype=np.float32))
