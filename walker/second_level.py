"""Tables that aren't a processor's own, walked in bulk as paging's are: those of a hypervisor.

The walk of all tables (`crosswalk.walker.leaves`, and what is made of it) knows of entries which
bits make one present, which are leaves, which are malformed, and what they grant. Of paging that
follows from a `PagingContext`; of anything else a `SecondLevel` says it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import Entry, Level, level_of
from crosswalk.walker.memory import U64

__all__ = [
    "SecondLevel",
    "SecondLevelTable",
    "Space",
    "TableContext",
    "present_bits",
    "table_level",
]


@dataclass(frozen=True, slots=True)
class SecondLevelTable(Level):
    """A level of a hypervisor's tables: an entry with any bit of `present` is present.

    `grants` returns what n present entries grant, uint8[n]: up to four bits, an index of
    `SecondLevel.rights`.
    """

    present: int = int(Entry.P)
    grants: Callable[[U64], NDArray[np.uint8]] = field(kw_only=True)


class SecondLevel(ABC):
    """The tables of one guest, as the walk of all tables needs them.

    `root` is the system-physical address of the first table; linear addresses of the walk are
    guest-physical ones, which aren't sign-extended. `rights` uint8[8] or uint8[16] are the `Rights`
    for each combination of grants. `use` are the flags that accesses set.
    """

    root: int
    levels: int
    address_mask: int
    encryption_mask: int = 0
    formats: Mapping[int, SecondLevelTable]
    rights: NDArray[np.uint8]
    use: int

    @property
    @abstractmethod
    def key(self) -> tuple[object, ...]:
        """What two of these have in common, beside the root, if they are one address space."""

    @abstractmethod
    def leaves_among(self, level: int, entries: U64) -> NDArray[np.bool_]:
        """Return which of these present entries of one level map a page, bool[n]."""

    @abstractmethod
    def malformed(self, level: int, entries: U64, *, leaf: bool) -> NDArray[np.bool_]:
        """Return which of these present entries map nothing, for what is set in them, bool[n].

        They are all leaves, or all none.
        """


TableContext = PagingContext | SecondLevel
"""One address space: of a processor's paging, or of a hypervisor's second level."""
Space = TypeVar("Space", bound=TableContext)
"""The kind of some contexts."""


def table_level(context: TableContext, number: int) -> Level:
    """Return the level of this number; 1 is the last table."""
    if isinstance(context, SecondLevel):
        return context.formats[number]
    return level_of(context, number)


def present_bits(level: Level) -> int:
    """Return the bits of which one says that an entry of this level is present."""
    return level.present if isinstance(level, SecondLevelTable) else int(Entry.P)
