"""(task, side) → the text that goes in front of a text. The only place prompts exist.

EmbeddingGemma was trained with two forms, and a text embedded with the wrong one still gives a
vector, only a worse one:

- a query is ``task: {description} | query: {text}``
- a document is ``title: {title, or the word none} | text: {text}``

A checkpoint carries its prompts as a mapping of names to strings (``config_sentence_transformers
.json``). Those strings win over anything written here; the tables below only say which of their
names answers to which of our tasks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from culet.errors import InputError

# Our task → (its words in the prompt, the names checkpoints give it, first match wins).
# "InstructionRetrieval" also carries the code prompt in EmbeddingGemma, but other families use
# the name for something else, so it only answers to itself.
_TASKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "search": ("search result", ("query", "SearchQuery", "Retrieval-query", "Retrieval")),
    "question_answering": ("question answering", ("QuestionAnswering",)),
    "fact_checking": ("fact checking", ("FactChecking",)),
    "classification": ("classification", ("Classification",)),
    "clustering": ("clustering", ("Clustering",)),
    "similarity": ("sentence similarity", ("SentenceSimilarity", "STS")),
    "code": ("code retrieval", ("CodeRetrieval",)),
    "summarization": ("summarization", ("Summarization",)),
}
TASKS: tuple[str, ...] = tuple(_TASKS)

_DOCUMENT_NAMES = ("document", "Document", "Retrieval-document", "passage", "corpus")
_QUERY_FORM = re.compile(r"task: [^|]+ \| query: ")
_NO_TITLE = "title: none"


def _query(description: str) -> str:
    return f"task: {description} | query: "


_DOCUMENT = f"{_NO_TITLE} | text: "

# The names of EmbeddingGemma's own file, then the explicit ones its second version added.
_EMBEDDINGGEMMA: dict[str, str] = {
    "query": _query("search result"),
    "document": _DOCUMENT,
    "BitextMining": _query("search result"),
    "Clustering": _query("clustering"),
    "Classification": _query("classification"),
    "InstructionRetrieval": _query("code retrieval"),
    "MultilabelClassification": _query("classification"),
    "PairClassification": _query("sentence similarity"),
    "Reranking": _query("search result"),
    "Retrieval": _query("search result"),
    "Retrieval-query": _query("search result"),
    "Retrieval-document": _DOCUMENT,
    "STS": _query("sentence similarity"),
    "Summarization": _query("summarization"),
    "SearchQuery": _query("search result"),
    "QuestionAnswering": _query("question answering"),
    "FactChecking": _query("fact checking"),
    "CodeRetrieval": _query("code retrieval"),
    "SentenceSimilarity": _query("sentence similarity"),
    "Document": _DOCUMENT,
}

# Tasks whose two sides are of one kind: both carry the task's own prompt.
SYMMETRIC_TASKS = frozenset({"similarity", "classification", "clustering", "summarization"})


@dataclass(frozen=True)
class Prompts:
    """The prompts of one checkpoint.

    Attributes:
        pairs: (name, prompt) as the checkpoint gives them, in its order.
    """

    pairs: tuple[tuple[str, str], ...]

    @classmethod
    def default(cls) -> Prompts:
        """Return EmbeddingGemma's prompts."""
        return cls.from_names(_EMBEDDINGGEMMA)

    @classmethod
    def from_names(cls, names: Mapping[str, str | None]) -> Prompts:
        """Return the prompts of a checkpoint from its mapping of names to strings.

        An empty mapping is a checkpoint trained without prompts: every prefix is then "", and
        `empty` says so.
        """
        for name, prompt in names.items():
            if not isinstance(name, str) or not isinstance(prompt, str | None):
                raise InputError(
                    f"prompts must map names to strings, got {name!r}: {prompt!r}; "
                    "correct the checkpoint's config_sentence_transformers.json"
                )
        return cls(tuple((name, prompt or "") for name, prompt in names.items()))

    def to_names(self) -> dict[str, str]:
        """Return the mapping of names to strings that a checkpoint stores."""
        return dict(self.pairs)

    @property
    def empty(self) -> bool:
        """Whether the checkpoint has no prompt at all, so that texts are embedded as they are."""
        return not any(prompt for _, prompt in self.pairs)

    @property
    def takes_title(self) -> bool:
        """Whether the document prompt has a place for a title."""
        return _NO_TITLE in self._document_prompt()

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks `query` accepts: ours first, then the checkpoint's own names."""
        ours = tuple(task for task in TASKS if self._task_prompt(task) is not None)
        return ours + tuple(name for name, _ in self.pairs if name not in TASKS)

    def query(self, task: str = "search", *, instruction: str | None = None) -> str:
        """Return what goes in front of a query.

        Args:
            task: One of `tasks`. A checkpoint's own name ("STS", "Retrieval-query") means exactly
                that prompt.
            instruction: Own words in place of the task's ("find the law that was cited"). It
                replaces the description of the task; `task` then has no effect.

        Raises:
            InputError: The task is unknown, or an instruction was given and the checkpoint's
                prompts have no place for one.
        """
        if instruction is not None:
            return self._instructed(instruction)
        if self.empty and (task in TASKS or task in self.to_names()):
            return ""
        prompt = self._task_prompt(task)
        if prompt is None:
            raise InputError(
                f"unknown task {task!r}; this checkpoint knows: {', '.join(self.tasks)}"
            )
        return prompt

    def document(self, title: str | None = None) -> str:
        """Return what goes in front of a document.

        A checkpoint without a document prompt gets "". White space inside a title is collapsed; a
        blank title counts as none.

        Raises:
            InputError: A title was given and the checkpoint's document prompt has no place for it.
        """
        prompt = self._document_prompt()
        title = " ".join(title.split()) if title else ""
        if not title:
            return prompt
        if _NO_TITLE not in prompt:
            raise InputError(
                f"this checkpoint's document prompt ({prompt!r}) has no place for a title; "
                "leave titles out, or put each title at the beginning of its text"
            )
        return prompt.replace(_NO_TITLE, f"title: {title}", 1)

    def _task_prompt(self, task: str) -> str | None:
        names = self.to_names()
        if task in names:
            return names[task]
        if task not in _TASKS:
            return None
        if self.empty:
            return ""
        words, aliases = _TASKS[task]
        for alias in aliases:
            if alias in names:
                return names[alias]
        return _query(words) if self._has_query_form() else None

    def _document_prompt(self) -> str:
        names = self.to_names()
        return next((names[name] for name in _DOCUMENT_NAMES if name in names), "")

    def _has_query_form(self) -> bool:
        """Whether this checkpoint was trained on EmbeddingGemma's form of query."""
        return any(_QUERY_FORM.fullmatch(prompt) for _, prompt in self.pairs)

    def _instructed(self, instruction: str) -> str:
        words = " ".join(instruction.split())
        if not words or "|" in words:
            raise InputError(
                f"an instruction is a few words without '|', got {instruction!r}; "
                "for example: find the paragraph that answers the question"
            )
        if not self._has_query_form():
            raise InputError(
                "this checkpoint's prompts have no place for an instruction; "
                f"choose one of its tasks: {', '.join(self.tasks)}"
            )
        return _query(words)
