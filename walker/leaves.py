"""The walk: every leaf of an address space, as columns, in address order, block by block.

The linear address space is walked as an index space of 48 or 57 bits, in which the lower half
comes first and the upper half follows without the hole between them; outside IA-32e mode it is
the 32 bits that there are. A PAE address space that can't be entered maps nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.blocks import (
    BLOCK,
    Leaves,
    Tables,
    clip,
    granted,
    interleave,
    present_entries,
    without_reserved,
)
from crosswalk.walker.bulk import classify, leaves_among, sign_extended
from crosswalk.walker.entry import reserved_bits
from crosswalk.walker.memory import FRAME, U64, PhysicalMemory
from crosswalk.walker.rights import ALL_GRANTS
from crosswalk.walker.second_level import (
    SecondLevel,
    Space,
    TableContext,
    present_bits,
    table_level,
)
from crosswalk.walker.spaces import groups_of
from crosswalk.walker.tables import entries_with, invalid_pdpte

__all__ = [
    "TOP",
    "Leaves",
    "Tables",
    "Through",
    "distinct_tables",
    "expand",
    "malformed_addresses",
    "malformed_entries",
    "root_table",
    "root_tables",
    "table_frames",
    "walk_leaves",
]

TOP = 1 << 64
"""The end of the address space, as an end that is not included."""
Through = Callable[[int, Tables], Tables]
"""Those of some tables of a level, in address order, that a walk goes on to."""
# After a block with fewer entries a table than _FEW, the next is _SPARSE times as large.
_FEW, _SPARSE = 32, 8


class Expanded(NamedTuple):
    """The entries of a block of tables: leaves, tables below, and malformed ones (not zero).

    `leaf_parent` and `child_parent` are the rows in the block of the tables they are from.
    """

    leaves: Leaves
    children: Tables
    malformed: Leaves
    leaf_parent: NDArray[np.intp]
    child_parent: NDArray[np.intp]


def root_table(context: TableContext) -> Tables:
    """Return the one table at which every walk begins."""
    return root_tables(context, np.array([context.root], np.uint64))


def root_tables(context: TableContext, roots: U64) -> Tables:
    """Return the root tables at these physical addresses, each at the first linear address."""
    count = len(roots)
    every = len(context.rights) - 1 if isinstance(context, SecondLevel) else ALL_GRANTS
    return Tables(np.zeros(count, np.uint64), roots, np.full(count, every, np.uint8))


def expand(
    memory: PhysicalMemory,
    context: TableContext,
    level: int,
    tables: Tables,
) -> Expanded:
    """Return what these tables of one level hold, in index space, in order."""
    form = table_level(context, level)
    table, index, entry = entries_with(memory, form, tables.frame)
    va = tables.va[table] + (index << np.uint64(form.shift))
    leaf, reserved = classify(context, level, entry)
    present = (entry & np.uint64(present_bits(form))) != 0
    good = present & ~reserved
    grant = tables.grant[table]
    if form.restricts:
        grant = grant & granted(form, entry)
    elif not isinstance(context, SecondLevel) and context.loads_pdptes and (present & ~good).any():
        # They are loaded together, or not at all.
        good &= ~np.isin(table, table[present & ~good])
    shift = np.full(len(entry), form.shift, np.uint8)
    columns = Leaves(va, entry, grant, shift, context.encryption_mask)
    down, page = good & ~leaf, good & leaf
    return Expanded(
        columns.take(page),
        Tables(va[down], entry[down] & np.uint64(context.address_mask), grant[down]),
        columns.take(~good),
        table[page],
        table[down],
    )


def walk_leaves(
    memory: PhysicalMemory,
    context: TableContext,
    start: int = 0,
    end: int = TOP,
    *,
    through: Through | None = None,
) -> Iterator[Leaves]:
    """Yield all leaves whose pages touch [start, end), in address order, in blocks.

    With `through` those alone to which the tables lead that it lets pass.

    Entries that set a reserved bit map nothing and are not listed. Memory is bounded by the
    block, whatever the image says, and nothing is read before it is asked for: an image of
    2^36 mappings can be read from the start, and no further than wanted.
    """
    if start >= end or invalid_pdpte(memory, context) is not None:
        return
    top = table_level(context, context.levels)
    root = present_entries(memory, top, root_table(context), context.encryption_mask)
    root = clip(replace(root, va=canonical(context, root.va)), top, start, end)
    walk = _Walk(memory, context, start, end, through)
    leaves, tables = walk.split(context.levels, root)
    below = walk.tables(context.levels - 1, tables)
    yield from interleave(leaves, below) if len(leaves) else below


class _Walk:
    """One walk of [start, end): its arguments, and the format of each level."""

    def __init__(
        self,
        memory: PhysicalMemory,
        context: TableContext,
        start: int,
        end: int,
        through: Through | None,
    ) -> None:
        self._memory = memory
        self._context = context
        self._start, self._end = start, end
        self._through = through
        self._levels = {
            level: table_level(context, level) for level in range(1, context.levels + 1)
        }
        self._reserved = {
            (level, leaf): np.uint64(reserved_bits(context, level, leaf=leaf))
            for level in range(1, context.levels + 1)
            for leaf in (False, True)
            if not isinstance(context, SecondLevel)
        }

    def tables(self, level: int, tables: Tables) -> Iterator[Leaves]:
        """Yield the leaves of these tables of one level, and of all below."""
        form = self._levels[level]
        at, size = 0, BLOCK
        while at < len(tables):
            block = tables.take(slice(at, at + size))
            found = present_entries(self._memory, form, block, self._context.encryption_mask)
            at += len(block)
            # Where tables are nearly empty, it's the calls that take the time, not the rows.
            size = BLOCK * (_SPARSE if len(found) < len(block) * _FEW else 1)
            first, last = int(block.va[0]), int(block.va[-1]) + form.entries * form.span
            if self._start > first or last > self._end:
                found = clip(found, form, self._start, self._end)
            if level == 1:
                leaves = self._good(1, found, leaf=True)
                if len(leaves):
                    yield leaves
            else:
                leaves, children = self.split(level, found)
                below = self.tables(level - 1, children)
                yield from interleave(leaves, below) if len(leaves) else below

    def split(self, level: int, found: Leaves) -> tuple[Leaves, Tables]:
        """Return the pages and the tables among present entries of one level above 1."""
        leaf = leaves_among(self._context, level, found.entry)
        leaves = self._good(level, found.take(np.flatnonzero(leaf)), leaf=True)
        upper = self._good(level, found.take(np.flatnonzero(~leaf)), leaf=False)
        frames = upper.entry & np.uint64(self._context.address_mask)
        tables = Tables(upper.va, frames, upper.grant)
        return leaves, tables if self._through is None else self._through(level - 1, tables)

    def _good(self, level: int, found: Leaves, *, leaf: bool) -> Leaves:
        """Return those of these present entries, all leaves or all none, that aren't malformed."""
        if isinstance(self._context, SecondLevel):
            bad = self._context.malformed(level, found.entry, leaf=leaf)
            return found.take(np.flatnonzero(~bad)) if bad.any() else found
        return without_reserved(found, self._reserved[level, leaf])


