"""The probe's own pages in a run of many address spaces, which all of them borrow a slot for.

    physical memory, from `START`            linear memory, below the borrowed slot
    code of `mixed_loop`                     code, for CPL 0
    GDT with call gates, TSS, stack          the same for CPL 3, once for each protection key
    records, outs                            GDT; records, outs
    tables from the slot down to the pages   window: the tables under test, for CPL 0

The slot has the same number in all of the roots, so that code goes on where it is when CR3
changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.probe.mixed_loop import (
    FAULTED,
    FAULTED_GATE,
    MADE,
    MADE_GATE,
    MIXED_CODE,
    OUT_WORDS,
    RECORD_WORDS,
)
from crosswalk.emu.probe.paths import PagingFormat
from crosswalk.emu.probe.space import NOWHERE, Space
from crosswalk.emu.probe.trampoline import GDT
from crosswalk.walker.memory import FRAME, U64, WORDS

__all__ = ["CAPACITY", "MAX_SHOWN", "OWN", "START", "SeenAt", "SharedTrampoline"]

CAPACITY = 4096
"""How many accesses one run makes at the most."""

START = 960 << 30
"""Where it lies: nothing of any address space is put into this GiB."""

_KEYS = 16
_CODE, _USER_CODE = 0, 1
_DATA = _USER_CODE + _KEYS
_RECORDS = _DATA + 1
_OUTS = _RECORDS + CAPACITY * RECORD_WORDS * 8 // FRAME
_WINDOW = _OUTS + CAPACITY * OUT_WORDS * 8 // FRAME + 1
_UPPER, _LEAVES = 3, 64  # Tables above the page tables, and those.
MAX_SHOWN = _LEAVES * WORDS - _WINDOW
"""How many tables the window shows at the most."""

_TABLE, _KERNEL_CODE, _USER_PAGE, _KERNEL_DATA = 0x67, 0x61, 0x65, 0x63
_STACK_TOP, _TSS, _RSP0 = 0x800, 0x100, 4
_GATE, _KERNEL_SELECTOR = 0xEC00, 0x08  # Present, DPL 3, a call gate.
_FRAME_MASK = np.uint64(-FRAME & (1 << 64) - 1)


@dataclass(frozen=True, slots=True)
class SeenAt:
    """Linear addresses of the parts."""

    code: int
    gdt: int
    tss: int
    records: int
    outs: int


_PAGES = _WINDOW - _DATA + 1 + _UPPER + _LEAVES
OWN = START, START + _PAGES * FRAME
"""The physical range [start, end)."""


class SharedTrampoline:
    """The pages, in a space that holds all of physical memory from 0 on."""

    form: PagingFormat
    """That of the roots which borrow a slot for them, since `enter`."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._data = START + FRAME
        self.records = self._data + FRAME
        self.outs = self.records + (_OUTS - _RECORDS) * FRAME
        self._tables = self.outs + (_WINDOW - _OUTS) * FRAME
        self._leaves = self._tables + _UPPER * FRAME
        self._shown = np.zeros(0, np.uint64)
        self.write()

    def write(self) -> None:
        """Write what is the same for all runs."""
        self._entered: tuple[int, int] | None = None
        self._put(START, np.frombuffer(MIXED_CODE.ljust(FRAME, b"\xf4"), np.uint64))
        entries = [START | _KERNEL_CODE]
        entries += [START | _USER_PAGE | key << 59 for key in range(_KEYS)]
        entries += [self._data + at * FRAME | _KERNEL_DATA for at in range(_WINDOW - _DATA)]
        self._put(self._leaves, entries)

    @property
    def entry(self) -> int:
        """The entry of a borrowed slot."""
        return self._tables | self.form.table_flags

    def base(self, slot: int) -> int:
        """Return the linear address where a borrowed slot begins."""
        return self.form.slot_va(slot)

    def seen_at(self, base: int) -> SeenAt:
        """Return where the parts are seen below a slot."""
        data = base + _DATA * FRAME
        return SeenAt(
            code=base,
            gdt=data,
            tss=data + _TSS,
            records=base + _RECORDS * FRAME,
            outs=base + _OUTS * FRAME,
        )

    def user_code(self, base: int, key: U64) -> U64:
        """Return where code at CPL 3 runs for each of these protection keys."""
        return np.uint64(base + _USER_CODE * FRAME) + key * np.uint64(FRAME)

    def enter(self, form: PagingFormat, slot: int) -> None:
        """Have all of it where code of this format finds it below a slot."""
        if self._entered == (len(form.levels), slot):
            return
        self._entered = len(form.levels), slot
        self.form = form
        at = self.seen_at(self.base(slot))
        upper = [self._tables + step * FRAME for step in range(len(form.levels) - 2)]
        for table, below in pairwise(upper):
            self._put(table, [below | _TABLE])
        self._put(upper[-1], [self._leaves + step * FRAME | _TABLE for step in range(_LEAVES)])
        words = list(GDT[64])
        for selector, target in ((MADE_GATE, at.code + MADE), (FAULTED_GATE, at.code + FAULTED)):
            words += [0] * (selector // 8 - len(words))
            low, middle = target & 0xFFFF, target >> 16 & 0xFFFF
            words += [low | _KERNEL_SELECTOR << 16 | _GATE << 32 | middle << 48, target >> 32]
        self._put(self._data, words)
        # RSP0 lies across two words of a TSS.
        stack = (at.gdt + _STACK_TOP).to_bytes(8, "little")
        task = (bytes(_RSP0) + stack).ljust(16, b"\0")
        self._put(self._data + _TSS, np.frombuffer(task, np.uint64))

    def show(self, tables: U64) -> None:
        """Have the window show these frames, ascending, `MAX_SHOWN` at the most."""
        self._shown = tables
        self._put(self._leaves + 8 * _WINDOW, tables | np.uint64(_KERNEL_DATA))

    def seen(self, index: NDArray[np.int64]) -> U64:
        """Return how far from the base of a slot the words with these indices are seen.

        Those of frames that the window shows; NOWHERE is seen as a word that is always 0.
        """
        pa = index.astype(np.uint64) << np.uint64(3)
        page = np.searchsorted(self._shown, pa & _FRAME_MASK).astype(np.uint64)
        found = (page + np.uint64(_WINDOW)) << np.uint64(12) | pa & ~_FRAME_MASK
        return np.where(index == NOWHERE, np.uint64((_WINDOW - 1) * FRAME), found)

    def _put(self, pa: int, words: Sequence[int] | U64) -> None:
        at = self._space.byte_at(pa) >> 3
        self._space.words[at : at + len(words)] = np.array(words, np.uint64)
