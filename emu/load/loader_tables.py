"""The page tables with which a guest is entered: its loader's, until it makes some of its own."""

from enum import StrEnum

import numpy as np

from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import Entry, is_leaf
from crosswalk.walker.memory import FRAME, U64, PhysicalMemory

__all__ = ["LoaderTables", "TablesOf"]

_KEPT = np.uint64(~(Entry.A | Entry.D) & (1 << 64) - 1)
"""What of an entry the processor doesn't change by itself."""


class TablesOf(StrEnum):
    """Who made the tables that are in use."""

    LOADER = "loader"
    """The loader, and they are as it made them, but for A and D."""
    LOADER_CHANGED = "loader-changed"
    """The loader; the guest has changed entries of them since."""
    GUEST = "guest"
    """The guest."""


class LoaderTables:
    """The tables of an address space at a guest's entry; none where it is entered without paging.

    `memory` is the guest's, and `context` its paging at the entry.
    """

    def __init__(self, memory: PhysicalMemory, context: PagingContext | None) -> None:
        self._memory = memory
        self._root = None if context is None else context.root & -FRAME
        none = np.zeros(0, np.uint64)
        self._frames: U64 = none if context is None else _tables(memory, context)
        self._words = self._read()

    def _read(self) -> U64:
        words: U64 = self._memory.tables(self._frames) & _KEPT
        return words

    def owner(self, context: PagingContext) -> TablesOf:
        """Return whose the tables are that are in use now.

        They are the loader's as long as its root is in use, and has an entry that the loader made.
        """
        if self._root is None or context.root & -FRAME != self._root:
            return TablesOf.GUEST
        now = self._read()
        if np.array_equal(now, self._words):
            return TablesOf.LOADER
        (row,) = np.flatnonzero(self._frames == np.uint64(self._root))
        made = self._words[row] != 0
        if (now[row][made] == self._words[row][made]).any():
            return TablesOf.LOADER_CHANGED
        return TablesOf.GUEST


def _tables(memory: PhysicalMemory, context: PagingContext) -> U64:
    """Return the frames of an address space's tables, the root's among them, in order."""
    frames = np.array([context.root & -FRAME], np.uint64)
    found = [frames]
    for number in range(context.levels, 1, -1):
        entries: list[int] = np.unique(memory.tables(frames)).tolist()
        below = {
            entry & context.address_mask
            for entry in entries
            if entry & Entry.P and not is_leaf(context, number, entry)
        }
        frames = np.array(sorted(below), np.uint64)
        found.append(frames)
    return np.unique(np.concatenate(found))
