"""The probe's own pages: where its code runs from while the tables under test are in force.

The probing code has to be mapped by the very tables that it probes. So it runs under a copy of
the root table in which one slot, borrowed, leads to the arena. The tables under test are not
touched: a recursive slot shows the original root. Addresses whose own root slot is the borrowed
one are probed under a second copy, with another slot.
"""

from dataclasses import dataclass

import numpy as np

from emu.probe.routines import CODE
from emu.probe.space import Space
from walker.errors import BadInput
from walker.memory import FRAME, U64, WORDS, PhysicalMemory

__all__ = ["Arena", "Lent", "place_arena"]

ROOTS = 2
_TABLES = 4
_ROOT, _CHAIN, _CODE, _DATA = 0, ROOTS, ROOTS + _TABLES, ROOTS + _TABLES + 1
FRAMES = _DATA + 1

# Entries of the arena's own tables: present, writable, user, accessed, dirty.
_TABLE = 0x67
_KERNEL_CODE, _USER_CODE, _KERNEL_DATA = 0x61, 0x65, 0x63
# 64-bit flat segments: null, kernel code, kernel data, user data, user code.
_GDT = (0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00CFF3000000FFFF, 0x00AFFB000000FFFF)
USER_CODE, USER_DATA = 0x23, 0x1B
_STACK_TOP = 0x800


@dataclass(frozen=True, slots=True)
class Lent:
    """One copy of the root with one slot lent: the copy's address, and addresses in the arena."""

    slot: int
    cr3: int
    kernel_code: int
    user_code: int
    gdt: int
    stack: int


@dataclass(frozen=True, slots=True)
class Arena:
    """The physical range [start, end) of the arena and its two copies of the root."""

    start: int
    end: int
    lent: tuple[Lent, Lent]

    @property
    def stack_pa(self) -> int:
        """The physical address of the top of the stack."""
        return self.start + _DATA * FRAME + _STACK_TOP

    def prepare(self, space: Space, root: U64, levels: int) -> None:
        """Write the arena's pages: tables, code, descriptors; `root` is the table, uint64[512]."""
        frame = [self.start + at * FRAME for at in range(FRAMES)]
        tables = np.zeros((FRAMES, WORDS), np.uint64)
        for at, lent in enumerate(self.lent):
            tables[_ROOT + at] = root
            tables[_ROOT + at, lent.slot] = frame[_CHAIN] | _TABLE
        for at in range(levels - 2):
            tables[_CHAIN + at, 0] = frame[_CHAIN + at + 1] | _TABLE
        last = tables[_CHAIN + levels - 2]
        last[:3] = (
            frame[_CODE] | _KERNEL_CODE,
            frame[_CODE] | _USER_CODE,
            frame[_DATA] | _KERNEL_DATA,
        )
        tables[_CODE] = np.frombuffer(CODE.ljust(FRAME, b"\xf4"), np.uint64)
        tables[_DATA, : len(_GDT)] = _GDT
        space.write_tables(np.array(frame, np.uint64), tables)


def place_arena(memory: PhysicalMemory, tables: U64, root: U64, levels: int) -> Arena:
    """Return an arena in physical addresses that neither memory nor any entry refers to.

    `tables` are the frames of the paging structures, `root` the root table, uint64[512].
    `BadInput` if there is no such place.
    """
    start = _free_frames(memory, tables)
    # Empty slots first: an address that a walker may list is then probed under the first copy.
    order = sorted(range(WORDS), key=lambda slot: (bool(root[slot]), slot in (0, WORDS - 1), slot))
    lent = tuple(
        _lend(slot, start + (_ROOT + at) * FRAME, levels) for at, slot in enumerate(order[:ROOTS])
    )
    return Arena(start, start + FRAMES * FRAME, (lent[0], lent[1]))


def _lend(slot: int, cr3: int, levels: int) -> Lent:
    base = slot << (3 + 9 * levels)
    if slot >= WORDS // 2:
        base |= (1 << 64) - (1 << (12 + 9 * levels))
    data = base + 2 * FRAME
    return Lent(slot, cr3, base, base + FRAME, data, data + _STACK_TOP)


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
