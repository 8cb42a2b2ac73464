"""The probe's own reading of 32-bit and PAE tables: where to look, never what to expect.

As `crosswalk.emu.probe.paths`: of an entry it knows P, PS and the address field, of the control
registers which format entries have. A mistake here costs a second look, or an error, never an
agreement.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.probe.control import ADDRESS, CR4_PSE, Control
from crosswalk.emu.probe.frames import has_frames, words_of
from crosswalk.emu.probe.paths import MAX_LEVELS, NO_PAGE, NO_WORD, distinct
from crosswalk.emu.probe.space import NOWHERE, Space
from crosswalk.walker.memory import FRAME, U64, PhysicalMemory

__all__ = ["BIT32", "PAE", "Entries", "Form", "Paths", "find_paths", "find_tables", "form_of"]

Entries = NDArray[np.uint64] | NDArray[np.uint32]

_PRESENT = np.uint64(1)
_PAGE_SIZE = np.uint64(0x80)


@dataclass(frozen=True, slots=True)
class Form:
    """How entries are laid out: `size` in bytes; `levels` are (shift, index bits), root first.

    `large` is the shift of the level whose entries may map a page of their own.
    """

    size: int
    levels: tuple[tuple[int, int], ...]
    large: int
    address: int


BIT32 = Form(4, ((22, 10), (12, 10)), 22, 0xFFFF_F000)
PAE = Form(8, ((30, 2), (21, 9), (12, 9)), 21, ADDRESS)
_NO_LARGE = -1


def form_of(control: Control) -> Form:
    """Return the format under these control registers; without CR4.PSE no 32-bit page is large."""
    if control.pae:
        return PAE
    if control.cr4 & CR4_PSE:
        return BIT32
    return Form(BIT32.size, BIT32.levels, _NO_LARGE, BIT32.address)


@dataclass(frozen=True, slots=True)
class Paths:
    """The entries that walks of n addresses would use.

    `cell` int64[n, 5] are their indices in the space, in units of an entry, from the root down,
    NOWHERE behind the last; `pa` uint64[n, 5] their physical addresses, NO_WORD behind the last;
    `page` uint64[n] the 4-KiB frame at the end, NO_PAGE where there is none.
    """

    cell: NDArray[np.int64]
    pa: U64
    page: U64


def find_tables(memory: PhysicalMemory, form: Form, root: int, mask: int = 0) -> U64:
    """Return the frames that may be used as tables, ascending, all of them backed.

    Bits of the encryption `mask` are no part of an address.
    """
    found = np.array([root & -FRAME], np.uint64)
    words = words_of(memory, found)[0]
    first = root % FRAME // 8
    entries = words[first : first + (form.size << form.levels[0][1]) // 8]
    for shift, _ in form.levels[:-1]:
        below = distinct(_tables_in(entries, form, shift) & np.uint64(ADDRESS & ~mask))
        below = below[has_frames(memory, below)]
        found = np.union1d(found, below)
        entries = words_of(memory, below).reshape(-1)
    return found


def _tables_in(words: U64, form: Form, shift: int) -> U64:
    entries = words.view(np.uint32).astype(np.uint64) if form.size == 4 else words
    entries = entries[(entries & _PRESENT) != 0]
    if shift == form.large:
        entries = entries[(entries & _PAGE_SIZE) == 0]
    found: U64 = entries & np.uint64(form.address)
    return found


def find_paths(space: Space, form: Form, root: int, va: U64) -> Paths:
    """Return the entries that a walk of each address would use from `root`."""
    count = len(va)
    cells = np.full((count, MAX_LEVELS), NOWHERE, np.int64)
    address = np.full((count, MAX_LEVELS), NO_WORD, np.uint64)
    page = np.full(count, NO_PAGE, np.uint64)
    rows = np.arange(count)
    table = np.full(count, root, np.uint64)
    entries = space.words.view(np.uint32) if form.size == 4 else space.words
    for step, (shift, bits) in enumerate(form.levels):
        index = va[rows] >> np.uint64(shift) & np.uint64((1 << bits) - 1)
        at = table + index * np.uint64(form.size)
        word = space.index_of(at & ~np.uint64(7))
        there = word != NOWHERE
        rows, at, word = rows[there], at[there], word[there]
        cell = (
            word
            if form.size == 8
            else 2 * word + (at >> np.uint64(2) & np.uint64(1)).astype(np.int64)
        )
        cells[rows, step] = cell
        address[rows, step] = at
        entry = entries[cell].astype(np.uint64)
        present = (entry & _PRESENT) != 0
        ends = np.full(len(rows), shift == 12)
        if shift == form.large:
            ends = (entry & _PAGE_SIZE) != 0
        last = present & ends
        page[rows[last]] = _frame(form, shift, entry[last], va[rows[last]])
        down = present & ~ends
        rows, table = rows[down], (entry & np.uint64(form.address))[down]
    return Paths(cells, address, page)


def _frame(form: Form, shift: int, entry: U64, va: U64) -> U64:
    below = np.uint64((1 << shift) - FRAME)
    base = entry & np.uint64(form.address) & ~below
    if form.size == 4 and shift != 12:
        base |= (entry >> np.uint64(13) & np.uint64(0xFF)) << np.uint64(32)
    return base | va & below
