"""The probe's own pages: where its code runs from while the tables under test are in force.

The probing code has to be mapped by the very tables that it probes. So a slot of the root table is
borrowed: it leads to the trampoline while an access is made.

    physical memory                            linear memory, below the borrowed slot
    start    two copies of the root            base   code of CPL 0 (one page, two with loops)
             code: routines, loops                    the same code for CPL 3
             GDT, and a stack for IRET         data   GDT and stack, for CPL 0
             records of a bulk run                    records, outs, window; for CPL 0
             outs of a bulk run                       records, outs, window; for CPL 3, with a
    tables   from the slot down to the pages          protection key that PKRU doesn't restrict

The window shows the tables under test, in the order of their frames, so that a bulk run can look at
A and D. Without loops (32-bit and PAE) there are neither records and outs nor a window.

A slot is borrowed in place, in the private copy of the tables: the emulated CPU is then under the
CR3 under test, bits and all. An access whose walk uses that slot is made with another one borrowed;
an access that meets both, and all where the emulated CPU can't be given CR3, under a copy of the
root. Nothing of this is observed: an access that ends in the trampoline is made with the trampoline
in another place.

Outstanding: under a copy of the root, CR3's other bits aren't those under test; `Prober.roots`
counts such accesses. Where PKRU restricts every key, user code has no data of its own, and its
accesses are made one at a time.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.cpu.engine import MAXPHYADDR
from crosswalk.emu.probe.control import Control
from crosswalk.emu.probe.loops import LOOPS, OUT_BYTES, RECORD_BYTES
from crosswalk.emu.probe.paths import PagingFormat
from crosswalk.emu.probe.routines import CODE
from crosswalk.emu.probe.space import Space
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME, U64, WORDS

__all__ = [
    "CAPACITY",
    "CR3_UNDER_TEST",
    "GDT",
    "IN_PLACE",
    "PREFERRED_GIB",
    "ROOT_COPY_REASONS",
    "USER_CODE",
    "USER_DATA",
    "BorrowedSlot",
    "SlotSwitch",
    "Trampoline",
    "place_trampoline",
]

CAPACITY = 4096
"""How many accesses one run of a loop makes at the most."""

PREFERRED_GIB = 960
"""The GiB where the trampoline is put if it is free: one place for most address spaces."""

IN_PLACE = 2
"""The first so many of a trampoline's `slots` are borrowed in place, the others in copies."""

CR3_UNDER_TEST = "CR3 under test"
"""Under the CR3 under test, bits and all, with a slot of its root table borrowed in place."""

ROOT_COPY_REASONS = (
    "copy of the root table: CR3's high bits",
    "copy of the root table: the access itself uses both root entries that the probe can borrow",
)
"""Why other accesses are made under a copy of the root.

The emulated CPU's 5-level walk takes CR3's bits from 52 up for an address; and a walk through a
recursive table may use any word of the root, and end there.
"""

_ROOTS = 2
_MAX_PAGES = WORDS * WORDS  # What one PD maps in pages of 4 KiB.
_TABLES = 3 + WORDS  # From a root of five levels down: PML4, PDPT, PD and its page tables.

