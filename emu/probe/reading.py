"""The probe's own list of the pages that the tables map, whatever a walker lists.

It says which accesses are worth making. Of an entry it knows P, PS and the address field, of the
control registers the format, and nothing of rights or reserved bits: an entry that a processor
takes for malformed is listed, too, and accessed. Nothing is shared with the walker but memory.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.probe.control import Control
from crosswalk.emu.probe.frames import has_frames, words_of
from crosswalk.emu.probe.paths import format_of
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import FRAME, U64, PhysicalMemory

__all__ = ["Reading", "mapped"]

Block = tuple[U64, NDArray[np.uint8]]

_TABLES = 64  # Taken at a time: so many are as much as a block holds.
_PENDING = 1 << 20  # So many addresses of tables are gathered before equal ones are dropped.
_TOP = 1 << 64
_PRESENT = np.uint64(1)


def mapped(
    memory: PhysicalMemory,
    context: PagingContext,
    start: int = 0,
    end: int = _TOP,
    *,
    limit: int | None = None,
) -> Iterator[Block]:
    """Yield the pages that touch [start, end), as `Reading.mapped` does."""
    return Reading(memory, context).mapped(start, end, limit=limit)


class Reading:
    """An address space as the probe reads it; `memory` must not change meanwhile.

    `count` is the number of its pages, all of them. Each table has been read once a level when
    this is made, so that cycles, shared tables and tables with nothing below them cost no more
    than their number.
    """

    def __init__(self, memory: PhysicalMemory, context: PagingContext) -> None:
        control = Control.of(context)
        self._memory, self._control = memory, control
        self._format = form = format_of(control)
        self._shifts = [shift for shift, _ in form.levels]
        self._address = np.uint64(form.address & ~control.mask)
        frame = np.array([control.root & -FRAME], np.uint64)
        there = has_frames(memory, frame)[0]
        first, count = control.root % FRAME // form.entry_bytes, 1 << form.levels[0][1]
        root = self._entries(frame)[:, first : first + count if there else first]
        self._root = root
        # For each level below the root the frames that it has, and the pages below each.
        self._frames: list[U64] = []
        self._pages: list[U64] = []
        self.count = self._count()

    def mapped(
        self, start: int = 0, end: int = _TOP, *, limit: int | None = None
    ) -> Iterator[Block]:
        """Yield (va uint64[n], shift uint8[n]) of the pages that touch [start, end), in order.

        In blocks: pages of 1 << `shift` bytes, those of the lower half first, at most `limit` of
        all. Memory is bounded by a block, and time by what is yielded, whatever the tables say.
        """
        if start >= end:
            return
        left = self.count if limit is None else limit
        base = np.zeros(len(self._root), np.uint64)
        for va, shift in self._below(0, self._root, base, (start, end - 1)):
            if left <= 0:
                return
            yield va[:left], shift[:left]
            left -= len(va)

    def _entries(self, frames: U64) -> U64:
        """Return the entries of n tables, uint64[n, 512], in 32-bit paging uint64[n, 1024]."""
        return self._format.entries(words_of(self._memory, frames))

    def _tables(self, level: int, entries: U64) -> NDArray[np.bool_]:
        """Return which entries of this level refer to tables, in memory or not."""
        return self._format.tables(entries, self._shifts[level])

    def _count(self) -> int:
        """Find the tables of each level and the pages below each; return those of the root."""
        entries: Iterable[U64] = [self._root]
        for level in range(len(self._shifts) - 1):
            frames = self._below_all(level, entries)
            self._frames.append(frames)
            entries = self._blocks(frames)
        self._pages = [np.zeros(len(frames), np.uint64) for frames in self._frames]
        for level in range(len(self._frames), 0, -1):
            for number, some in enumerate(self._blocks(self._frames[level - 1])):
                at = number * _TABLES
                self._pages[level - 1][at : at + _TABLES] = self._pages_of(level, some)
        return int(self._pages_of(0, self._root).sum())

    def _blocks(self, frames: U64) -> Iterator[U64]:
        """Yield the entries of these tables, block by block: no more than that is held at once."""
        for at in range(0, len(frames), _TABLES):
            yield self._entries(frames[at : at + _TABLES])

    def _below_all(self, level: int, entries: Iterable[U64]) -> U64:
        """Return the frames in memory that tables of this level refer to as tables, ascending."""
        found, pending = [np.zeros(0, np.uint64)], 0
        for some in entries:
            found.append(np.unique(some[self._tables(level, some)] & self._address))
            pending += len(found[-1])
            if pending > _PENDING:
                # Of what many tables refer to in common little is left.
                found, pending = [np.unique(np.concatenate(found))], 0
        frames = np.unique(np.concatenate(found))
        return frames[has_frames(self._memory, frames)]

    def _pages_of(self, level: int, entries: U64) -> U64:
        """Return the number of pages that each of n tables of this level maps, uint64[n]."""
        table = self._tables(level, entries)
        leaf = ((entries & _PRESENT) != 0) & ~table
        found: U64 = leaf.sum(axis=1, dtype=np.uint64)
        if table.any():
            below = np.zeros(entries.shape, np.uint64)
            below[table] = self._pages_at(level, entries[table])
            found += below.sum(axis=1, dtype=np.uint64)
        return found

    def _pages_at(self, level: int, entries: U64) -> U64:
        """Return how many pages lie below each of these entries that refer to tables."""
        frames, address = self._frames[level], entries & self._address
        if not len(frames):
            return np.zeros(len(entries), np.uint64)
        at = np.minimum(np.searchsorted(frames, address), len(frames) - 1)
        return np.where(frames[at] == address, self._pages[level][at], np.uint64(0))

    def _below(self, level: int, entries: U64, base: U64, span: tuple[int, int]) -> Iterator[Block]:
        """Yield the pages below n tables, whose first linear addresses are `base`."""
        va, entry = self._present(level, entries, base, span)
        table = self._tables(level, entry)
        keep = ~table
        keep[table] = self._pages_at(level, entry[table]) != 0
        va, entry, table = va[keep], entry[keep], table[keep]
        shift = self._shifts[level]
        if level == len(self._shifts) - 2:
            yield from self._last_two(shift, va, entry, table, span)
            return
        # Runs of pages of this level, and of tables: one after the other keeps the order.
        for rows in np.split(np.arange(len(va)), np.flatnonzero(np.diff(table)) + 1):
            if len(rows) and not table[rows[0]]:
                yield va[rows], np.full(len(rows), shift, np.uint8)
                continue
            for at in range(0, len(rows), _TABLES):
                some = rows[at : at + _TABLES]
                read = self._entries(entry[some] & self._address)
                yield from self._below(level + 1, read, va[some], span)

    def _last_two(
        self,
        shift: int,
        va: U64,
        entry: U64,
        table: NDArray[np.bool_],
        span: tuple[int, int],
    ) -> Iterator[Block]:
        """Yield the pages of the level before the last, with those of the tables among them."""
        level = len(self._shifts) - 1
        turn = np.cumsum(table) // _TABLES
        for rows in np.split(np.arange(len(va)), np.flatnonzero(np.diff(turn)) + 1):
            below, above = rows[table[rows]], rows[~table[rows]]
            if len(below):
                read = self._entries(entry[below] & self._address)
                low, _ = self._present(level, read, va[below], span)
            else:
                low = np.zeros(0, np.uint64)
            both = np.concatenate([va[above], low])
            size = np.full(len(both), self._shifts[level], np.uint8)
            size[: len(above)] = shift
            order = np.argsort(both, kind="stable")
            if len(both):
                yield both[order], size[order]

    def _present(
        self, level: int, entries: U64, base: U64, span: tuple[int, int]
    ) -> tuple[U64, U64]:
        """Return linear addresses and values of the present entries that touch the span."""
        shift = self._shifts[level]
        index = np.arange(entries.shape[1], dtype=np.uint64) << np.uint64(shift)
        if level == 0 and self._control.long:
            index[len(index) // 2 :] |= np.uint64(_TOP - (1 << self._control.va_bits))
        va = base[:, None] + index
        present = (entries & _PRESENT) != 0
        present &= va <= np.uint64(span[1])
        present &= va + np.uint64((1 << shift) - 1) >= np.uint64(span[0])
        return va[present], entries[present]
