"""The probe's own pages: where its code runs from while the tables under test are in force.

The probing code has to be mapped by the very tables that it probes. So it runs under a copy of
the root table in which one slot, borrowed, leads to the arena. The tables under test are not
touched: a recursive slot shows the original root. Addresses whose own root slot is the borrowed
one are probed under a second copy, with another slot.
"""

from dataclasses import dataclass

import numpy as np

from emu.probe.loops import LOOPS, OUT_BYTES, RECORD_BYTES
from emu.probe.routines import CODE
from emu.probe.space import Space
from walker.context import PagingContext
from walker.errors import BadInput
from walker.memory import FRAME, U64, WORDS, PhysicalMemory

__all__ = ["CAPACITY", "USER_CODE", "USER_DATA", "Arena", "Lent", "place_arena"]

CAPACITY = 4096
"""How many accesses one run of a loop makes at the most."""

ROOTS = 2
_CHAIN = 3  # Tables between a root and the last level: with five levels PML4, PDPT and PD.
_MAX_PAGES = WORDS * WORDS  # What one PD maps in pages of 4 KiB.

# Entries of the arena's own tables: present, accessed, dirty, and so on.
_TABLE = 0x67
_KERNEL_CODE, _USER_CODE, _KERNEL_DATA, _USER_DATA = 0x61, 0x65, 0x63, 0x67
# 64-bit flat segments: null, kernel code, kernel data, user data, user code.
_GDT = (0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00CFF3000000FFFF, 0x00AFFB000000FFFF)
USER_CODE, USER_DATA = 0x23, 0x1B
_STACK_TOP = 0x800


@dataclass(frozen=True, slots=True)
class View:
    """Where code of one privilege finds the arena's parts, as linear addresses.

    `code` and `loops` are pages of code; `records` and `outs` what a loop reads and fills in;
    `window` shows the tables under test, in the order of their frames.
    """

    code: int
    loops: int
    records: int
    outs: int
    window: int


@dataclass(frozen=True, slots=True)
class Lent:
    """One copy of the root with one slot lent: the copy's address, and addresses in the arena."""

    slot: int
    cr3: int
    gdt: int
    stack: int
    kernel: View
    user: View

    def view(self, cpl: int) -> View:
        """Return the view of code running at this CPL."""
        return self.user if cpl == 3 else self.kernel