# Entries of the trampoline's own tables: present, accessed, dirty, and so on.
_TABLE = 0x67
_KERNEL_CODE, _USER_CODE, _KERNEL_DATA, _USER_DATA = 0x61, 0x65, 0x63, 0x67
# Flat segments: null, kernel code, kernel data, user data, user code.
GDT = {
    64: (0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00CFF3000000FFFF, 0x00AFFB000000FFFF),
    32: (0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00CFF3000000FFFF, 0x00CFFB000000FFFF),
}
USER_CODE, USER_DATA = 0x23, 0x1B
_STACK_TOP = 0x800
_LOOPS = tuple(LOOPS)
_RECORDS = -(-CAPACITY * RECORD_BYTES // FRAME)
_OUTS = -(-CAPACITY * OUT_BYTES // FRAME) + 1


@dataclass(frozen=True, slots=True)
class _Layout:
    """What a trampoline has of each kind of page, and where it may lie.

    `code` are pages of code of the same privilege, `records` and `outs` numbers of pages. A place
    is a stretch of 1 << `stretch` bytes below 1 << `address_bits`, `within` bytes from its start;
    the one of number `preferred` if that is free, and of 1 << `gap` bytes if none of those is.
    """

    code: tuple[bytes, ...]
    records: int
    outs: int
    tables: int
    stretch: int
    address_bits: int
    preferred: int
    within: int
    gap: int

    @property
    def bytes(self) -> int:
        """The size of the physical range."""
        pages = _ROOTS + len(self.code) + 1 + self.records + self.outs + self.tables
        return FRAME * pages


_LAYOUTS = {
    64: _Layout(
        code=(CODE[64], *LOOPS.values()),
        records=_RECORDS,
        outs=_OUTS,
        tables=_TABLES,
        stretch=30,
        address_bits=MAXPHYADDR,
        preferred=PREFERRED_GIB,
        within=0,
        gap=22,
    ),
    # At none of the places of large pages that a check tries.
    32: _Layout((CODE[32],), 0, 0, 2, 22, 32, 0x3A5, 0x12_3000, 22),
}


@dataclass(frozen=True, slots=True)
class _View:
    """Where code of one privilege finds the trampoline's parts, as linear addresses.

    `code` and `loops` are pages of code; `records` and `outs` what a loop reads and fills in;
    `window` shows the tables under test, in the order of their frames.
    """

    code: int
    loops: int
    records: int
    outs: int
    window: int


@dataclass(frozen=True, slots=True)
class BorrowedSlot:
    """One slot of the root borrowed, in place or in a copy of the root.

    `cr3` is the CR3 to be under then; the others are linear addresses in the trampoline.
    """

    number: int
    cr3: int
    gdt: int
    stack: int
    kernel: _View
    user: _View

    def view(self, cpl: int) -> _View:
        """Return the view of code running at this CPL."""
        return self.user if cpl == 3 else self.kernel


class SlotSwitch:
    """Borrows one of the slots that may be borrowed in place, of a space of tables.

    `entries` are single entries of the space; `places` the indices there of the slots, and `entry`
    is what is put into one of them.
    """

    def __init__(self, entries: memoryview, places: Sequence[int], entry: int) -> None:
        self._entries, self._places, self._entry = entries, places, entry
        self._now: int | None = None
        self._before = 0

    def select(self, number: int | None) -> None:
        """Borrow the slot of this number; for any other number, or None, give back what is."""
        wanted = number if number is not None and number < len(self._places) else None
        if wanted == self._now:
            return
        if self._now is not None:
            at = self._places[self._now]
            # Changed by an access, it is left as it is: comparing the tables then shows it.
            if self._entries[at] == self._entry:
                self._entries[at] = self._before
        self._now = wanted
        if wanted is not None:
            at = self._places[wanted]
            self._before = self._entries[at]
            self._entries[at] = self._entry


@dataclass(frozen=True, slots=True)
class Trampoline:
    """The physical range [start, end) of the trampoline, and the slots that lead there.

    `slots` are two borrowed in place, and the same two in copies of the root. `user_key` is a
    protection key that PKRU doesn't restrict, None if it restricts all: then user code can't have
    data of its own. `code`, `records`, `outs` and `first_table` are physical addresses; nothing
    but the start decides them, nor the size. `apart` says that no entry refers to the stretch of
    memory around, `whole` that the frames shown, `tables`, are all that there are.
    """

    start: int
    end: int
    slots: tuple[BorrowedSlot, BorrowedSlot, BorrowedSlot, BorrowedSlot]
    form: PagingFormat
    tables: U64
    user_key: int | None
    code: int
    data: int
    records: int
    outs: int
    first_table: int
    apart: bool
    whole: bool

    @property
    def stack_pa(self) -> int:
        """The physical address of the top of the stack."""
        return self.data + _STACK_TOP

    @property
    def entry(self) -> int:
        """The entry of a borrowed slot."""
        return self.first_table | self.form.table_flags

    def showing(self, tables: U64) -> "Trampoline":
        """Return it with these tables to be seen through the window, for a few accesses."""
        copies = [slot.cr3 for slot in self.slots[IN_PLACE:]]
        shown = np.concatenate([tables, np.array(copies, np.uint64)])
        a, b, c, d = (_borrow(slot.number, slot.cr3, self.form, len(shown)) for slot in self.slots)
        return replace(self, slots=(a, b, c, d), tables=shown)

    def prepare(self, space: Space, root: U64) -> None:
        """Write the pages: tables, code, descriptors; `root` are the words of the root table."""
        for slot in self.slots[IN_PLACE:]:
            copy = self.form.entries(root).copy()
            copy[slot.number] = self.entry
            self._write(space, slot.cr3, copy)
        entries = self._entries()
        last = len(self.form.levels) - 3  # Tables above the one that refers to page tables.
        for at in range(last):
            self._write(space, self._table(at), [self._table(at + 1) | _TABLE])
        in_table = 1 << self.form.levels[-1][1]
        count = -(-len(entries) // in_table)
        frames = [self._table(last + 1 + at) for at in range(count)]
        if last >= 0:
            self._write(space, self._table(last), [frame | _TABLE for frame in frames])
        for at, frame in enumerate(frames):
            self._write(space, frame, entries[at * in_table : (at + 1) * in_table])
        # Every page of code has a place of its own: an engine keeps what it translated there.
        for at, code in enumerate(_LAYOUTS[self.form.bits].code):
            self._put(space, self.code + at * FRAME, code.ljust(FRAME, b"\xf4"))
        self._put(space, self.data, np.array(GDT[self.form.bits], np.uint64).tobytes())

    def _table(self, number: int) -> int:
        return self.first_table + number * FRAME

    def _write(self, space: Space, frame: int, entries: Iterable[int] | U64) -> None:
        kind = np.uint64 if self.form.entry_bytes == 8 else np.uint32
        self._put(space, frame, np.array(entries, np.uint64).astype(kind).tobytes())

    def _put(self, space: Space, frame: int, content: bytes) -> None:
        table = np.frombuffer(content.ljust(FRAME, b"\0"), np.uint64).reshape(1, WORDS)
        space.write_tables(np.array([frame], np.uint64), table)

    def _entries(self) -> U64:
        """Return the entries of the trampoline's pages, in the order that `_borrow` gives them."""
        pages = [self.code]
        if self.form.bits == 64:
            pages.append(self.code + FRAME * (1 + _LOOPS.index(len(self.form.levels))))
        code = np.array(pages, np.uint64)
        own = np.arange(self.records, self.first_table, FRAME, dtype=np.uint64)
        rest = np.concatenate([own, self.tables])
        user = np.uint64(_USER_DATA | (self.user_key or 0) << 59)
        return np.concatenate(
            [
                code | np.uint64(_KERNEL_CODE),
                code | np.uint64(_USER_CODE),
                np.array([self.data | _KERNEL_DATA], np.uint64),
                rest | np.uint64(_KERNEL_DATA),
                rest | user,
            ]
        )


def place_trampoline(
    ranges: Sequence[tuple[int, int]],
    form: PagingFormat,
    control: Control,
    tables: U64,
    content: U64,
    root: U64,
) -> Trampoline:
    """Return a trampoline outside `ranges` and, if there is such a place, where no entry refers to.

    `ranges` (start, size) are those of memory and what else to avoid, `tables` uint64[n] the frames
    of the paging structures and `content` uint64[n, 512] their words, `root` the words of the root
    table. Where the tables are more than a root slot can show, it shows none: see
    `Trampoline.showing`. `BadInput` if there is no such place.
    """
    layout = _LAYOUTS[form.bits]
    start, apart = _free_place(ranges, form, content)
    copies = [start + at * FRAME for at in range(_ROOTS)]
    shown = np.concatenate([tables, np.array(copies, np.uint64)]) if layout.records else tables[:0]
    whole = 5 + 2 * (layout.records + layout.outs + len(shown)) <= _MAX_PAGES
    if not whole:
        shown = shown[len(tables) :]
    # Empty slots first: an address that a walker may list then uses none that is borrowed.
    entries = form.entries(root)
    worse = 2 * (entries != 0)
    worse[[0, -1]] += 1
    order = np.argsort(worse, kind="stable")[:_ROOTS].tolist()
    cr3 = control.cr3 & ~control.mask & (1 << form.bits) - 1
    slots = [
        _borrow(number, each, form, len(shown))
        for cr3s in ((cr3,) * _ROOTS, copies)
        for number, each in zip(order, cr3s, strict=True)
    ]
    code = start + _ROOTS * FRAME
    data = code + len(layout.code) * FRAME
    records = data + FRAME
    outs = records + layout.records * FRAME
    return Trampoline(
        start=start,
        end=start + layout.bytes,
        slots=(slots[0], slots[1], slots[2], slots[3]),
        form=form,
        tables=shown,
        # A key that PKRU doesn't restrict.
        user_key=next((key for key in range(16) if not control.pkru >> 2 * key & 3), None),
        code=code,
        data=data,
        records=records,
        outs=outs,
        first_table=outs + layout.outs * FRAME,
        apart=apart,
        whole=whole,
    )


def _borrow(number: int, cr3: int, form: PagingFormat, shown: int) -> BorrowedSlot:
    layout, base = _LAYOUTS[form.bits], form.slot_va(number)
    code = 2 if layout.records else 1
    data = base + 2 * code * FRAME
    views = []
    for privilege in range(2):
        first = data + FRAME * (1 + privilege * (layout.records + layout.outs + shown))
        views.append(
            _View(
                code=base + code * privilege * FRAME,
                loops=base + (code * privilege + 1) * FRAME,
                records=first,
                outs=first + layout.records * FRAME,
                window=first + (layout.records + layout.outs) * FRAME,
            )
        )
    return BorrowedSlot(number, cr3, data, data + _STACK_TOP, views[0], views[1])


def _free_place(
    ranges: Sequence[tuple[int, int]], form: PagingFormat, content: U64
) -> tuple[int, bool]:
    """Return where the trampoline begins, and whether in a stretch that no entry refers to.

    Nor is it part of memory. Whole stretches, since a large leaf refers to more than its first
    frame. Where entries name all of them, in any stretch outside memory; where memory leaves none,
    in a smaller gap. Physical addresses of the emulated CPU end at 2^40, those of its 32-bit
    entries at 2^32.
    """
    layout = _LAYOUTS[form.bits]
    ram = _taken(ranges, layout.stretch, layout.address_bits)
    named = np.zeros(len(ram), np.bool_)
    for at in range(0, len(content), 4096):
        address = form.entries(content[at : at + 4096]) & np.uint64(form.address)
        place = address >> np.uint64(layout.stretch)
        named[place[place < len(named)]] = True
    for apart, taken in ((True, ram | named), (False, ram)):
        free = np.flatnonzero(~taken)
        if len(free):
            found = int(free[-1]) if taken[layout.preferred] else layout.preferred
            return (found << layout.stretch) + layout.within, apart
    free = np.flatnonzero(~_taken(ranges, layout.gap, layout.address_bits))
    if not len(free):
        raise BadInput(
            f"RAM leaves no {1 << layout.gap >> 20} MiB below 2^{layout.address_bits} "
            "for the probe's own pages"
        )
    return (int(free[-1]) << layout.gap) + layout.within, False


def _taken(ranges: Iterable[tuple[int, int]], shift: int, address_bits: int) -> NDArray[np.bool_]:
    """Return which stretches of 1 << `shift` bytes the ranges (start, size) touch."""
    taken = np.zeros(1 << (address_bits - shift), np.bool_)
    for start, size in ranges:
        taken[start >> shift : (start + size - 1 >> shift) + 1] = True
    return taken
