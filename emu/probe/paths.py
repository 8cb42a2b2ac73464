"""The probe's own reading of the tables: which entries an access can touch, and where it may end.

None of this predicts anything. It says where to look for A and D bits, which frames hold
tables, and which pages are worth a marker; a mistake here costs a second look, or an error,
never an agreement. It shares no code with the walker: of an entry it knows P, PS and the
address field, and nothing of rights or reserved bits.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.probe.control import ADDRESS, CR4_PSE, Control
from crosswalk.emu.probe.frames import has_frames, words_of
from crosswalk.emu.probe.space import NOWHERE, Entries
from crosswalk.walker.memory import FRAME, U64, PhysicalMemory

__all__ = [
    "MAX_LEVELS",
    "NO_ADDRESS",
    "NO_PAGE",
    "Held",
    "PagingFormat",
    "Paths",
    "distinct",
    "find_paths",
    "find_tables",
    "format_of",
]

MAX_LEVELS = 5
NO_PAGE = (1 << 64) - 4096
"""A frame that no entry can name."""
NO_ADDRESS = (1 << 64) - 1
"""A physical address that no entry has."""

_PRESENT = np.uint64(1)
_PAGE_SIZE = np.uint64(0x80)
_BLOCK = 4096  # Tables read at a time.


@dataclass(frozen=True, slots=True)
class PagingFormat:
    """A paging mode as data.

    `bits` is the width of registers (64 or 32), `entry_bytes` the size of an entry; `levels` are
    (shift, index bits) from the root down; `large` are the shifts of levels whose entries may map
    a page of their own; `address` is an entry's address field. `table_flags` are those of an entry
    of the root that leads to a table, accessed, for user and supervisor to write.
    """

    bits: int
    entry_bytes: int
    levels: tuple[tuple[int, int], ...]
    large: frozenset[int]
    address: int
    table_flags: int

    @property
    def root_bytes(self) -> int:
        """The size of the root table."""
        return self.entry_bytes << self.levels[0][1]

    def slot_va(self, number: int) -> int:
        """Return the first linear address that an entry of the root translates."""
        shift, bits = self.levels[0]
        upper = self.bits == 64 and number >> bits - 1
        return number << shift | ((1 << 64) - (1 << shift + bits) if upper else 0)

    def entries(self, words: U64) -> U64:
        """Return the entries in 8-byte words, uint64[…, n], as uint64[…, n or 2n]."""
        if self.entry_bytes == 8:
            return words
        return np.ascontiguousarray(words).view(np.uint32).astype(np.uint64)

    def tables(self, entries: U64, shift: int) -> NDArray[np.bool_]:
        """Return which entries of the level at this shift refer to tables, in memory or not."""
        found: NDArray[np.bool_] = (entries & _PRESENT) != 0
        if shift == self.levels[-1][0]:
            found[:] = False
        elif shift in self.large:
            found &= (entries & _PAGE_SIZE) == 0
        return found


_FOUR_LEVELS = PagingFormat(
    bits=64,
    entry_bytes=8,
    levels=((39, 9), (30, 9), (21, 9), (12, 9)),
    large=frozenset({30, 21}),
    address=ADDRESS,
    table_flags=0x67,
)
_FIVE_LEVELS = replace(_FOUR_LEVELS, levels=((48, 9), *_FOUR_LEVELS.levels))
# A PDPTE has neither rights nor A: the bits are reserved.
_PAE = PagingFormat(32, 8, ((30, 2), (21, 9), (12, 9)), frozenset({21}), ADDRESS, 0x01)
_32_BIT = PagingFormat(32, 4, ((22, 10), (12, 10)), frozenset(), 0xFFFF_F000, 0x67)
_32_BIT_PSE = replace(_32_BIT, large=frozenset({22}))


def format_of(control: Control) -> PagingFormat:
    """Return the format under these control registers; without CR4.PSE no 32-bit page is large."""
    if control.long:
        return _FIVE_LEVELS if control.levels == 5 else _FOUR_LEVELS
    if control.pae:
        return _PAE
    return _32_BIT_PSE if control.cr4 & CR4_PSE else _32_BIT


class Held(Protocol):
    """Tables that paths lead through: entries in one array, found by their addresses."""

    def entries(self, size: int) -> Entries:
        """Return all of it as entries of 4 or 8 bytes."""
        ...

    def index_of(self, pa: U64) -> NDArray[np.int64]:
        """Return the index of the 8-byte word at each address, NOWHERE if it isn't held."""
        ...


