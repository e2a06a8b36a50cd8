"""What a corpus is: its packages, how to read one, and how rows of all of them are limited."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from culet.corpora.readers.packages import Package
from culet.corpora.rows import Row


@dataclass(frozen=True)
class Corpus:
    """A corpus that anyone can build.

    Attributes:
        name: Its name on the command line.
        about: One line for people.
        licence: The licences of its packages in general; the manifest lists them one by one.
        kind: Kind of its packages: "deb", "src", "index", "pypi" or "npm".
        packages: Names of the packages that are read by default.
        read: Yields the rows of one package.
        method: Raised whenever the same package would give other rows.
        lowest_query: Rows with fewer words in the query are dropped.
        same_query: How many rows of a language may share a query, 0 for any number.
        same_positive: How many rows of a part and language may share a positive, 0 for any number.
        only_free: Leave out packages that do not name a free licence. For indices where anyone
            publishes; the licences of Debian's main archive have been checked by people.
    """

    name: str
    about: str
    licence: str
    kind: str
    packages: tuple[str, ...]
    read: Callable[[Package], Iterator[Row]]
    method: int = 1
    lowest_query: int = 1
    same_query: int = 0
    same_positive: int = 0
    only_free: bool = False