def malformed_entries(memory: PhysicalMemory, context: TableContext) -> Leaves:
    """Return the entries that are not zero and map nothing, in address order.

    These have P clear and other bits set, or set a reserved bit. A table that is reached by
    several ways counts once, at its lowest address, so that the cost is that of the distinct
    tables.
    """
    parts = [part.malformed for _, part in _distinct(memory, context)]
    every = Leaves.join([Leaves.none(), *parts])
    every = every.take(np.argsort(every.va, kind="stable"))
    return replace(every, va=canonical(context, every.va))


def malformed_addresses(memory: PhysicalMemory, context: TableContext) -> Iterator[U64]:
    """Yield lowest linear addresses, uint64[n], of malformed entries and of dangling tables.

    Malformed as `malformed_entries` has it; of entries that refer to one table outside RAM, the
    lowest in each block of tables. Block by block, from the root down, each table once a level:
    memory and time are bounded by the distinct tables, whatever the image says.
    """
    for _, part in _distinct(memory, context):
        outside = ~memory.backed(part.children.frame)
        found = np.concatenate([part.malformed.va, part.children.va[outside]])
        yield canonical(context, found)


def table_frames(memory: PhysicalMemory, contexts: Space | Sequence[Space]) -> U64:
    """Return the frames of all tables that walks can read, ascending, uint64[n].

    Those outside RAM are not among them. In the frame of a PDPT of PAE paging there may be more.
    """
    parts = [np.zeros(0, np.uint64)]
    for group in groups_of(contexts):
        parts += [it.frame for _, it in distinct_tables(memory, group.context, group.roots)]
    found = np.unique(np.concatenate(parts) & ~np.uint64(FRAME - 1))
    return found[memory.backed(found)]


def distinct_tables(
    memory: PhysicalMemory, context: TableContext, roots: U64
) -> Iterator[tuple[int, Tables]]:
    """Yield the tables of each level from the roots down, each table once a level.

    Those of all contexts that differ from this one in CR3 alone and have these roots, tables
    outside RAM included; each at the lowest address, in index space, that it translates. Entries
    of the last level are not read.
    """
    tables = _lowest(root_tables(context, roots))
    for level in range(context.levels, 1, -1):
        yield level, tables
        children = [tables.take(slice(0))]
        for at in range(0, len(tables), BLOCK):
            part = expand(memory, context, level, tables.take(slice(at, at + BLOCK)))
            children.append(_lowest(part.children))
        tables = _lowest(Tables.join(children))
    yield 1, tables


def _lowest(tables: Tables) -> Tables:
    """Return each table once, at its lowest address, in address order."""
    order = np.lexsort((tables.va, tables.frame))
    frame = tables.frame[order]
    fresh = np.ones(len(order), np.bool_)
    fresh[1:] = frame[1:] != frame[:-1]
    kept = order[fresh]
    return tables.take(kept[np.argsort(tables.va[kept], kind="stable")])


def _distinct(memory: PhysicalMemory, context: TableContext) -> Iterator[tuple[Tables, Expanded]]:
    """Yield all tables in blocks, each table once a level, and what they hold."""
    tables = root_table(context)
    for level in range(context.levels, 0, -1):
        _, first = np.unique(tables.frame, return_index=True)
        tables = tables.take(np.sort(first))
        children = [tables.take(slice(0))]
        for at in range(0, len(tables), BLOCK):
            block = tables.take(slice(at, at + BLOCK))
            part = expand(memory, context, level, block)
            _, first = np.unique(part.children.frame, return_index=True)
            part = part._replace(children=part.children.take(np.sort(first)))
            yield block, part
            children.append(part.children)
        tables = Tables.join(children)


def canonical(context: TableContext, va: U64) -> U64:
    """Return addresses of the index space as linear addresses, uint64[n].

    Guest-physical ones are as they are.
    """
    if isinstance(context, SecondLevel):
        return va
    return sign_extended(va, context.va_bits) if context.mode.long else va
