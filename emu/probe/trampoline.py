"""The probe's own pages: where its code runs from while the tables under test are in force.

The probing code has to be mapped by the very tables that it probes. So a slot of the root table
leads to the arena while it runs: in place, in the private copy of the tables, so that the CR3 under
test is in force. An access whose walk uses that slot is made with another one lent. For walks that
use both, and for a CR3 that the emulated CPU can't be given, there are two copies of the root, each
with one of the slots lent.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.cpu.engine import MAXPHYADDR
from crosswalk.emu.probe.control import ADDRESS, Control
from crosswalk.emu.probe.loops import LOOPS, OUT_BYTES, RECORD_BYTES
from crosswalk.emu.probe.routines import CODE
from crosswalk.emu.probe.space import Space
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME, U64, WORDS

__all__ = [
    "CAPACITY",
    "GDT",
    "IN_PLACE",
    "PREFERRED",
    "USER_CODE",
    "USER_DATA",
    "Arena",
    "Lent",
    "place_arena",
]

CAPACITY = 4096
"""How many accesses one run of a loop makes at the most."""

PREFERRED = 960
"""The GiB where the arena is put if it is free: one place for most address spaces."""

IN_PLACE = 2
"""The first so many of an arena's `lent` are lent in place, the others in copies of the root."""

ROOTS = 2
_CHAIN = 3  # Tables between a root and the last level: with five levels PML4, PDPT and PD.
_MAX_PAGES = WORDS * WORDS  # What one PD maps in pages of 4 KiB.

