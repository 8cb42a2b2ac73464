"""The probe's own pages in 32-bit and PAE paging.

As `emu.probe.arena`: code runs under a copy of the root in which one slot is lent, a 4-MiB one or
in PAE a PDPTE; addresses in that slot are probed under a second copy.
"""

from dataclasses import dataclass

import numpy as np

from emu.probe.legacy.paths import Form
from emu.probe.legacy.routines import CODE
from emu.probe.space import Space
from walker.errors import BadInput
from walker.memory import FRAME, U64, WORDS, PhysicalMemory

__all__ = ["KERNEL_DATA", "USER_CODE", "USER_DATA", "Arena", "Lent", "place_arena"]

ROOTS = 2
_CODE, _DATA, _TABLES = ROOTS, ROOTS + 1, ROOTS + 2
_FRAMES = _TABLES + 2
_TABLE, _LOADED = 0x67, 0x01
_KERNEL_CODE, _USER_CODE, _KERNEL_DATA = 0x61, 0x65, 0x63
# 32-bit flat segments: null, kernel code, kernel data, user code, user data.
_GDT = (0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00CFFB000000FFFF, 0x00CFF3000000FFFF)
KERNEL_DATA, USER_CODE, USER_DATA = 0x10, 0x1B, 0x23
_STACK_TOP = 0x800
# The arena lies in a stretch of 4 MiB, at none of the places of large pages that a check tries.
_STRETCH, _STRETCHES, _WITHIN = 22, 1 << 10, 0x12_3000
_PREFERRED = 0x3A5


@dataclass(frozen=True, slots=True)
class Lent:
    """One copy of the root with one slot lent: the copy's address, and addresses in the arena."""

    slot: int
    cr3: int
    kernel_code: int
    user_code: int
    gdt: int
    stack: int

    def code(self, cpl: int) -> int:
        """Return where code of this CPL finds the routines."""
        return self.user_code if cpl == 3 else self.kernel_code


@dataclass(frozen=True, slots=True)
class Arena:
    """The physical range [start, end) of the arena, below 4 GiB, and its copies of the root."""

    start: int
    end: int
    form: Form
    lent: tuple[Lent, Lent]

    @property
    def stack_pa(self) -> int:
        """The physical address of the top of the stack."""
        return self.start + _DATA * FRAME + _STACK_TOP

    def prepare(self, space: Space, root: U64) -> None:
        """Write the arena's pages: tables, code, descriptors; `root` are the root's words."""
        code, data = (self.start + number * FRAME for number in (_CODE, _DATA))
        tables = [self.start + number * FRAME for number in (_TABLES, _TABLES + 1)]
        self._write(space, tables[0], code | _KERNEL_CODE, code | _USER_CODE, data | _KERNEL_DATA)
        lent_to = tables[0] | _TABLE
        if self.form.size == 8:
            self._write(space, tables[1], lent_to)
            lent_to = tables[1] | _LOADED
        for lent in self.lent:
            entries: list[int] = (root.view(np.uint32) if self.form.size == 4 else root).tolist()
            entries[lent.slot] = lent_to
            self._write(space, lent.cr3, *entries)
        for frame, content in ((code, CODE), (data, b"".join(map(_descriptor, _GDT)))):
            self._put(space, frame, content.ljust(FRAME, b"\xf4"))

    def _write(self, space: Space, frame: int, *entries: int) -> None:
        content = b"".join(entry.to_bytes(self.form.size, "little") for entry in entries)
        self._put(space, frame, content.ljust(FRAME, b"\0"))

    def _put(self, space: Space, frame: int, content: bytes) -> None:
        table = np.frombuffer(content, np.uint64).reshape(1, WORDS)
        space.write_tables(np.array([frame], np.uint64), table)


def _descriptor(value: int) -> bytes:
    return value.to_bytes(8, "little")


def place_arena(memory: PhysicalMemory, form: Form, tables: U64, root: U64) -> Arena:
    """Return an arena that isn't in RAM and, if there is such a place, that no entry refers to.

    `tables` are the frames of the paging structures, `root` the words of the root table.
    `BadInput` if RAM leaves no room below 4 GiB.
    """
    start = (_free_stretch(memory, form, tables) << _STRETCH) + _WITHIN
    entries = root.view(np.uint32) if form.size == 4 else root
    last = len(entries) - 1
    # Empty slots first: an address that a walker may list is then probed under the first copy.
    order = sorted(range(last + 1), key=lambda at: (bool(entries[at]), at in (0, last), at))
    lent = [
        _lend(slot, start + at * FRAME, slot << form.levels[0][0])
        for at, slot in enumerate(order[:ROOTS])
    ]
    return Arena(start, start + _FRAMES * FRAME, form, (lent[0], lent[1]))


def _lend(slot: int, cr3: int, base: int) -> Lent:
    data = base + 2 * FRAME
    return Lent(slot, cr3, base, base + FRAME, data, data + _STACK_TOP)


def _free_stretch(memory: PhysicalMemory, form: Form, tables: U64) -> int:
    """Return the number of a stretch of 4 MiB outside RAM, one that no entry names if any."""
    ram, named = np.zeros((2, _STRETCHES), np.bool_)
    for start, size in memory.ranges:
        ram[start >> _STRETCH : (start + size - 1 >> _STRETCH) + 1] = True
    for at in range(0, len(tables), 4096):
        words = memory.tables(tables[at : at + 4096])
        entries = words.view(np.uint32).astype(np.uint64) if form.size == 4 else words
        stretch = (entries & np.uint64(form.address)) >> np.uint64(_STRETCH)
        named[stretch[stretch < _STRETCHES]] = True
    for taken in (ram | named, ram):
        free = np.flatnonzero(~taken)
        if len(free):
            return int(free[-1]) if taken[_PREFERRED] else _PREFERRED
    raise BadInput("RAM leaves no room below 4 GiB for the probe's own pages")
