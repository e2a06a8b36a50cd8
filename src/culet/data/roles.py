"""A text in the role it has in training, and what it is known by there."""

from __future__ import annotations

from dataclasses import dataclass

from culet.data.records import Record
from culet.files.fingerprint import of_texts
from culet.text.prompts import SYMMETRIC_TASKS


@dataclass(frozen=True)
class RoleText:
    """A text in its role.

    Attributes:
        task: Task of a query, or of both sides of a symmetric task; None for a document.
        title: Title of a document, if it has one.
        text: The words.
    """

    task: str | None
    title: str | None
    text: str

    @property
    def titled(self) -> str:
        """Return the words with the title in front, for models without a place for one."""
        return f"{self.title}\n{self.text}" if self.title else self.text

    def key(self, *, by_role: bool) -> str:
        """Return 32 hex digits of the text, and of its role if `by_role`."""
        parts = [self.titled]
        if by_role and self.task is not None:
            parts = ["query", self.task, self.text]
        elif by_role:
            parts = ["document", self.title or "", self.text]
        return of_texts(*parts).hex()


def role_texts(record: Record, task: str) -> tuple[RoleText, RoleText, list[RoleText]]:
    """Return a record's query, positive and negatives in their roles, as training reads them.

    Args:
        record: The record.
        task: Its task if it names none.
    """
    name = record.task or task
    both = name if name in SYMMETRIC_TASKS else None
    return (
        RoleText(name, None, record.query),
        RoleText(both, None if both else record.title, record.positive),
        [RoleText(both, None if both else title, text) for title, text in record.titled_negatives],
    )
