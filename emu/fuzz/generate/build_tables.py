"""Tables built path by path, and for each entry the intention behind it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.fuzz.generate.formats import TableFormat, format_of
from crosswalk.emu.fuzz.generate.path_plan import LEVELS, PS, RW, US, XD, P, PathPlan
from crosswalk.emu.fuzz.generate.portable import portable_pages
from crosswalk.emu.fuzz.target import End
from crosswalk.emu.probe.trampoline import PREFERRED_GIB
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import FRAME, U64

__all__ = [
    "LEGACY_RAM",
    "MAX_TABLES",
    "RAM",
    "TABLE",
    "WIDE_RAM",
    "BuiltTables",
    "build_tables",
    "clear_of_probe",
]

MAX_TABLES = 192

TABLE = 4
"""A `kind` of entry: it leads to the next table. Other kinds are those of `End`."""
WILD = 5
"""A `kind` of entry: it leads to a table of any level, and nothing behind it is intended."""

_TARGETS_SHARE = 0.7
"""Probability that the path of a target goes through an existing table."""

_AGAIN = 0.5
"""Probability that a recursive slot is used again, down to the table itself."""

_WRITE, _USER, _EXECUTE = 1, 2, 4
_ALL = np.uint8(_WRITE | _USER | _EXECUTE)

_TOP = 1 << 40
RAM = ((0, 4 << 30), (8 << 30, 1 << 30), (_TOP - (16 << 20), 16 << 20))
"""RAM of most layouts, the same so that engines can be kept; most of it is never touched."""
LEGACY_RAM = ((0, 2 << 30), *RAM[1:])
"""The same for 32-bit and PAE paging, where the probe's own pages lie below 4 GiB, too."""
_BLOCK = 1 << 20
WIDE_RAM = tuple((1 << bit, _BLOCK) for bit in range(40, 52))
"""What there is besides in a layout of physical addresses up to 2^52, above those of the probe."""

_LARGE_NEAR = 0.7
_WIDE_TABLES, _WIDE_PAGES = 0.15, 0.4
"""Probabilities of a table, and of a page, at an address of 2^40 and up, where there may be."""
_LOW, _LOW_SIZE = 1 << 20, 31 << 20  # Where tables lie, and small pages.
_FIELD = np.uint64(0x000F_FFFF_FFFF_F000)
_GIB = np.uint64(30)


