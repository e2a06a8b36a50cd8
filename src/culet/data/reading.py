"""What reading a source of training records found: for the log, and what must not be overlooked."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, get_args

from culet.data.field_names import KNOWN_NAMES, Role, role_of
from culet.errors import InputError


class Reading:
    """What reading a source of records found, for the log and for what must not be overlooked.

    Args:
        known: Fields that are read beside the texts of the pair.

    Attributes:
        records: How many there are.
        with_negatives: How many of them have a negative that is not the positive.
        own_positive: How many have their query as positive.
        unread: Fields that were found and not read, in order of occurrence.
    """

    def __init__(self, known: Collection[str] = ()) -> None:
        self.records = self.with_negatives = self.own_positive = 0
        self.unread: dict[str, None] = {}
        self._known = {*get_args(Role), *known}
        self._names: dict[Role, dict[str, None]] = {role: {} for role in get_args(Role)}
        self._negatives: list[int] = []  # the least and the most a record has
        self._groups: dict[object, _Group] = {}

    def __contains__(self, column: object) -> bool:
        """Return whether a column of a table is read; one that is not is noted."""
        read = isinstance(column, str) and (column in self._known or role_of(column) is not None)
        if isinstance(column, str) and not read:
            self.unread.setdefault(column)
        return read

    def renamed(self, role: Role, names: Iterable[str]) -> None:
        """Note fields of other names that were read as a role."""
        self._names[role].update(dict.fromkeys(names))

    def count(
        self, row: dict[str, Any], pair: tuple[str, str], negatives: Sequence[str], group: object
    ) -> None:
        """Count a record.

        Args:
            row: Its fields, under culet's own names.
            pair: The query, and the positive with its title.
            negatives: Those that are not the positive.
            group: Whatever its batches share.
        """
        self.records += 1
        self.with_negatives += bool(negatives)
        self.own_positive += row["query"] == row["positive"]
        number = len(negatives)
        self._negatives = [min([number, *self._negatives]), max([number, *self._negatives])]
        self._groups.setdefault(group, _Group(pair)).add(pair)
        for name in row:
            if name not in self._known:
                self.unread.setdefault(name)

    @property
    def without_contrast(self) -> tuple[int, int]:
        """Return how many groups have one query or one positive in all records, and all groups.

        Pairs that share their query or their positive are never each other's negatives.
        """
        return sum(group.alike for group in self._groups.values()), len(self._groups)

    @property
    def alike(self) -> str:
        """Return "query" or "positive", whichever all records share; nothing if neither."""
        groups = list(self._groups.values())
        whole = _Group(groups[0].pair)
        for group in groups:
            whole.join(group)
        return "query" if whole.one_query else "positive" if whole.one_positive else ""

    def summary(self) -> str:
        """Return what was read as what, for people."""
        least, most = self._negatives or [0, 0]
        how_many = str(most) if least == most else f"{least} to {most}"
        negatives = f"negatives from {self._from('negatives')} ({how_many} a record)"
        unread = f"; not read: {', '.join(self.unread)}" if self.unread else ""
        return (
            f"{self.records:,} records: query from {self._from('query')}, positive from "
            f"{self._from('positive')}, {negatives if most else 'no negatives'}{unread}"
        )

    def _from(self, role: Role) -> str:
        return ", ".join(self._names[role] or {role: None})


class _Group:
    """Whether the pairs of a group all have one query, or one positive."""

    def __init__(self, pair: tuple[str, str]) -> None:
        self.pair, self.one_query, self.one_positive = pair, True, True

    def add(self, pair: tuple[str, str]) -> None:
        """Compare a pair with the first one."""
        self.one_query &= pair[0] == self.pair[0]
        self.one_positive &= pair[1] == self.pair[1]

    def join(self, other: _Group) -> None:
        """Make this the group of the pairs of both."""
        self.add(other.pair)
        self.one_query &= other.one_query
        self.one_positive &= other.one_positive

    @property
    def alike(self) -> bool:
        """Return whether no pair has a negative among the others."""
        return self.one_query or self.one_positive


def check_teaches(
    reading: Reading, label: str, *, num_negatives: int, taught: bool, grouped: bool
) -> list[str]:
    """Return what must be said of a source that teaches less than is asked of it.

    Args:
        reading: What was found in it.
        label: What messages call it.
        num_negatives: Hard negatives a query that are asked for.
        taught: It has a teacher, from which every text is learnt.
        grouped: Its batches are made within groups.

    Raises:
        InputError: If negatives are asked for and no record has one, or if no pair has a negative,
            neither in its record nor in any other.
    """
    records = f"{reading.records:,} records"
    if num_negatives and not reading.with_negatives:
        raise InputError(
            f"{label}: num_negatives asks for hard negatives, and none of the {records} has one "
            f"({reading.summary()}); culet reads {KNOWN_NAMES}: name them so, let stage mine find "
            "some, or set num_negatives = 0 for this source"
        )
    warnings = []
    if reading.alike and not num_negatives:
        same = (
            f"all {records} have the same {reading.alike}, so that no pair has a negative and the "
            "contrastive loss is 0"
        )
        if not taught:
            raise InputError(
                f"{label}: {same} ({reading.summary()}): nothing can be learnt from them; add "
                "other pairs or hard negatives, or leave the source out"
            )
        warnings.append(same)
    elif reading.alike:
        warnings.append(
            f"all {records} have the same {reading.alike}: only their hard negatives teach"
        )
    alike, groups = reading.without_contrast
    if grouped and alike and groups > 1 and not num_negatives:
        warnings.append(
            f"{alike:,} of {groups:,} groups of batch_by have one query or one positive in all "
            "records: a batch of such a group has a contrastive loss of 0"
        )
    if 2 * reading.own_positive > reading.records:
        warnings.append(
            f"{reading.own_positive:,} of {records} have their query as positive, which teaches "
            "next to nothing"
        )
    return [f"{label}: {warning}" for warning in warnings]