@dataclass(frozen=True, slots=True)
class Arena:
    """The physical range [start, end) of the arena and its two copies of the root.

    `user_key` is a protection key that PKRU doesn't restrict, None if it restricts all: then
    user code can't have data of its own. `records` and `outs` are physical addresses.
    """

    start: int
    end: int
    lent: tuple[Lent, Lent]
    levels: int
    tables: U64
    user_key: int | None
    code: int
    records: int
    outs: int

    @property
    def stack_pa(self) -> int:
        """The physical address of the top of the stack."""
        return self.code + 2 * FRAME + _STACK_TOP

    def prepare(self, space: Space, root: U64) -> None:
        """Write the arena's pages: tables, code, descriptors; `root` is the table, uint64[512]."""
        for at, lent in enumerate(self.lent):
            words = root.copy()
            words[lent.slot] = self._table(0) | _TABLE
            self._write(space, self.start + at * FRAME, words)
        entries = self._entries()
        last = self.levels - 3
        for at in range(last):
            self._write(space, self._table(at), np.array([self._table(at + 1) | _TABLE], np.uint64))
        count = -(-len(entries) // WORDS)
        frames = [self._table(last + 1 + at) for at in range(count)]
        self._write(space, self._table(last), np.array(frames, np.uint64) | np.uint64(_TABLE))
        for at, frame in enumerate(frames):
            self._write(space, frame, entries[at * WORDS : (at + 1) * WORDS])
        for at, code in enumerate((CODE, LOOPS[self.levels])):
            page = np.frombuffer(code.ljust(FRAME, b"\xf4"), np.uint64)
            self._write(space, self.code + at * FRAME, page)
        self._write(space, self.code + 2 * FRAME, np.array(_GDT, np.uint64))

    def _table(self, number: int) -> int:
        return self.start + (ROOTS + number) * FRAME

    def _write(self, space: Space, frame: int, words: U64) -> None:
        table = np.zeros((1, WORDS), np.uint64)
        table[0, : len(words)] = words
        space.write_tables(np.array([frame], np.uint64), table)

    def _entries(self) -> U64:
        """Return the entries of the arena's pages, in the order that `_views` gives them."""
        code = np.array([self.code, self.code + FRAME], np.uint64)
        data = np.array([self.code + 2 * FRAME], np.uint64)
        rest = np.concatenate(
            [
                np.arange(self.records, self.outs, FRAME, dtype=np.uint64),
                np.arange(self.outs, self.end, FRAME, dtype=np.uint64),
                self.tables,
            ]
        )
        user = np.uint64(_USER_DATA | (self.user_key or 0) << 59)
        return np.concatenate(
            [
                code | np.uint64(_KERNEL_CODE),
                code | np.uint64(_USER_CODE),
                data | np.uint64(_KERNEL_DATA),
                rest | np.uint64(_KERNEL_DATA),
                rest | user,
            ]
        )


def place_arena(memory: PhysicalMemory, context: PagingContext, tables: U64, root: U64) -> Arena:
    """Return an arena in physical addresses that neither memory nor any entry refers to.

    `tables` are the frames of the paging structures, `root` the root table, uint64[512].
    `BadInput` if there is no such place, or more tables than one root slot can show.
    """
    levels = context.levels
    start = _free_frames(memory, tables)
    records = _frames_for(CAPACITY * RECORD_BYTES)
    outs = _frames_for(CAPACITY * OUT_BYTES) + 1
    shown = np.concatenate([tables, np.array([start, start + FRAME], np.uint64)])
    pages = 5 + 2 * (records + outs + len(shown))
    if pages > _MAX_PAGES:
        raise BadInput(f"{len(tables):,} paging structures: more than the probe can show itself")
    code = start + (ROOTS + _CHAIN + -(-pages // WORDS)) * FRAME
    # Empty slots first: an address that a walker may list is then probed under the first copy.
    order = sorted(range(WORDS), key=lambda slot: (bool(root[slot]), slot in (0, WORDS - 1), slot))
    lent = [
        _lend(slot, start + at * FRAME, levels, (records, outs, len(shown)))
        for at, slot in enumerate(order[:ROOTS])
    ]
    first = code + 3 * FRAME
    return Arena(
        start=start,
        end=first + (records + outs) * FRAME,
        lent=(lent[0], lent[1]),
        levels=levels,
        tables=shown,
        user_key=_free_key(context),
        code=code,
        records=first,
        outs=first + records * FRAME,
    )


def _frames_for(size: int) -> int:
    return -(-size // FRAME)


def _free_key(context: PagingContext) -> int | None:
    if not context.pke:
        return 0
    return next((key for key in range(16) if not context.pkru >> 2 * key & 3), None)


def _lend(slot: int, cr3: int, levels: int, sizes: tuple[int, int, int]) -> Lent:
    base = slot << (3 + 9 * levels)
    if slot >= WORDS // 2:
        base |= (1 << 64) - (1 << (12 + 9 * levels))
    records, outs, shown = sizes
    data = base + 4 * FRAME
    views = []
    for number in range(2):
        first = data + FRAME * (1 + number * (records + outs + shown))
        views.append(
            View(
                code=base + 2 * number * FRAME,
                loops=base + (2 * number + 1) * FRAME,
                records=first,
                outs=first + records * FRAME,
                window=first + (records + outs) * FRAME,
            )
        )
    return Lent(slot, cr3, data, data + _STACK_TOP, views[0], views[1])


def _free_frames(memory: PhysicalMemory, tables: U64) -> int:
    used = [frame for start, size in memory.ranges for frame in (start, start + size - 1)]
    referred = [np.array(used, np.uint64)]
    for at in range(0, len(tables), 4096):
        words = memory.tables(tables[at : at + 4096])
        referred.append(np.unique(words & np.uint64(0x000F_FFFF_FFFF_F000)))
    frames = np.unique(np.concatenate(referred)) >> np.uint64(12)
    # Whole stretches of 1 GiB, since a large leaf refers to more than its first frame. 2^40 is
    # where the emulated CPU's physical addresses end.
    taken = set(np.unique(frames >> np.uint64(18)).tolist())
    inside = {
        at
        for start, size in memory.ranges
        for at in range(start >> 30, (start + size - 1 >> 30) + 1)
    }
    for stretch in range((1 << 10) - 1, -1, -1):
        if stretch not in taken and stretch not in inside:
            return stretch << 30
    raise BadInput("no free GiB below 2^40 for the probe's own pages")