class FrameAllocator:
    """Draws physical addresses: `tables` uint64[t], and those of pages.

    With `wide` many of them are above those that the emulated CPU has, up to MAXPHYADDR; with
    `portable` all of them where machines have RAM.
    """

    def __init__(
        self,
        chance: np.random.Generator,
        context: PagingContext,
        tables: int,
        *,
        wide: bool,
        portable: bool = False,
    ) -> None:
        self._chance, self._form, self._portable = chance, format_of(context), portable
        frames = _LOW + FRAME * chance.permutation(_LOW_SIZE // FRAME)[: tables + 64]
        self.tables: U64 = frames[:tables].astype(np.uint64)
        self._pages = frames[tables:].tolist()
        self._top = context.maxphyaddr >= 40 and not portable
        # With a lower MAXPHYADDR, entries that lead there have a reserved bit.
        high = chance.random(tables) < chance.choice([0.0, 0.1]) * (not portable)
        # In 32-bit paging all tables lie below 4 GiB, in PAE paging that of CR3 does.
        high[0] &= self._top and self._form.long
        high &= self._form.entry_bytes == 8
        offsets = FRAME * chance.permutation((16 << 20) // FRAME)[:tables]
        self.tables[high] = (_TOP - FRAME - offsets[high]).astype(np.uint64)
        if self._top and self._form.entry_bytes == 8:
            self._pages += [_TOP - FRAME, _TOP - 2 * FRAME]
        self._wide: U64 = np.zeros(0, np.uint64)
        if wide:
            self._place_widely(context.maxphyaddr)
        self._limit = 1 << context.maxphyaddr
        self._most = {1: self._limit}
        if self._form.entry_bytes == 4:
            self._most = {1: 1 << 32, 2: min(self._limit, 1 << 40)}
        self._unused = np.uint64(context.encryption_mask)
        self._tables_as_pages = float(chance.choice([0.0, 0.02, 0.08]))
        if portable:  # Machines can't be asked for writes to paging structures.
            self._tables_as_pages /= 4

    def _place_widely(self, maxphyaddr: int) -> None:
        """Move some tables to addresses of 2^40 and up, each to its own; the root in long mode."""
        chance, count = self._chance, len(self.tables)
        frames = FRAME * chance.permutation(_BLOCK // FRAME)[:count].astype(np.uint64)
        bits = chance.integers(40, maxphyaddr, count).astype(np.uint64)
        self._wide = (np.uint64(1) << bits) + frames
        moved = chance.random(count) < _WIDE_TABLES
        moved[0] &= self._form.long
        self.tables[moved] = self._wide[moved]

    def pages(self, level: NDArray[np.intp], tables: U64) -> U64:
        """Return the address of a page for each leaf of these levels; sometimes that of a table."""
        chance, count = self._chance, len(level)
        draw = chance.random(count)
        sizes = self._form.sizes(level)
        most = np.array([self._most.get(each, self._limit) for each in range(LEVELS)], np.uint64)
        ram = np.uint64(4 << 30 if self._form.long else 2 << 30)
        near = draw < 0.96
        if self._form.entry_bytes == 4:
            # Of the pages of 4 MiB, which alone may lie above 4 GiB, more do.
            near &= (level == 1) | (draw < _LARGE_NEAR)
        limit: U64 = np.where(near, ram, most[level])
        number = chance.integers(0, 1 << 52, count).astype(np.uint64)
        found: U64 = number % (limit // sizes) * sizes
        if self._portable:
            found = portable_pages(number, sizes)
        small = level == 1
        few = np.array(self._pages, np.uint64)[number % np.uint64(len(self._pages))]
        found = np.where(small & (draw < 0.94), few, found)
        table = tables[number % np.uint64(len(tables))]
        table = np.where(table < np.uint64(self._limit), table, tables[0])
        found = np.where(small & (draw < self._tables_as_pages), table, found)
        if self._top:
            top = np.uint64(_TOP) - sizes
            found = np.where(~small & (draw > 0.98), top, found)
        if len(self._wide):
            one = self._wide[number % np.uint64(len(self._wide))]
            # Pages with several of these address bits have no RAM.
            several: U64 = (number % np.uint64(5) == 0) * (number % np.uint64(self._limit))
            wide: U64 = (one | several >> np.uint64(40) << np.uint64(40)) & ~(sizes - np.uint64(1))
            found = np.where(chance.random(count) < _WIDE_PAGES, wide, found)
        # Bits of an encryption mask are no part of an address.
        return clear_of_probe(found & ~self._unused)

    def outside(self, count: int) -> U64:
        """Return frames without RAM."""
        first = 5 << 30 if self._form.long else 2 << 30
        return (first + FRAME * self._chance.integers(0, 1 << 18, count)).astype(np.uint64)

    def junk(self, flags: U64) -> U64:
        """Return the words of entries that aren't present: random ones, or zero."""
        count = len(flags)
        any_ = self._chance.integers(0, 1 << 63, count).astype(np.uint64) << np.uint64(1) | flags
        any_ &= np.uint64((1 << 8 * self._form.entry_bytes) - 2)
        return np.where(self._chance.random(count) < 0.3, np.uint64(0), clear_of_probe(any_))


def clear_of_probe(words: U64) -> U64:
    """Return words without the address of the GiB that the probe reserves for itself."""
    named = (words & _FIELD) >> _GIB == np.uint64(PREFERRED_GIB)
    cleared: U64 = np.where(named, words ^ np.uint64(1 << 31), words)
    return cleared


@dataclass(slots=True)
class BuiltTables:
    """t tables: their `frames` uint64[t] and `words` uint64[t, w], the entries, the root first.

    w is the number of entries in a frame, 512 or 1024 (32-bit paging). The PDPT of PAE paging has
    the first four of its frame. Of the same shape as `words`: `grant`, the rights that an entry is
    intended to allow (1 write, 2 user, 4 execute); `kind`, `End`, TABLE or WILD, and -1 where there
    is no entry; `leaf_pa`, the page of a leaf. For each of n paths `step` int64[n, 6] is the entry
    used at a level, as row * w + index, -1 for none.
    """

    form: TableFormat
    frames: U64
    words: U64
    grant: NDArray[np.uint8]
    kind: NDArray[np.int8]
    leaf_pa: U64
    step: NDArray[np.int64]
    count: int


def build_tables(
    chance: np.random.Generator,
    context: PagingContext,
    plan: PathPlan,
    *,
    wide: bool = False,
    portable: bool = False,
) -> BuiltTables:
    """Give every path its entries; where two paths share one, it is the first path's.

    With `wide` many tables and pages are at addresses of 2^40 and up; with `portable` all of them
    are in `PORTABLE_RAM`.
    """
    form = format_of(context)
    allocator = FrameAllocator(chance, context, MAX_TABLES, wide=wide, portable=portable)
    placed = _EntryAllocator(chance, form, plan)
    placed.place(plan)
    _follow(chance, plan, placed.loops, form)
    shape = (MAX_TABLES, form.width)
    built = BuiltTables(
        form,
        allocator.tables,
        np.zeros(shape, np.uint64),
        np.zeros(shape, np.uint8),
        np.full(shape, -1, np.int8),
        np.zeros(shape, np.uint64),
        placed.step,
        placed.count,
    )
    _write_tables(built, context, plan, np.array(placed.leads, np.intp).reshape(-1, 5))
    _write_ends(built, allocator, context, plan, np.array(placed.ends, np.intp).reshape(-1, 3))
    return built


class _EntryAllocator:
    """Allocates the entries of paths, level by level. An entry's number is row * width + index.

    `leads` are (entry, path, level, child's row, kind) of entries that lead to a table, `ends`
    (entry, path, level) of the others; `loops` (path, level) of recursive slots.
    """

    def __init__(self, chance: np.random.Generator, form: TableFormat, plan: PathPlan) -> None:
        shape = (len(plan), LEVELS)
        self.step = np.full(shape, -1, np.int64)
        self.count = 1
        self.leads: list[tuple[int, int, int, int, int]] = []
        self.ends: list[tuple[int, int, int]] = []
        self.loops: list[tuple[int, int]] = []
        self._levels, self._width = form.levels, form.width
        self._targets = len(plan.targets)
        self._share = float(chance.choice([0.0, 0.1, 0.25]))
        self._wild = float(chance.choice([0.0, 0.0, 0.05, 0.15]))
        self._loop = float(chance.choice([0.0, 0.05, 0.2]))
        self._draws: NDArray[np.float64] = chance.random(shape)
        self._picks: NDArray[np.int64] = chance.integers(0, 1 << 30, shape)

    def place(self, plan: PathPlan) -> None:
        """Allocate the entries of all paths, from the root down to the end of each."""
        going = np.arange(len(plan))
        row = np.zeros(len(plan), np.int64)
        for level in range(self._levels, 0, -1):
            at = row * self._width + plan.index[going, level]
            # The path of a target has entries of its own, even in a shared table.
            targets = int(np.searchsorted(going, self._targets))
            at[:targets] = _fresh(at[:targets].tolist(), self._width)
            self.step[going, level] = at
            entry, first, which = np.unique(at, return_index=True, return_inverse=True)
            owner = going[first]
            child = np.full(len(entry), -1)
            last = (plan.level[owner] == level) | (level == 1)
            ends = (entry[last], owner[last], np.full(int(last.sum()), level))
            self.ends += zip(*(column.tolist() for column in ends), strict=True)
            # In the order of the paths, as each may take a table of an earlier one.
            leads = np.flatnonzero(~last)
            leads = leads[np.argsort(owner[leads])]
            child[leads] = self._lead(level, entry[leads].tolist(), owner[leads].tolist())
            on = child[which] >= 0
            going, row = going[on], child[which][on]

    def _lead(self, level: int, entries: list[int], owners: list[int]) -> list[int]:
        """Return the child table of each new entry of a level; -1 if nothing behind is intended."""
        below: list[int] = []
        children = []
        # Each level gets as many tables as it can while the levels below get theirs.
        most = 1 + (MAX_TABLES - 1) * (self._levels + 1 - level) // (self._levels - 1)
        draws = self._draws[owners, level].tolist()
        picks = self._picks[owners, level].tolist()
        for at, path, draw, pick in zip(entries, owners, draws, picks, strict=True):
            own = path < self._targets
            wild = draw < self._wild
            if not own and (wild or draw > 1 - self._loop):
                # A recursive slot leads to its own table.
                row = pick % self.count if wild else at // self._width
                self.leads.append((at, path, level, row, WILD))
                children.append(-1)
                if not wild:
                    self.loops.append((path, level))
                continue
            shared = _TARGETS_SHARE if own else self._wild + self._share
            if below and (self.count >= most or draw < shared):
                child = below[pick % len(below)]
            else:
                child = self.count
                self.count += 1
                below.append(child)
            children.append(child)
            self.leads.append((at, path, level, child, TABLE))
        return children


def _follow(
    chance: np.random.Generator, plan: PathPlan, loops: list[tuple[int, int]], form: TableFormat
) -> None:
    """Continue the paths into recursive slots: along another path, or by the same slot again."""
    for (path, level), draw, other in zip(
        loops, chance.random(len(loops)), chance.integers(0, len(plan), len(loops)), strict=True
    ):
        index = plan.index
        if draw < _AGAIN:
            index[path, 1:level] = index[path, level]
        else:
            index[path, 1:level] = index[other, 2 : level + 1]
        for below in range(1, level):
            index[path, below] %= form.counts[below]


def _fresh(wanted: list[int], width: int) -> list[int]:
    """Return an entry of the wanted table for each target: a free one while there are any."""
    used: set[int] = set()
    found = []
    for at in wanted:
        if at in used:
            table = at - at % width
            others = (table + (at + by) % width for by in range(1, width))
            at = next((other for other in others if other not in used), at)  # noqa: PLW2901  # the same, moved
        used.add(at)
        found.append(at)
    return found


def _grants(form: TableFormat, level: NDArray[np.intp], flags: U64) -> NDArray[np.uint8]:
    grants = np.where((flags & RW) != 0, _WRITE, 0) | np.where((flags & US) != 0, _USER, 0)
    grants = (grants | np.where((flags & XD) == 0, _EXECUTE, 0)).astype(np.uint8)
    return np.where(np.isin(level, form.plain), _ALL, grants)


def _write_tables(
    built: BuiltTables, context: PagingContext, plan: PathPlan, leads: NDArray[np.intp]
) -> None:
    at, path, level, child, kind = leads.T
    # An entry that leads beyond MAXPHYADDR ends the walk.
    beyond = built.frames[child] >> np.uint64(context.maxphyaddr) != 0
    kind = np.where(beyond, np.intp(End.RESERVED), kind)
    flags = plan.flags[path, level]
    built.words.reshape(-1)[at] = flags | P | built.frames[child]
    built.grant.reshape(-1)[at] = _grants(built.form, level, flags)
    built.kind.reshape(-1)[at] = kind


def _write_ends(
    built: BuiltTables,
    allocator: FrameAllocator,
    context: PagingContext,
    plan: PathPlan,
    ends: NDArray[np.intp],
) -> None:
    at, path, level = ends.T
    flags, end = plan.flags[path, level], plan.end[path].astype(np.int8)
    broken = plan.broken[path].astype(np.int64)
    # An end that was planned for another level is a page instead.
    moved = (level != plan.level[path]) & ((end == End.OUTSIDE) | (end == End.RESERVED))
    end[moved] = End.LEAF
    bit = np.where(end == End.RESERVED, np.uint64(1) << np.maximum(broken, 0).astype(np.uint64), 0)
    low = (end == End.RESERVED) & (broken >= 13) & (broken < 30)
    large = np.isin(level, built.form.large) & ((end == End.LEAF) | low | (path % 2 == 0))
    leaf = large | (level == 1)
    page = allocator.pages(np.where(large, level, 1), built.frames[: built.count])
    table = built.frames[path % built.count]
    table = np.where(table >> np.uint64(context.maxphyaddr) != 0, built.frames[0], table)
    address = built.form.entry_of(page, np.where(large, level, 1))
    word = flags | P | bit.astype(np.uint64) | np.where(leaf, address, table)
    word |= np.where(large, PS, np.uint64(0))
    word |= np.where(large & (path % 3 == 0), np.uint64(1 << 12), np.uint64(0))
    outside = end == End.OUTSIDE
    word[outside] = flags[outside] | P | allocator.outside(int(outside.sum()))
    absent = end == End.ABSENT
    word[absent] = allocator.junk(flags[absent])
    # Without 1-GiB pages, PS of a PDPTE is a reserved bit.
    end[(end == End.LEAF) & (level == 3) & (not context.page1gb)] = End.RESERVED
    built.words.reshape(-1)[at] = word
    built.grant.reshape(-1)[at] = _grants(built.form, level, flags)
    built.kind.reshape(-1)[at] = end
    built.leaf_pa.reshape(-1)[at] = page
