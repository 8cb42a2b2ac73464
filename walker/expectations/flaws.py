"""Entries in ranges of addresses with a flaw: reserved bits that are set, or a way out of RAM.

Tables that a range has as a whole are looked at once a level, whatever the number of ways that
lead to them; only those that its ends cut are looked at for each way. The cost is that of the
distinct tables.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.columns import Rows
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import is_leaf, level_of, reserved_bits
from crosswalk.walker.expectations.search import Span, indexed
from crosswalk.walker.expectations.sentences import Flaw
from crosswalk.walker.leaves import canonical
from crosswalk.walker.memory import U64, PhysicalMemory
from crosswalk.walker.spaces import Contexts, SpaceGroup, groups_of
from crosswalk.walker.tables import invalid_roots
from crosswalk.walker.unfollowed import PresentEntries, present_in_tables

__all__ = ["FlawedEntries", "FlawedEntry", "flawed_entries"]

_BLOCK = 512
"""How many tables are read at once."""


class FlawedEntry(NamedTuple):
    """An entry with a flaw, as the address space of `context` has it.

    `level` is that of its table, `pa` its own address, `entry` its value, `va` the lowest linear
    address that it translates by a way that was asked about; `reserved` are the reserved bits that
    it sets.
    """

    context: PagingContext
    level: int
    pa: int
    entry: int
    va: int
    flaw: Flaw
    reserved: int


@dataclass(frozen=True, slots=True)
class _Columns(Rows):
    """n entries: the row of a root that leads to each, and what `FlawedEntry` has of it."""

    root: NDArray[np.intp]
    va: U64
    level: NDArray[np.intp]
    pa: U64
    entry: U64

    def __len__(self) -> int:
        return len(self.pa)


@dataclass(frozen=True, slots=True)
class FlawedEntries:
    """All entries with a flaw, each once a level: root by root, by the address they translate."""

    flaw: Flaw
    groups: tuple[tuple[SpaceGroup, _Columns], ...]

    def __len__(self) -> int:
        return sum(len(columns) for _, columns in self.groups)

    def __iter__(self) -> Iterator[FlawedEntry]:
        for group, columns in self.groups:
            each = (columns.root, columns.level, columns.pa, columns.entry, columns.va)
            for root, level, pa, entry, va in zip(*(it.tolist() for it in each), strict=True):
                context = group.contexts[root]
                leaf = is_leaf(context, level, entry)
                reserved = entry & reserved_bits(context, level, leaf=leaf)
                yield FlawedEntry(context, level, pa, entry, va, self.flaw, reserved)


def flawed_entries(
    memory: PhysicalMemory, contexts: Contexts, spans: Sequence[Span], flaw: Flaw
) -> FlawedEntries:
    """Return the present entries of these address spaces that have a flaw.

    Those that translate any address in the ranges, which are in order and don't overlap. An entry
    of a table that several roots have, or that is reached several ways, is found once; its root is
    the first that leads to it.
    """
    return FlawedEntries(
        flaw,
        tuple(
            (group, _once(_Columns.join(_found(memory, group, spans, flaw))))
            for group in groups_of(contexts)
        ),
    )


@dataclass(frozen=True, slots=True)
class _Tables(Rows):
    """n tables of a level: their addresses, what they translate, and the rows of their roots."""

    frame: U64
    va: U64
    root: NDArray[np.intp]


class _Ranges:
    """Ranges of index space, in order and without overlaps."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self._start = np.array([start for start, _ in spans], np.uint64)
        self._end = np.array([end for _, end in spans], np.uint64)

    def touch(self, va: U64, size: int) -> NDArray[np.bool_]:
        """Return which of n pieces [va, va + size) have an address in a range, bool[n]."""
        at = np.searchsorted(self._end, va, side="right")
        found: NDArray[np.bool_] = self._starts(at) < va + np.uint64(size)
        return (at < len(self._start)) & found

    def hold(self, va: U64, size: int) -> NDArray[np.bool_]:
        """Return which of n pieces [va, va + size) lie in one range as a whole, bool[n]."""
        at = np.searchsorted(self._end, va + np.uint64(size), side="left")
        found: NDArray[np.bool_] = self._starts(at) <= va
        return (at < len(self._start)) & found

    def _starts(self, at: NDArray[np.intp]) -> U64:
        return np.append(self._start, np.uint64(0))[at]


def _found(
    memory: PhysicalMemory, group: SpaceGroup, spans: Sequence[Span], flaw: Flaw
) -> Iterator[_Columns]:
    """Yield the entries with a flaw, block by block, from the roots down."""
    context, ranges = group.context, _Ranges(indexed(group.context, spans))
    count = len(group.roots)
    tables = _Tables(group.roots, np.zeros(count, np.uint64), np.arange(count))
    barred = group.roots[invalid_roots(memory, context, group.roots)]
    for level in range(context.levels, 0, -1):
        size = level_of(context, level).span
        below = [tables.take(slice(0))]
        for at in range(0, len(tables.frame), _BLOCK):
            part = tables.take(slice(at, at + _BLOCK))
            block = present_in_tables(memory, context, level, part.frame, part.va)
            inside = ranges.touch(block.va, size)
            some = np.flatnonzero(inside & _wrong(memory, context, block, flaw))
            roots = part.root[block.table]
            yield _Columns(
                roots[some],
                canonical(context, block.va[some]),
                np.full(len(some), level),
                block.pa[some],
                block.entry[some],
            )
            down = inside & ~(block.leaf | block.reserved | block.outside)
            # A PAE address space that can't be entered has nothing below its PDPTEs.
            down &= ~np.isin(part.frame[block.table], barred) | (level < context.levels)
            address = block.entry & np.uint64(context.address_mask)
            below.append(_Tables(address, block.va, roots).take(np.flatnonzero(down)))
        tables = _distinct(_Tables.join(below), ranges, size)


def _wrong(
    memory: PhysicalMemory, context: PagingContext, block: PresentEntries, flaw: Flaw
) -> NDArray[np.bool_]:
    """Return which entries of a block have a flaw."""
    if flaw is Flaw.RESERVED:
        return block.reserved
    if flaw is Flaw.TABLE_OUTSIDE:
        return block.outside
    pages = block.leaves(context)
    held = _Ranges([(start, start + size) for start, size in memory.ranges])
    found = block.leaf & ~block.reserved
    found[np.flatnonzero(found)] = ~held.hold(pages.pa, level_of(context, block.level).span)
    return found


def _distinct(tables: _Tables, ranges: _Ranges, size: int) -> _Tables:
    """Return tables of one level once: those that ranges cut, of `size` bytes, for each address."""
    place = np.where(ranges.hold(tables.va, size), np.uint64(0), tables.va + np.uint64(1))
    order = np.lexsort((tables.va, tables.root, place, tables.frame))
    frame, place = tables.frame[order], place[order]
    fresh = np.ones(len(order), np.bool_)
    fresh[1:] = (frame[1:] != frame[:-1]) | (place[1:] != place[:-1])
    return tables.take(order[fresh])


def _once(found: _Columns) -> _Columns:
    """Return each entry once a level: root by root, by address, upper levels first."""
    order = np.lexsort((found.va, found.root, found.pa, found.level))
    level, pa = found.level[order], found.pa[order]
    fresh = np.ones(len(order), np.bool_)
    fresh[1:] = (level[1:] != level[:-1]) | (pa[1:] != pa[:-1])
    kept = found.take(order[fresh])
    return kept.take(np.lexsort((-kept.level, kept.va, kept.root)))