@dataclass(frozen=True, slots=True)
class Paths:
    """The entries that walks of n addresses would use.

    `index` int64[n, 5], their indices in the space in units of an entry, from the root down,
    NOWHERE behind the last; `pa` uint64[n, 5], their physical addresses, NO_ADDRESS behind the
    last; `page` uint64[n], the 4-KiB frame at the end, NO_PAGE where there is none.
    """

    index: NDArray[np.int64]
    pa: U64
    page: U64


def distinct(values: U64) -> U64:
    """Return the distinct values in ascending order: by sorting, which is faster than a table."""
    ordered = np.sort(values, kind="stable")
    return ordered[np.append(True, ordered[1:] != ordered[:-1])] if len(ordered) else ordered


def find_tables(memory: PhysicalMemory, form: PagingFormat, root: int, mask: int = 0) -> U64:
    """Return the frames that may be used as tables, ascending, all of them backed.

    Bits of the encryption `mask` are no part of an address. Each frame is looked at once a level,
    so that cycles end.
    """
    address = np.uint64(form.address & ~mask)
    found = frames = np.array([root & -FRAME], dtype=np.uint64)
    first = root % FRAME // 8
    part = slice(first, first + form.root_bytes // 8)
    for shift, _ in form.levels[:-1]:
        below = []
        for start in range(0, len(frames), _BLOCK):
            entries = form.entries(words_of(memory, frames[start : start + _BLOCK])[:, part])
            below.append(distinct(entries[form.tables(entries, shift)] & address))
        frames = distinct(np.concatenate(below)) if below else frames[:0]
        frames = frames[has_frames(memory, frames)]
        found = np.union1d(found, frames)
        part = slice(None)
    return found


def find_paths(space: Held, form: PagingFormat, root: int | U64, va: U64) -> Paths:
    """Return the entries that a walk of each address would use from `root`, one for all or each."""
    count = len(va)
    indices = np.full((count, MAX_LEVELS), NOWHERE, np.int64)
    address = np.full((count, MAX_LEVELS), NO_ADDRESS, np.uint64)
    page = np.full(count, NO_PAGE, np.uint64)
    rows = np.arange(count)
    table = np.full(count, root, np.uint64)
    entries = space.entries(form.entry_bytes)
    for step, (shift, bits) in enumerate(form.levels):
        number = va[rows] >> np.uint64(shift) & np.uint64((1 << bits) - 1)
        at = table + number * np.uint64(form.entry_bytes)
        index = space.index_of(at)
        there = index != NOWHERE
        rows, at, index = rows[there], at[there], index[there]
        if form.entry_bytes == 4:
            index = 2 * index + (at >> np.uint64(2) & np.uint64(1)).astype(np.int64)
        indices[rows, step] = index
        address[rows, step] = at
        entry = entries[index].astype(np.uint64, copy=False)
        present = (entry & _PRESENT) != 0
        down = form.tables(entry, shift)
        last = present & ~down
        page[rows[last]] = _frame(form, shift, entry[last], va[rows[last]])
        rows, table = rows[down], (entry & np.uint64(form.address))[down]
    return Paths(indices, address, page)


def _frame(form: PagingFormat, shift: int, entry: U64, va: U64) -> U64:
    below = np.uint64((1 << shift) - FRAME)
    base = entry & np.uint64(form.address) & ~below
    if form.entry_bytes == 4 and shift != 12:
        base |= (entry >> np.uint64(13) & np.uint64(0xFF)) << np.uint64(32)  # PSE-36
    return base | va & below
