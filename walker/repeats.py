"""One page that is mapped over and over: whole page directories of it as one row.

Linux' KASAN maps one page 2^32 times, by a page directory whose entries all lead to one page table,
whose entries are all alike. Such a directory is told by its 512 entries and by those of the table
below, and what it maps doesn't have to be listed one by one. (Intel SDM vol. 3A, "4-Level Paging
and 5-Level Paging": a page directory translates 1 GiB.)
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.blocks import BLOCK, granted
from crosswalk.walker.bulk import classify
from crosswalk.walker.columns import Rows
from crosswalk.walker.entry import LEVELS, Entry
from crosswalk.walker.leaves import TOP, Leaves, Tables, Through, distinct_tables
from crosswalk.walker.memory import U64, PhysicalMemory
from crosswalk.walker.pages import Pages, pages, pages_of_leaves
from crosswalk.walker.second_level import (
    SecondLevel,
    TableContext,
    present_bits,
    table_level,
)
from crosswalk.walker.tables import read_tables

__all__ = ["USE", "Runs", "pages_and_runs"]

_DIRECTORY = 2
"""The level of page directories."""
_SPAN = 1 << LEVELS[_DIRECTORY].shift + LEVELS[_DIRECTORY].index_bits
"""The bytes that one of them translates."""
USE = int(Entry.A | Entry.D)
"""The flags that accesses set."""
_WAITING = 1 << 18
"""How many runs may wait for a page behind them before one of them is listed page by page."""


@dataclass(frozen=True, slots=True)
class Runs(Pages):
    """n runs of pages: each is the same page, mapped `count` times, uint64[n], in a row.

    The other columns are those of its first mapping; `size` is that of one.
    """

    count: U64


@dataclass(frozen=True, slots=True)
class _Directories(Rows):
    """n page directories that map one page all over, by `frame` uint64[n], ascending.

    `entry` uint64[n] is the entry that maps it first, `grant` uint8[n] what the directory and all
    below grant, `shift` uint8[n] the size of the page, 1 << shift bytes.
    """

    frame: U64
    entry: U64
    grant: NDArray[np.uint8]
    shift: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.frame)


def pages_and_runs(
    memory: PhysicalMemory,
    context: TableContext,
    start: int = 0,
    end: int = TOP,
    *,
    through: Through | None = None,
    edges: U64,
    ignore: int = USE,
) -> Iterator[Pages]:
    """Yield what `pages` does, but a page directory that maps one page all over as one of `Runs`.

    Its entries are alike but for `ignore`: A and D. In address order, block by block, of `Pages` or
    `Runs`; a run lies in [start, end) whole, and none of `edges`, ascending, lies inside one.
    """
    found = _directories(memory, context, ignore)
    if not len(found):
        yield from pages(memory, context, start, end, through=through)
        return
    waiting: list[Runs] = []

    def others(number: int, tables: Tables) -> Tables:
        """Keep the tables that map more than one page; what the others map waits."""
        tables = tables if through is None else through(number, tables)
        if number != _DIRECTORY or not len(tables):
            return tables
        row = np.minimum(np.searchsorted(found.frame, tables.frame), len(found) - 1)
        last = tables.va + np.uint64(_SPAN - 1)
        whole = found.frame[row] == tables.frame
        whole &= (tables.va >= start) & (last < end)
        whole &= np.searchsorted(edges, tables.va, "right") == np.searchsorted(edges, last, "right")
        chosen = np.flatnonzero(whole)
        if sum(map(len, waiting)) > _WAITING:
            # Its pages come soon, and all that waits before them.
            whole[chosen[:1]] = False
            chosen = chosen[1:]
        if not len(chosen):
            return tables
        waiting.append(_runs(context, tables.take(chosen), found.take(row[chosen])))
        return tables.take(np.flatnonzero(~whole))

    for block in pages(memory, context, start, end, through=others):
        yield from _merged(block, waiting)
    yield from waiting


def _merged(block: Pages, waiting: list[Runs]) -> Iterator[Pages]:
    """Yield a block with the runs that come before its last page, which wait no more."""
    if not waiting:
        yield block
        return
    runs = Runs.join(waiting)
    before = int(np.searchsorted(runs.va, block.va[-1]))
    waiting[:] = [runs.take(slice(before, None))] if before < len(runs) else []
    ones = np.ones(len(block), np.uint64)
    single = Runs(block.va, block.pa, block.flags, block.rights, block.shift, ones)
    both = Runs.join([runs.take(slice(before)), single])
    yield both.take(np.argsort(both.va, kind="stable"))


def _runs(context: TableContext, tables: Tables, found: _Directories) -> Runs:
    grant = tables.grant & found.grant
    leaves = Leaves(tables.va, found.entry, grant, found.shift, context.encryption_mask)
    rows = pages_of_leaves(leaves, context)
    count = np.uint64(_SPAN) >> found.shift.astype(np.uint64)
    return Runs(rows.va, rows.pa, rows.flags, rows.rights, rows.shift, count)


def _directories(memory: PhysicalMemory, context: TableContext, ignore: int) -> _Directories:
    """Return the page directories that map one page all over."""
    none = np.zeros(0, np.uint64)
    bits = np.zeros(0, np.uint8)
    parts = [_Directories(none, none, bits, bits)]
    if isinstance(context, SecondLevel) or context.mode.long:
        roots = np.array([context.root], np.uint64)
        levels = (it for number, it in distinct_tables(memory, context, roots) if number == 2)
        frames = next(levels).frame
        for at in range(0, len(frames), BLOCK):
            parts += _of_one_page(memory, context, frames[at : at + BLOCK], ignore)
    every = _Directories.join(parts)
    return every.take(np.argsort(every.frame))


def _of_one_page(
    memory: PhysicalMemory, context: TableContext, frames: U64, ignore: int
) -> Iterator[_Directories]:
    """Yield those of these page directories, first those of large pages, then the others."""
    alike, entry = _alike(memory, context, _DIRECTORY, frames, ignore)
    frame, entry = frames[alike], entry[alike]
    leaf, reserved = classify(context, _DIRECTORY, entry)
    large = np.flatnonzero(leaf & ~reserved)
    grant = granted(table_level(context, _DIRECTORY), entry)
    yield _row(frame[large], entry[large], grant[large], LEVELS[2].shift)

    upper = np.flatnonzero(~leaf & ~reserved)
    frame, grant = frame[upper], grant[upper]
    below = entry[upper] & np.uint64(context.address_mask)
    tables, row = np.unique(below, return_inverse=True)
    alike, page = _alike(memory, context, 1, tables, ignore)
    alike &= ~classify(context, 1, page)[1]
    good = alike[row]
    page = page[row][good]
    yield _row(
        frame[good], page, grant[good] & granted(table_level(context, 1), page), LEVELS[1].shift
    )


def _row(frame: U64, entry: U64, grant: NDArray[np.uint8], shift: int) -> _Directories:
    return _Directories(frame, entry, grant, np.full(len(frame), shift, np.uint8))


def _alike(
    memory: PhysicalMemory, context: TableContext, level: int, frames: U64, ignore: int
) -> tuple[NDArray[np.bool_], U64]:
    """Return which tables have 512 present entries alike but for `ignore`; and the first."""
    form = table_level(context, level)
    words = read_tables(memory, form, frames).astype(np.uint64, copy=False)
    first = words[:, 0].copy()
    counted = ~np.uint64(ignore)
    found = (first & np.uint64(present_bits(form))) != 0
    some = np.flatnonzero(found)
    found[some] = ((words[some] ^ first[some, None]) & counted == 0).all(axis=1)
    return found, first
