"""Present entries that the walk can't follow: dangling tables (outside memory), malformed entries.

Each table is looked at once a level, whatever the number of ways that lead to it, so that the
cost is that of the distinct tables in memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.bulk import classify
from crosswalk.walker.context import PagingMode
from crosswalk.walker.entry import ADDRESS_FIELD
from crosswalk.walker.leaves import Leaves, canonical
from crosswalk.walker.memory import U64, PhysicalMemory
from crosswalk.walker.second_level import (
    SecondLevel,
    Space,
    TableContext,
    present_bits,
    table_level,
)
from crosswalk.walker.spaces import AnyGroup, groups_of
from crosswalk.walker.tables import entries_with, invalid_roots

__all__ = [
    "PresentEntries",
    "Reason",
    "Unfollowed",
    "UnfollowedEntry",
    "present_in_tables",
    "unfollowed",
]

_BLOCK = 512
# Children of many tables are merged from time to time, so that the rows kept are those of
# distinct tables and not of all ways that lead to them.
_MERGED = 1 << 20
_FIRST = 4


class Reason(StrEnum):
    """Why an entry can't be followed."""

    OUTSIDE = "outside"
    """It refers to a table that isn't, as a whole, in memory."""
    RESERVED = "reserved"
    """It sets a reserved bit, or PS where no page can be."""


@dataclass(frozen=True, slots=True)
class UnfollowedEntry:
    """One entry: `entry` is its value, `pa` its own address, `level` that of its table.

    `va` is the lowest linear address that it translates, `mode` the paging mode; None in the tables
    of a hypervisor.
    """

    va: int
    pa: int
    entry: int
    level: int
    reason: Reason
    mode: PagingMode | None


@dataclass(frozen=True, slots=True)
class Unfollowed:
    """Counts of the present entries of address spaces, each entry counted once a level.

    `outside`: entries that refer to tables outside memory (dangling tables). `reserved`: entries
    that set reserved bits. `first`: those of both with the lowest addresses. `entries`: all
    present entries. `leaves`: those that map a page; `leaves_outside`: of these, the ones whose
    page doesn't begin in memory, which are mappings all the same; `leaves_beyond_46`: of these,
    the ones with address bits from 46 up. `root_entries`, `root_unfollowed`: entries of the roots,
    and how many of them can't be followed. `beyond_40`, `beyond_46`: entries that are followed
    and have address bits from 40, or from 46, up.
    """

    outside: int = 0
    reserved: int = 0
    first: tuple[UnfollowedEntry, ...] = ()
    entries: int = 0
    leaves: int = 0
    leaves_outside: int = 0
    leaves_beyond_46: int = 0
    root_entries: int = 0
    root_unfollowed: int = 0
    beyond_40: int = 0
    beyond_46: int = 0

    def __len__(self) -> int:
        """Return the number of entries that can't be followed."""
        return self.outside + self.reserved

    @property
    def implausible(self) -> bool:
        """Whether these are hardly page tables: more than half of the entries make no sense.

        Of the roots' present entries, or of all, more than half can't be followed or map an
        address from 2^46 up that isn't in memory. Tables of a running system have next to none.
        """
        senseless = len(self) + self.leaves_beyond_46
        return 2 * self.root_unfollowed > self.root_entries or 2 * senseless > self.entries


@dataclass(frozen=True, slots=True)
class PresentEntries:
    """The n present entries of some tables of one level, table by table.

    `table` int[n] are the rows of their tables; `va` uint64[n] the lowest address in index space
    that each translates, `pa` its own address, `entry` its value. `leaf`, `reserved` and `outside`
    bool[n] say whether it maps a page, sets a reserved bit, or refers to a table that isn't in
    memory as a whole.
    """

    level: int
    table: NDArray[np.intp]
    va: U64
    pa: U64
    entry: U64
    leaf: NDArray[np.bool_]
    reserved: NDArray[np.bool_]
    outside: NDArray[np.bool_]

    def leaves(self, context: TableContext) -> Leaves:
        """Return those that map a page, without their grants."""
        some = self.leaf & ~self.reserved
        count = int(some.sum())
        shift = np.full(count, table_level(context, self.level).shift, np.uint8)
        mask = context.encryption_mask
        return Leaves(self.va[some], self.entry[some], np.zeros(count, np.uint8), shift, mask)

    def down(self, context: TableContext, barred: U64 | None) -> tuple[U64, U64]:
        """Return the distinct addresses of the tables below, and the lowest va of each.

        But for those below `barred`, PAE roots that can't be entered.
        """
        some = ~(self.leaf | self.reserved | self.outside)
        if barred is not None and len(barred):
            some &= ~np.isin(self.pa & ~np.uint64(31), barred)
        return _lowest(self.entry[some] & np.uint64(context.address_mask), self.va[some])

    def first(self, context: TableContext, count: int) -> list[UnfollowedEntry]:
        """Return the `count` entries of the lowest addresses that can't be followed."""
        mode = None if isinstance(context, SecondLevel) else context.mode
        found = np.flatnonzero(self.reserved | self.outside)
        found = found[np.argsort(self.va[found], kind="stable")][:count]
        return [
            UnfollowedEntry(va, pa, entry, self.level, _reason(reserved=reserved), mode)
            for va, pa, entry, reserved in zip(
                canonical(context, self.va[found]).tolist(),
                self.pa[found].tolist(),
                self.entry[found].tolist(),
                self.reserved[found].tolist(),
                strict=True,
            )
        ]


