"""Physical memory of layouts: where tables and pages lie."""

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.probe.trampoline import PREFERRED
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import FRAME, U64

__all__ = ["RAM", "Places", "clear_of_probe"]

_TOP = 1 << 40
RAM = ((0, 4 << 30), (8 << 30, 1 << 30), (_TOP - (16 << 20), 16 << 20))
"""The same for all layouts, so that engines can be kept; most of it is never touched."""

_LOW, _LOW_SIZE = 1 << 20, 31 << 20  # Where tables lie, and small pages.
_FIELD = np.uint64(0x000F_FFFF_FFFF_F000)
_GIB = np.uint64(30)


class Places:
    """Draws addresses: the frames of `tables`, and of pages."""

    def __init__(self, chance: np.random.Generator, context: PagingContext, tables: int) -> None:
        self._chance = chance
        frames = _LOW + FRAME * chance.permutation(_LOW_SIZE // FRAME)[: tables + 64]
        self.tables: U64 = frames[:tables].astype(np.uint64)
        self._pages = frames[tables:].tolist()
        self._top = context.maxphyaddr >= 40
        # Where MAXPHYADDR is lower an entry that leads there has a reserved bit.
        high = chance.random(tables) < chance.choice([0.0, 0.1])
        high[0] &= self._top
        offsets = FRAME * chance.permutation((16 << 20) // FRAME)[:tables]
        self.tables[high] = (_TOP - FRAME - offsets[high]).astype(np.uint64)
        if self._top:
            self._pages += [_TOP - FRAME, _TOP - 2 * FRAME]
        self._limit = 1 << context.maxphyaddr
        self._address = np.uint64(context.address_mask)
        self._tables_as_pages = float(chance.choice([0.0, 0.02, 0.08]))

    def pages(self, level: NDArray[np.intp], tables: U64) -> U64:
        """Return the address of a page for each leaf of these levels; now and then of a table."""
        chance, count = self._chance, len(level)
        draw = chance.random(count)
        shift = (3 + 9 * level).astype(np.uint64)
        limit = np.where(draw < 0.96, 4 << 30, self._limit).astype(np.uint64)
        number = chance.integers(0, 1 << 52, count).astype(np.uint64)
        found = number % (limit >> shift) << shift
        small = level == 1
        few = np.array(self._pages, np.uint64)[number % np.uint64(len(self._pages))]
        found = np.where(small & (draw < 0.94), few, found)
        table = tables[number % np.uint64(len(tables))]
        table = np.where(table < np.uint64(self._limit), table, tables[0])
        found = np.where(small & (draw < self._tables_as_pages), table, found)
        if self._top:
            top = np.uint64(_TOP) - (np.uint64(1) << shift)
            found = np.where(~small & (draw > 0.98), top, found)
        # Bits of an encryption mask are no part of an address.
        return clear_of_probe(found & self._address)

    def outside(self, count: int) -> U64:
        """Return frames without RAM."""
        return ((5 << 30) + FRAME * self._chance.integers(0, 1 << 18, count)).astype(np.uint64)

    def junk(self, flags: U64) -> U64:
        """Return what entries that aren't present may hold: anything, or nothing."""
        count = len(flags)
        any_ = self._chance.integers(0, 1 << 63, count).astype(np.uint64) << np.uint64(1) | flags
        any_ &= ~np.uint64(1)
        return np.where(self._chance.random(count) < 0.3, np.uint64(0), clear_of_probe(any_))


def clear_of_probe(words: U64) -> U64:
    """Return words of which none names the GiB that the probe has for itself."""
    named = (words & _FIELD) >> _GIB == np.uint64(PREFERRED)
    cleared: U64 = np.where(named, words ^ np.uint64(1 << 31), words)
    return cleared
