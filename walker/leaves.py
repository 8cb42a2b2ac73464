"""The walk: every leaf of an address space, as columns, in address order, block by block.

The linear address space is walked as an index space of 48 or 57 bits, in which the lower half
comes first and the upper half follows without the hole between them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from walker.bulk import grants_of, leaves_among
from walker.columns import Rows
from walker.context import PagingContext
from walker.entry import ADDRESS_FIELD, LEVELS, Entry, reserved_bits
from walker.memory import U64, PhysicalMemory
from walker.rights import ALL_GRANTS, rights_table

__all__ = [
    "TOP",
    "Leaves",
    "Tables",
    "blocked_entries",
    "expand",
    "root_table",
    "table_frames",
    "walk_leaves",
]

TOP = 1 << 64
"""The end of the address space, as an end that is not included."""

_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Leaves(Rows):
    """n entries that map pages, or (from `blocked_entries`) that map nothing.

    `va` uint64[n], canonical; `entry` uint64[n], the raw words; `grant` uint8[n], the `Grant`
    bits of all levels together; `level` uint8[n] (1 is a PTE). Everything else is derived.
    """

    va: U64
    entry: U64
    grant: NDArray[np.uint8]
    level: NDArray[np.uint8]

    @classmethod
    def none(cls) -> "Leaves":
        """Return no rows."""
        words, bits = np.zeros(0, np.uint64), np.zeros(0, np.uint8)
        return cls(words, words, bits, bits)

    def __len__(self) -> int:
        return len(self.va)

    @property
    def size(self) -> U64:
        """The bytes that each maps, uint64[n]."""
        return _SPANS[self.level]

    @property
    def pa(self) -> U64:
        """The physical address of each page, uint64[n]."""
        return self.entry & np.uint64(ADDRESS_FIELD) & ~(_SPANS - np.uint64(1))[self.level]

    @property
    def flags(self) -> U64:
        """The bits of each leaf outside its address field, uint64[n]."""
        return self.entry & ~(np.uint64(ADDRESS_FIELD) & ~(_SPANS - np.uint64(1)))[self.level]

    def rights(self, context: PagingContext) -> NDArray[np.uint8]:
        """Return the effective `Rights` of each under a context, uint8[n]."""
        return rights_table(context)[self.grant]


_SPANS = np.array([1, *(LEVELS[number].span for number in sorted(LEVELS))], np.uint64)


@dataclass(frozen=True, slots=True)
class Tables(Rows):
    """n tables of one level: index-space va of the first byte, frame, inherited grants."""

    va: U64
    frame: U64
    grant: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.frame)


class Expanded(NamedTuple):
    """What a block of tables holds: pages, tables, and entries that are neither but not 0.

    `leaf_parent` and `child_parent` are the places in the block of the tables they are from.
    """

    leaves: Leaves
    children: Tables
    blocked: Leaves
    leaf_parent: NDArray[np.intp]
    child_parent: NDArray[np.intp]


def root_table(context: PagingContext) -> Tables:
    """Return the one table at which every walk begins."""
    return Tables(
        np.zeros(1, np.uint64),
        np.array([context.root], np.uint64),
        np.array([ALL_GRANTS], np.uint8),
    )


def expand(
    memory: PhysicalMemory,
    context: PagingContext,
    level: int,
    tables: Tables,
    window: tuple[int, int] | None = None,
) -> Expanded:
    """Return what these tables of one level hold, in index space, in order.

    `window` limits it to entries whose span touches [start, end) of the index space.
    """
    words = memory.tables(tables.frame).reshape(-1)
    at = np.flatnonzero(words)
    entry = words[at]
    table = at >> 9
    va = tables.va[table] + ((at & 511).astype(np.uint64) << np.uint64(LEVELS[level].shift))
    if window is not None:
        start, end = window
        # Compare the last byte: the end of the topmost entry may not fit in 64 bits.
        inside = (va + np.uint64(LEVELS[level].span - 1) >= start) & (va < end)
        entry, table, va = entry[inside], table[inside], va[inside]

    leaf = leaves_among(context, level, entry)
    reserved = np.where(
        leaf,
        np.uint64(reserved_bits(context, level, leaf=True)),
        np.uint64(reserved_bits(context, level, leaf=False)),
    )
    good = ((entry & np.uint64(Entry.P)) != 0) & ((entry & reserved) == 0)
    grant = tables.grant[table] & grants_of(entry)
    numbers = np.full(len(entry), level, np.uint8)
    columns = Leaves(va, entry, grant, numbers)
    down, page = good & ~leaf, good & leaf
    return Expanded(
        columns.take(page),
        Tables(va[down], entry[down] & np.uint64(context.address_mask), grant[down]),
        columns.take(~good),
        table[page],
        table[down],
    )


def walk_leaves(
    memory: PhysicalMemory, context: PagingContext, start: int = 0, end: int = TOP
) -> Iterator[Leaves]:
    """Yield all leaves whose pages touch [start, end), in address order, in blocks.

    Entries that set a reserved bit map nothing and are not listed. Memory is bounded by the
    block, whatever the image says, and nothing is read before it is asked for: an image of
    2^36 mappings can be read from the start and left at any point.
    """
    window = _index_of(context, start), _index_of(context, end)
    if window[0] < window[1]:
        blocks = _walk(memory, context, context.levels, root_table(context), window)
        for block in blocks:
            yield Leaves(canonical(context, block.va), block.entry, block.grant, block.level)


def blocked_entries(memory: PhysicalMemory, context: PagingContext) -> Leaves:
    """Return the entries that are not zero and yet map nothing, in address order.

    Those not present but full of something, and those that set a reserved bit. A table that is
    reached by several ways counts once, at its lowest address, so that the cost is that of the
    distinct tables.
    """
    parts = [part.blocked for _, part in _distinct(memory, context)]
    every = Leaves.join([Leaves.none(), *parts])
    every = every.take(np.argsort(every.va, kind="stable"))
    return Leaves(canonical(context, every.va), every.entry, every.grant, every.level)


def table_frames(memory: PhysicalMemory, context: PagingContext) -> U64:
    """Return the physical addresses of all tables that a walk can read, ascending, uint64[n].

    Those outside RAM are not among them.
    """
    found = np.unique(np.concatenate([tables.frame for tables, _ in _distinct(memory, context)]))
    return found[memory.backed(found)]


def _distinct(memory: PhysicalMemory, context: PagingContext) -> Iterator[tuple[Tables, Expanded]]:
    """Yield all tables in blocks, each table once a level, and what they hold."""
    tables = root_table(context)
    for level in range(context.levels, 0, -1):
        _, first = np.unique(tables.frame, return_index=True)
        tables = tables.take(np.sort(first))
        children = [tables.take(slice(0))]
        for at in range(0, len(tables), _BLOCK):
            block = tables.take(slice(at, at + _BLOCK))
            part = expand(memory, context, level, block)
            yield block, part
            children.append(part.children)
        tables = Tables.join(children)


def _walk(
    memory: PhysicalMemory,
    context: PagingContext,
    level: int,
    tables: Tables,
    window: tuple[int, int],
) -> Iterator[Leaves]:
    for at in range(0, len(tables), _BLOCK):
        block = tables.take(slice(at, at + _BLOCK))
        first, last = int(block.va[0]), int(block.va[-1]) + 512 * LEVELS[level].span
        whole = window[0] <= first and last <= window[1]
        found = expand(memory, context, level, block, None if whole else window)
        leaves, children = found.leaves, found.children
        if not len(children):
            if len(leaves):
                yield leaves
            continue
        below = _walk(memory, context, level - 1, children, window)
        yield from below if not len(leaves) else _interleave(leaves, below)


def _interleave(leaves: Leaves, below: Iterator[Leaves]) -> Iterator[Leaves]:
    """Yield the blocks of `below` with large leaves put in where their addresses belong."""
    done = 0
    for block in below:
        until, through = np.searchsorted(leaves.va, block.va[[0, -1]])
        if until > done:
            yield leaves.take(slice(done, until))
        if through > until:
            both = Leaves.join([leaves.take(slice(until, through)), block])
            yield both.take(np.argsort(both.va, kind="stable"))
        else:
            yield block
        done = max(done, int(through))
    if done < len(leaves):
        yield leaves.take(slice(done, len(leaves)))


def _index_of(context: PagingContext, va: int) -> int:
    """Return the place of `va` in the index space; anything in the hole is its upper end."""
    half = 1 << (context.va_bits - 1)
    if va < half:
        return max(va, 0)
    return max(va - (TOP - 2 * half), half)


def canonical(context: PagingContext, va: U64) -> U64:
    """Return addresses of the index space as linear addresses, uint64[n]."""
    shift = np.int64(64 - context.va_bits)
    return (va.astype(np.int64) << shift >> shift).astype(np.uint64)