def unfollowed(
    memory: PhysicalMemory,
    context: Space | Sequence[Space],
    *,
    first: int = _FIRST,
    tables: int | None = None,
) -> Unfollowed:
    """Return what of these address spaces can't be followed, with the `first` few entries.

    With `tables`, no more than so many of a level are looked at, those of the lowest physical
    addresses. What address spaces share counts once, if their contexts differ in CR3 alone.

    Where a PAE address space can't be entered, for a reserved bit in a PDPTE, only the PDPTEs are
    counted. A root outside memory has no entries.
    """
    counts = np.zeros(10, np.int64)
    found: list[UnfollowedEntry] = []
    for group in groups_of(context):
        registers = group.context
        for block in _blocks(memory, group, tables):
            bad = block.reserved | block.outside
            pages = block.leaves(registers).pa
            away = ~memory.backed(pages)
            address = block.entry[~bad] & np.uint64(ADDRESS_FIELD & registers.address_mask)
            of_root = block.level == registers.levels
            counts += [
                block.outside.sum(),
                block.reserved.sum(),
                len(bad),
                len(pages),
                away.sum(),
                (away & (pages >> np.uint64(46) != 0)).sum(),
                len(bad) if of_root else 0,
                bad.sum() if of_root else 0,
                (address >> np.uint64(40) != 0).sum(),
                (address >> np.uint64(46) != 0).sum(),
            ]
            found += block.first(registers, first)
            found = sorted(found, key=lambda each: (each.va, -each.level))[:first]
    outside, reserved, *others = counts.tolist()
    return Unfollowed(outside, reserved, tuple(found), *others)


def _blocks(
    memory: PhysicalMemory, group: AnyGroup[Space], tables: int | None
) -> Iterator[PresentEntries]:
    """Yield the present entries of all distinct tables, from the roots down."""
    context = group.context
    frame, va = np.sort(group.roots), np.zeros(len(group.roots), np.uint64)
    barred = np.sort(group.roots[invalid_roots(memory, context, group.roots)])
    for level in range(context.levels, 0, -1):
        below = [(frame[:0], va[:0])]
        for at in range(0, len(frame), _BLOCK):
            block = present_in_tables(
                memory, context, level, frame[at : at + _BLOCK], va[at : at + _BLOCK]
            )
            yield block
            below.append(block.down(context, barred if level == context.levels else None))
            if sum(len(each) for each, _ in below[1:]) > _MERGED:
                below = [_merged(below)]
        frame, va = (column[:tables] for column in _merged(below))


def present_in_tables(
    memory: PhysicalMemory, context: TableContext, level: int, frame: U64, va: U64
) -> PresentEntries:
    """Return the present entries of tables at `frame`, uint64[n], of one level.

    `va` uint64[n] are the addresses in index space that the tables' first bytes translate.
    """
    form = table_level(context, level)
    table, index, entry = entries_with(memory, form, frame, present_bits(form))
    leaf, reserved = classify(context, level, entry)
    followed = np.flatnonzero(~leaf & ~reserved)
    target, inverse = np.unique(
        entry[followed] & np.uint64(context.address_mask), return_inverse=True
    )
    outside = np.zeros(len(entry), np.bool_)
    outside[followed] = ~memory.backed(target)[inverse]
    return PresentEntries(
        level,
        table,
        va[table] + (index << np.uint64(form.shift)),
        frame[table] + index * np.uint64(form.entry_size),
        entry,
        leaf,
        reserved,
        outside,
    )


def _merged(parts: list[tuple[U64, U64]]) -> tuple[U64, U64]:
    frames, addresses = (np.concatenate(column) for column in zip(*parts, strict=True))
    return _lowest(frames, addresses)


def _lowest(frame: U64, va: U64) -> tuple[U64, U64]:
    """Return the distinct frames, ascending, and the lowest va of each."""
    order = np.argsort(frame, kind="stable")
    frame, va = frame[order], va[order]
    fresh = np.ones(len(frame), np.bool_)
    fresh[1:] = frame[1:] != frame[:-1]
    first = np.flatnonzero(fresh)
    return frame[first], np.minimum.reduceat(va, first) if len(first) else va


def _reason(*, reserved: bool) -> Reason:
    return Reason.RESERVED if reserved else Reason.OUTSIDE
