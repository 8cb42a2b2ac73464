"""A guest's tables as they lie in memory, read for its host: without the CPU, without a trace.

What an entry is made of, by mode and level, is the walker's data (`crosswalk.walker.entry`).
Reserved bits aren't looked at: what sets one is a page here.

Source: Intel SDM vol. 3A, "32-Bit Paging", "PAE Paging", "4-Level Paging and 5-Level Paging"; Linux
Documentation/x86/pti.rst (two roots).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from crosswalk.walker.architecture import GIB
from crosswalk.walker.context import PagingContext, PagingMode
from crosswalk.walker.entry import FORMATS, Entry, Level, is_leaf, leaf_address, level_of
from crosswalk.walker.memory import FRAME, U64, PhysicalMemory
from crosswalk.walker.tables import Entries, read_tables

__all__ = [
    "KERNEL_BASE",
    "Leaf",
    "entries_of",
    "find_kernel_root",
    "find_leaf",
    "find_user_root",
    "kernel_slots",
    "lower_leaves",
]

KERNEL_BASE = {
    PagingMode.BIT32: 3 * GIB,
    PagingMode.PAE: 3 * GIB,
    PagingMode.LEVEL4: 1 << 47,
    PagingMode.LEVEL5: 1 << 56,
}
"""Where the kernel's addresses begin, cut to those that are translated: Linux's split in legacy
modes, else the upper half."""

_PRESENT, _WRITE, _USER, _NX = (int(bit) for bit in (Entry.P, Entry.RW, Entry.US, Entry.XD))
_USED = int(Entry.A | Entry.D)
_LOW_HALF = 0xFFFF_FFFF
_LOOKED_AT = 256


@dataclass(frozen=True, slots=True)
class Leaf:
    """The end of a walk: the page's physical address and size, and where its entry lies.

    The rights are those that all levels leave.
    """

    pa: int
    size: int
    entry: int
    writable: bool
    user: bool
    executable: bool


def find_leaf(memory: PhysicalMemory, context: PagingContext, va: int) -> Leaf | None:
    """Return the page that `va` is in, or None."""
    grants, no_execution = _WRITE | _USER, 0
    for level, at, entry, leaf in _walk(memory, context, va):
        if level.restricts:
            grants &= entry
            no_execution |= entry & _NX
        if leaf:
            return Leaf(
                pa=leaf_address(context, level.number, entry),
                size=level.span,
                entry=at,
                writable=bool(grants & _WRITE),
                user=bool(grants & _USER),
                executable=not no_execution,
            )
    return None


def entries_of(memory: PhysicalMemory, context: PagingContext, va: int) -> Iterator[int]:
    """Yield the addresses of the entries that map the page that `va` is in, from the root down."""
    for _, at, _, _ in _walk(memory, context, va):
        yield at


def lower_leaves(memory: PhysicalMemory, context: PagingContext) -> Iterator[int]:
    """Yield the addresses of the pages below the kernel's, in order; of large ones all 4 KiB."""
    slots = range(kernel_slots(context).start)
    for va, size in _leaves(memory, context, context.levels, context.root, 0, slots):
        yield from range(va, va + size, FRAME)


def kernel_slots(context: PagingContext) -> range:
    """Return the indices of the root's entries that are the kernel's."""
    top = level_of(context, context.levels)
    return range(KERNEL_BASE[context.mode] >> top.shift & top.entries - 1, top.entries)


def find_kernel_root(memory: PhysicalMemory, context: PagingContext, frames: U64) -> int | None:
    """Return the root table, in one of these frames, that maps what is the kernel's and no more.

    Its entries for that are those of the context's root, but for A and D. It is the kernel's own,
    which no process has: Linux keeps it in its image, and copies these entries to each process's
    root. The one that the context's root may be itself comes first.
    """
    top, first = level_of(context, context.levels), kernel_slots(context).start
    own = np.array([context.root], np.uint64)
    wanted = _kept(read_tables(memory, top, own)[:, first:])
    if not wanted.any():
        return None
    asked = np.concatenate([own, frames])
    for at in range(0, len(asked), _LOOKED_AT):
        some = asked[at : at + _LOOKED_AT]
        tables = read_tables(memory, top, some)
        same = (_kept(tables[:, first:]) == wanted).all(axis=1) & ~tables[:, :first].any(axis=1)
        for row in np.flatnonzero(same).tolist():
            if some[row] in frames:
                return int(some[row])
    return None


def find_user_root(memory: PhysicalMemory, context: PagingContext) -> int | None:
    """Return the root table for user mode that page-table isolation keeps beside the context's.

    None where there is none. It is the frame above, which is one if it maps something of the
    kernel's, and there nothing that the context's root doesn't map to the same place, and has the
    same tables below.
    """
    root = context.root
    other = root + FRAME
    if root % (2 * FRAME) or not memory.backed(np.array([root, other], np.uint64)).all():
        return None
    theirs = replace(context, cr3=other)
    slots = kernel_slots(context)
    top = level_of(context, context.levels)
    pair = read_tables(memory, top, np.array([root, other], np.uint64))
    kernel, user = pair[:, : slots.start].tolist()
    if [_table(context, entry) for entry in kernel] != [_table(context, entry) for entry in user]:
        return None
    found = False
    for va, _ in _leaves(memory, theirs, context.levels, other, 0, slots):
        here, there = find_leaf(memory, theirs, va), find_leaf(memory, context, va)
        if here is None or there is None or here.pa + va % here.size != there.pa + va % there.size:
            return None
        found = True
    return other if found else None


def _walk(
    memory: PhysicalMemory, context: PagingContext, va: int
) -> Iterator[tuple[Level, int, int, bool]]:
    """Yield the present entries that `va` selects: level, address, content, whether it is a leaf.

    It ends with the leaf, or where an entry isn't present.
    """
    table, mask, levels = context.root, context.address_mask, FORMATS[context.mode]
    for number in range(context.levels, 0, -1):
        level = levels[number]
        at = table + level.entry_size * (va >> level.shift & level.entries - 1)
        entry = memory.word(at & -8)
        if entry is None:
            return
        if level.entry_size == 4:
            entry = entry >> 32 if at & 4 else entry & _LOW_HALF
        if not entry & _PRESENT:
            return
        leaf = is_leaf(context, number, entry)
        yield level, at, entry, leaf
        if leaf:
            return
        table = entry & mask


def _leaves(
    memory: PhysicalMemory,
    context: PagingContext,
    number: int,
    table: int,
    base: int,
    slots: range,
) -> Iterator[tuple[int, int]]:
    """Yield (address, size) of the pages below these entries of a table; none outside memory."""
    level = level_of(context, number)
    words = read_tables(memory, level, np.array([table], np.uint64))[0]
    entries = words[slots.start : slots.stop]
    for at in (entries & _PRESENT).nonzero()[0].tolist():
        entry, va = int(entries[at]), base | slots[at] << level.shift
        if number == context.levels and context.mode.long and slots[at] >= level.entries // 2:
            va |= (1 << 64) - (1 << context.va_bits)
        if is_leaf(context, number, entry):
            yield va, level.span
        else:
            below = range(level_of(context, number - 1).entries)
            yield from _leaves(memory, context, number - 1, entry & context.address_mask, va, below)


def _kept(entries: Entries) -> Entries:
    """Return entries without what accesses set."""
    return entries & entries.dtype.type(~_USED & (1 << 8 * entries.itemsize) - 1)


def _table(context: PagingContext, entry: int) -> int | None:
    return entry & context.address_mask if entry & _PRESENT else None