# Entries of the arena's own tables: present, accessed, dirty, and so on.
_TABLE = 0x67
_KERNEL_CODE, _USER_CODE, _KERNEL_DATA, _USER_DATA = 0x61, 0x65, 0x63, 0x67
# 64-bit flat segments: null, kernel code, kernel data, user data, user code.
GDT = (0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00CFF3000000FFFF, 0x00AFFB000000FFFF)
USER_CODE, USER_DATA = 0x23, 0x1B
_STACK_TOP = 0x800
_GIB, _GAP = 30, 22
_LOOPS = tuple(LOOPS)
_PAGES = (CODE, *LOOPS.values())
_RECORDS = -(-CAPACITY * RECORD_BYTES // FRAME)
_OUTS = -(-CAPACITY * OUT_BYTES // FRAME) + 1
_SIZE = FRAME * (ROOTS + len(_PAGES) + 1 + _RECORDS + _OUTS + _CHAIN + WORDS)


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
    """One slot lent, in place or in a copy of the root.

    `cr3` is the CR3 to be under then; the others are linear addresses in the arena.
    """

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
    """The physical range [start, end) of the arena, and the slots that lead there.

    `lent` are two slots lent in place, and the same two in copies of the root. `user_key` is a
    protection key that PKRU doesn't restrict, None if it restricts all: then user code can't have
    data of its own. `code`, `records`, `outs` and `first_table` are physical addresses; nothing
    but the start decides them, nor the size. `apart` says that no entry refers to the GiB around,
    `whole` that the frames shown, `tables`, are all that there are.
    """

    start: int
    end: int
    lent: tuple[Lent, Lent, Lent, Lent]
    levels: int
    tables: U64
    user_key: int | None
    code: int
    records: int
    outs: int
    first_table: int
    apart: bool
    whole: bool

    @property
    def stack_pa(self) -> int:
        """The physical address of the top of the stack."""
        return self.code + len(_PAGES) * FRAME + _STACK_TOP

    @property
    def entry(self) -> int:
        """The entry of a lent slot."""
        return self._table(0) | _TABLE

    def showing(self, tables: U64) -> "Arena":
        """Return the arena with these tables to be seen through the window, for a few accesses."""
        copies = [lent.cr3 for lent in self.lent[IN_PLACE:]]
        shown = np.concatenate([tables, np.array(copies, np.uint64)])
        a, b, c, d = (_lend(lent.slot, lent.cr3, self.levels, len(shown)) for lent in self.lent)
        return replace(self, lent=(a, b, c, d), tables=shown)

    def prepare(self, space: Space, root: U64) -> None:
        """Write the arena's pages: tables, code, descriptors; `root` is the table, uint64[512]."""
        for lent in self.lent[IN_PLACE:]:
            words = root.copy()
            words[lent.slot] = self.entry
            self._write(space, lent.cr3, words)
        entries = self._entries()
        last = self.levels - 3
        for at in range(last):
            self._write(space, self._table(at), np.array([self._table(at + 1) | _TABLE], np.uint64))
        count = -(-len(entries) // WORDS)
        frames = [self._table(last + 1 + at) for at in range(count)]
        self._write(space, self._table(last), np.array(frames, np.uint64) | np.uint64(_TABLE))
        for at, frame in enumerate(frames):
            self._write(space, frame, entries[at * WORDS : (at + 1) * WORDS])
        # Every page of code has a place of its own: an engine keeps what it translated there.
        for at, code in enumerate(_PAGES):
            page = np.frombuffer(code.ljust(FRAME, b"\xf4"), np.uint64)
            self._write(space, self.code + at * FRAME, page)
        self._write(space, self.code + len(_PAGES) * FRAME, np.array(GDT, np.uint64))

    def _table(self, number: int) -> int:
        return self.first_table + number * FRAME

    def _write(self, space: Space, frame: int, words: U64) -> None:
        table = np.zeros((1, WORDS), np.uint64)
        table[0, : len(words)] = words
        space.write_tables(np.array([frame], np.uint64), table)

    def _entries(self) -> U64:
        """Return the entries of the arena's pages, in the order that `_views` gives them."""
        loops = self.code + FRAME * (1 + _LOOPS.index(self.levels))
        code = np.array([self.code, loops], np.uint64)
        data = np.array([self.code + len(_PAGES) * FRAME], np.uint64)
        own = np.arange(self.records, self.first_table, FRAME, dtype=np.uint64)
        rest = np.concatenate([own, self.tables])
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


def place_arena(
    ranges: Sequence[tuple[int, int]],
    control: Control,
    tables: U64,
    content: U64,
    root: U64,
    avoid: tuple[int, int] | None = None,
) -> Arena:
    """Return an arena outside memory and, if there is such a place, where no entry refers to.

    `ranges` (start, size) are those of memory, `tables` uint64[n] the frames of the paging
    structures and `content` uint64[n, 512] their words, `root` the root table, uint64[512]; `avoid`
    is a physical range [start, end) that it must not be in. Where the tables are more than a root
    slot can show, the arena shows none: see `Arena.showing`. `BadInput` if there is no such place.
    """
    levels = control.levels
    start, apart = _free_place(ranges, content, avoid)
    copies = [start + at * FRAME for at in range(ROOTS)]
    shown = np.concatenate([tables, np.array(copies, np.uint64)])
    whole = 5 + 2 * (_RECORDS + _OUTS + len(shown)) <= _MAX_PAGES
    if not whole:
        shown = shown[len(tables) :]
    # Empty slots first: an address that a walker may list then uses none that is lent.
    order = sorted(range(WORDS), key=lambda slot: (bool(root[slot]), slot in (0, WORDS - 1), slot))
    first, second = order[:ROOTS]
    lent = [
        _lend(slot, cr3, levels, len(shown))
        for cr3s in ((control.cr3 & ~control.mask,) * ROOTS, copies)
        for slot, cr3 in zip((first, second), cr3s, strict=True)
    ]
    code = start + ROOTS * FRAME
    records = code + (len(_PAGES) + 1) * FRAME
    first_table = records + (_RECORDS + _OUTS) * FRAME
    return Arena(
        start=start,
        end=start + _SIZE,
        lent=(lent[0], lent[1], lent[2], lent[3]),
        levels=levels,
        tables=shown,
        # A key that PKRU doesn't restrict.
        user_key=next((key for key in range(16) if not control.pkru >> 2 * key & 3), None),
        code=code,
        records=records,
        outs=records + _RECORDS * FRAME,
        first_table=first_table,
        apart=apart,
        whole=whole,
    )


def _lend(slot: int, cr3: int, levels: int, shown: int) -> Lent:
    base = slot << (3 + 9 * levels)
    if slot >= WORDS // 2:
        base |= (1 << 64) - (1 << (12 + 9 * levels))
    data = base + 4 * FRAME
    views = []
    for number in range(2):
        first = data + FRAME * (1 + number * (_RECORDS + _OUTS + shown))
        views.append(
            View(
                code=base + 2 * number * FRAME,
                loops=base + (2 * number + 1) * FRAME,
                records=first,
                outs=first + _RECORDS * FRAME,
                window=first + (_RECORDS + _OUTS) * FRAME,
            )
        )
    return Lent(slot, cr3, data, data + _STACK_TOP, views[0], views[1])


def _free_place(
    ranges: Sequence[tuple[int, int]], content: U64, avoid: tuple[int, int] | None
) -> tuple[int, bool]:
    """Return where the arena begins, and whether that is in a GiB that no entry refers to.

    Nor is it part of memory. Whole GiB, since a large leaf refers to more than its first frame.
    Where entries name all of them, in any GiB outside memory; where memory leaves none, in a
    smaller gap. 2^40 is where the emulated CPU's physical addresses end.
    """
    if avoid is not None:
        ranges = [*ranges, (avoid[0], avoid[1] - avoid[0])]
    ram = _taken(ranges, _GIB)
    named = np.zeros(len(ram), np.bool_)
    for at in range(0, len(content), 4096):
        place = (content[at : at + 4096] & np.uint64(ADDRESS)) >> np.uint64(_GIB)
        named[place[place < len(named)]] = True
    for apart, taken in ((True, ram | named), (False, ram)):
        free = np.flatnonzero(~taken)
        if len(free):
            return (PREFERRED if not taken[PREFERRED] else int(free[-1])) << _GIB, apart
    free = np.flatnonzero(~_taken(ranges, _GAP))
    if not len(free):
        raise BadInput("RAM leaves no 4 MiB below 2^40 for the probe's own pages")
    return int(free[-1]) << _GAP, False


def _taken(ranges: Iterable[tuple[int, int]], shift: int) -> NDArray[np.bool_]:
    """Return which stretches of 1 << `shift` bytes below 2^40 the ranges (start, size) touch."""
    taken = np.zeros(1 << (MAXPHYADDR - shift), np.bool_)
    for start, size in ranges:
        taken[start >> shift : (start + size - 1 >> shift) + 1] = True
    return taken
