"""Tables read as arrays of entries of either size."""

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import Entry, Level, level_of, reserved_bits
from crosswalk.walker.memory import FRAME, U64, PhysicalMemory
from crosswalk.walker.second_level import SecondLevel, TableContext

__all__ = [
    "Entries",
    "entries_with",
    "invalid_pdpte",
    "invalid_roots",
    "read_tables",
    "read_words",
]

Entries = NDArray[np.uint64] | NDArray[np.uint32]


def read_tables(memory: PhysicalMemory, level: Level, tables: U64) -> Entries:
    """Return the entries of n tables at these addresses: uint64 or uint32[n, level.entries].

    A view where `PhysicalMemory.tables` returns one.
    """
    if level.entries * level.entry_size == FRAME:
        words = memory.tables(tables)
        return words if level.entry_size == 8 else words.view(np.uint32)
    offset = tables & np.uint64(FRAME - 1)
    words = memory.tables(tables - offset)
    first = (offset >> np.uint64(3)).astype(np.intp)
    return np.take_along_axis(words, first[:, None] + np.arange(level.entries), 1)


def entries_with(
    memory: PhysicalMemory, level: Level, tables: U64, bits: int | None = None
) -> tuple[NDArray[np.intp], U64, U64]:
    """Return the entries of n tables that have one of these bits set, or any bit at all.

    Of each the row of its table, int[m], its index there, and its value, both uint64[m].
    """
    words = read_tables(memory, level, tables).reshape(-1)
    at = np.flatnonzero(words if bits is None else words & words.dtype.type(bits))
    index = (at & level.entries - 1).astype(np.uint64)
    return at >> level.index_bits, index, words[at].astype(np.uint64, copy=False)


def read_words(memory: PhysicalMemory, frames: U64, index: U64) -> U64:
    """Return the word of this index (0..511) in each of n frames, uint64[n]; 0 outside RAM."""
    distinct, inverse = np.unique(frames, return_inverse=True)
    words: U64 = memory.tables(distinct)[inverse, index]
    return words


def invalid_pdpte(memory: PhysicalMemory, context: TableContext) -> int | None:
    """Return the address of the first present PDPTE of PAE paging with a reserved bit, or None.

    With one, MOV to CR3 raises #GP(0) and loads none of the four, so that the address space can't
    be entered (Intel SDM vol. 3A, "PDPTE Registers"; that some processors check absent ones too is
    left out). None in the other modes, and for AMD, whose processors load no PDPTEs.
    """
    if isinstance(context, SecondLevel) or not context.loads_pdptes:
        return None
    bad = np.flatnonzero(_bad_pdptes(memory, context, np.array([context.root], np.uint64)))
    return context.root + 8 * int(bad[0]) if len(bad) else None


def invalid_roots(memory: PhysicalMemory, context: TableContext, roots: U64) -> NDArray[np.bool_]:
    """Return which of n root tables can't be entered, bool[n], by the rule of `invalid_pdpte`."""
    if isinstance(context, SecondLevel) or not context.loads_pdptes:
        return np.zeros(len(roots), np.bool_)
    bad: NDArray[np.bool_] = np.any(_bad_pdptes(memory, context, roots), axis=1)
    return bad


def _bad_pdptes(memory: PhysicalMemory, context: PagingContext, roots: U64) -> NDArray[np.bool_]:
    """Return which entries of n PDPTs are present and set a reserved bit, bool[n, 4]."""
    level = level_of(context, context.levels)
    entries = read_tables(memory, level, roots)
    reserved = np.uint64(reserved_bits(context, level.number, leaf=False))
    bad: NDArray[np.bool_] = ((entries & np.uint64(Entry.P)) != 0) & ((entries & reserved) != 0)
    return bad
