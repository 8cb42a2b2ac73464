"""Tables that a guest's memory is mapped by once more: its own, and free entries filled.

Source: Intel SDM vol. 3A, "32-Bit Paging", "PAE Paging", "4-Level Paging and 5-Level Paging".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from crosswalk.emu.protect.kernel.guest_code import huge_level
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import Entry, is_leaf, level_of
from crosswalk.walker.memory import FRAME, PhysicalMemory
from crosswalk.walker.tables import Entries, read_tables

__all__ = ["ForgedTables", "find_room", "forged_count"]

_TABLE, _HUGE = Entry.P | Entry.RW, Entry.P | Entry.RW | Entry.PS


@dataclass(frozen=True, slots=True)
class ForgedTables:
    """A guest's tables with room for all of its memory: a path from the root, and what lies there.

    `tables` are copies of its tables on the path, the root's first, or empty ones; `slots` are the
    indices in them. Of the last one that and `count` - 1 more are free.
    """

    context: PagingContext
    tables: tuple[Entries, ...]
    slots: tuple[int, ...]
    count: int

    @property
    def address(self) -> int:
        """Where physical address 0 is mapped by them."""
        context = self.context
        va = 0
        for number, slot in zip(range(context.levels, 0, -1), self.slots, strict=False):
            va |= slot << level_of(context, number).shift
        if context.mode.long and va >> context.va_bits - 1:
            va |= (1 << 64) - (1 << context.va_bits)
        return va

    def written(self, frames: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """Yield the addresses and the content of these frames, one a table, that make them tables.

        They map memory writable and executable, for the supervisor, by the largest pages.
        """
        context = self.context
        for depth, (table, slot) in enumerate(zip(self.tables, self.slots, strict=True)):
            level, entries = level_of(context, context.levels - depth), table.copy()
            if depth + 1 < len(self.tables):
                rights = _TABLE if level.restricts else Entry.P
                entries[slot] = frames[depth + 1] | rights
            else:
                pages = [page * level.span | _HUGE for page in range(self.count)]
                entries[slot : slot + self.count] = pages
            yield frames[depth], entries.tobytes().ljust(FRAME, b"\0")


def forged_count(context: PagingContext) -> int:
    """Return how many tables are forged: those from the root to that of the largest pages."""
    return context.levels - huge_level(context).number + 1


def find_room(memory: PhysicalMemory, context: PagingContext, size: int) -> ForgedTables | None:
    """Return the guest's tables, with room for `size` bytes from address 0 on; None without any.

    Entries of the root that are free are taken first, of those the last ones.
    """
    root = read_tables(memory, level_of(context, context.levels), _at(context.root))[0]
    count = -(-size // huge_level(context).span)
    return next(_rooms(memory, context, context.levels, root, count), None)


def _rooms(
    memory: PhysicalMemory, context: PagingContext, number: int, table: Entries, count: int
) -> Iterator[ForgedTables]:
    """Yield the paths from a table at a level on that end in `count` free entries."""
    level = level_of(context, number)
    if number == huge_level(context).number:
        free = np.convolve(table == 0, np.ones(count, np.intp), "valid") == count
        if free.any():
            yield ForgedTables(context, (table,), (int(free.argmax()),), count)
        return
    for slot in sorted(range(level.entries), key=lambda each: (bool(table[each]), -each)):
        entry, below = int(table[slot]), level_of(context, number - 1)
        if not entry:
            lower = np.zeros(below.entries, table.dtype)
        elif entry & Entry.P and not is_leaf(context, number, entry):
            lower = read_tables(memory, below, _at(entry & context.address_mask))[0]
        else:
            continue
        for room in _rooms(memory, context, number - 1, lower, count):
            yield ForgedTables(context, (table, *room.tables), (slot, *room.slots), count)


def _at(pa: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array([pa], np.uint64)
