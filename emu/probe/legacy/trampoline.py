"""The probe's own pages in 32-bit and PAE paging.

As `crosswalk.emu.probe.trampoline`: a slot of the root is lent while code runs, in place or in a
copy. It is one of 4 MiB, or in PAE a PDPTE.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from crosswalk.emu.probe.control import Control
from crosswalk.emu.probe.legacy.paths import Form
from crosswalk.emu.probe.legacy.routines import CODE
from crosswalk.emu.probe.space import Space
from crosswalk.emu.probe.trampoline import IN_PLACE
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME, U64, WORDS

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
    """One slot lent, in place or in a copy of the root.

    `cr3` is the CR3 to be under then; the others are linear addresses in the arena.
    """

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
    """The physical range [start, end) of the arena, below 4 GiB, and the slots that lead there.

    `lent` are two slots lent in place, and the same two in copies of the root. `apart` says that no
    entry refers to the stretch of 4 MiB around.
    """

    start: int
    end: int
    form: Form
    lent: tuple[Lent, Lent, Lent, Lent]
    apart: bool

    @property
    def stack_pa(self) -> int:
        """The physical address of the top of the stack."""
        return self.start + _DATA * FRAME + _STACK_TOP

    @property
    def entry(self) -> int:
        """The entry of a lent slot."""
        first, second = (self.start + number * FRAME for number in (_TABLES, _TABLES + 1))
        return second | _LOADED if self.form.size == 8 else first | _TABLE

    def prepare(self, space: Space, root: U64) -> None:
        """Write the arena's pages: tables, code, descriptors; `root` are the root's words."""
        code, data = (self.start + number * FRAME for number in (_CODE, _DATA))
        tables = [self.start + number * FRAME for number in (_TABLES, _TABLES + 1)]
        self._write(space, tables[0], code | _KERNEL_CODE, code | _USER_CODE, data | _KERNEL_DATA)
        if self.form.size == 8:
            self._write(space, tables[1], tables[0] | _TABLE)
        for lent in self.lent[IN_PLACE:]:
            entries: list[int] = (root.view(np.uint32) if self.form.size == 4 else root).tolist()
            entries[lent.slot] = self.entry
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


def place_arena(
    ranges: Sequence[tuple[int, int]],
    form: Form,
    control: Control,
    content: U64,
    root: U64,
    avoid: tuple[int, int] | None = None,
) -> Arena:
    """Return an arena outside memory and, if there is such a place, where no entry refers to.

    `ranges` (start, size) are those of memory, `content` uint64[n, 512] the words of the paging
    structures, `root` those of the root table; `avoid` is a physical range [start, end) that it
    must not be in. `BadInput` if RAM leaves no room below 4 GiB.
    """
    if avoid is not None:
        ranges = [*ranges, (avoid[0], avoid[1] - avoid[0])]
    stretch, apart = _free_stretch(ranges, form, content)
    start = (stretch << _STRETCH) + _WITHIN
    entries = root.view(np.uint32) if form.size == 4 else root
    last = len(entries) - 1
    # Empty slots first: an address that a walker may list then uses none that is lent.
    order = sorted(range(last + 1), key=lambda at: (bool(entries[at]), at in (0, last), at))
    copies = [start + at * FRAME for at in range(ROOTS)]
    lent = [
        _lend(slot, cr3, slot << form.levels[0][0])
        for cr3s in ((control.cr3 & 0xFFFF_FFFF & ~control.mask,) * ROOTS, copies)
        for slot, cr3 in zip(order[:ROOTS], cr3s, strict=True)
    ]
    return Arena(start, start + _FRAMES * FRAME, form, (lent[0], lent[1], lent[2], lent[3]), apart)


def _lend(slot: int, cr3: int, base: int) -> Lent:
    data = base + 2 * FRAME
    return Lent(slot, cr3, base, base + FRAME, data, data + _STACK_TOP)


def _free_stretch(ranges: Sequence[tuple[int, int]], form: Form, content: U64) -> tuple[int, bool]:
    """Return the number of a stretch of 4 MiB in none of the ranges, that no entry names if any.

    And whether that is so.
    """
    taken, named = np.zeros((2, _STRETCHES), np.bool_)
    for start, size in ranges:
        taken[start >> _STRETCH : (start + size - 1 >> _STRETCH) + 1] = True
    entries = content.view(np.uint32).astype(np.uint64) if form.size == 4 else content
    stretch = (entries & np.uint64(form.address)) >> np.uint64(_STRETCH)
    named[stretch[stretch < _STRETCHES]] = True
    for apart, each in ((True, taken | named), (False, taken)):
        free = np.flatnonzero(~each)
        if len(free):
            return int(free[-1]) if each[_PREFERRED] else _PREFERRED, apart
    raise BadInput("RAM leaves no room below 4 GiB for the probe's own pages")
