"""Tables as arrays of entries, whatever the size and the number of these."""

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import Entry, Level, level_of, reserved_bits
from crosswalk.walker.memory import FRAME, U64, PhysicalMemory

__all__ = ["Entries", "read_tables", "read_words", "unloadable"]

Entries = NDArray[np.uint64] | NDArray[np.uint32]


def read_tables(memory: PhysicalMemory, level: Level, tables: U64) -> Entries:
    """Return the entries of n tables at these addresses: uint64 or uint32[n, level.entries].

    As `PhysicalMemory.tables`, a view where that is one.
    """
    if level.entries * level.entry_size == FRAME:
        words = memory.tables(tables)
        return words if level.entry_size == 8 else words.view(np.uint32)
    offset = tables & np.uint64(FRAME - 1)
    words = memory.tables(tables - offset)
    first = (offset >> np.uint64(3)).astype(np.intp)
    return np.take_along_axis(words, first[:, None] + np.arange(level.entries), 1)


def read_words(memory: PhysicalMemory, frames: U64, index: U64) -> U64:
    """Return the word of this index (0..511) in each of n frames, uint64[n]; 0 outside RAM."""
    distinct, inverse = np.unique(frames, return_inverse=True)
    words: U64 = memory.tables(distinct)[inverse, index]
    return words


def unloadable(memory: PhysicalMemory, context: PagingContext) -> int | None:
    """Return the address of the first PDPTE that keeps a PAE address space from being entered.

    A present PDPTE with a reserved bit set: MOV to CR3 raises #GP(0) and loads none of the four
    (Intel SDM vol. 3A, "PDPTE Registers"; that some processors look at absent ones too is left
    out). None where there is no such, in the other modes, and for AMD, whose processors load
    none.
    """
    if not context.loads_pdptes:
        return None
    level = level_of(context, context.levels)
    entries = read_tables(memory, level, np.array([context.root], np.uint64))[0]
    reserved = np.uint64(reserved_bits(context, level.number, leaf=False))
    bad = np.flatnonzero(((entries & np.uint64(Entry.P)) != 0) & ((entries & reserved) != 0))
    return context.root + level.entry_size * int(bad[0]) if len(bad) else None
