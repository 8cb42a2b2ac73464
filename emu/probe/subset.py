"""The tables that translate some addresses, out of an address space of any size.

A prober copies all tables that it is given, and compares them after each batch. Of a large address
space it is therefore given a subset at a time: the tables on the walks of the accesses to be made,
by the probe's own reading. A table left out would make the emulated CPU fault where a prediction
doesn't.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.probe.control import Control
from crosswalk.emu.probe.frames import has_frames, words_of
from crosswalk.emu.probe.paths import distinct, format_of
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import FRAME, U64, WORDS, PhysicalMemory
from crosswalk.walker.nested.context import NestedContext

__all__ = ["Subset", "nested_subset_of", "subset_of"]

_BLOCK = 1024  # Tables read at once.
_MANY = 256  # Ranges that are mapped in a tenth of a second.


class Subset:
    """A memory of which only some frames can be read; the others are zeros.

    `frames` uint64[n] are those frames, ascending. Its `ranges` are those of the whole memory, or
    some of them.
    """

    def __init__(
        self, memory: PhysicalMemory, frames: U64, ranges: Sequence[tuple[int, int]] | None = None
    ) -> None:
        self._memory, self.frames = memory, frames
        self._ranges = memory.ranges if ranges is None else ranges

    @property
    def ranges(self) -> Sequence[tuple[int, int]]:
        """The backed ranges as (start, size) in bytes: sorted, disjoint, not adjacent."""
        return self._ranges

    def read(self, pa: int, size: int) -> bytes:
        """Return `size` bytes from `pa`; `BadInput` unless all of them are backed."""
        data = bytearray(self._memory.read(pa, size))
        frames = np.arange(pa & -FRAME, pa + size, FRAME, dtype=np.uint64)
        for at in frames[~self._held(frames)].tolist():
            first, end = max(at, pa) - pa, min(at + FRAME, pa + size) - pa
            data[first:end] = bytes(end - first)
        return bytes(data)

    def word(self, pa: int) -> int | None:
        """Return the 8-byte word at `pa`, a multiple of 8; None if its frame is not backed."""
        word = self._memory.word(pa)
        held = self._held(np.array([pa & -FRAME], np.uint64))[0]
        return word if held or word is None else 0

    def backed(self, frames: U64) -> NDArray[np.bool_]:
        """Return, for each physical address of a frame, whether all 4 KiB of it are backed."""
        return self._memory.backed(frames)

    def tables(self, frames: U64) -> U64:
        """Return the (n, 512) words of n frames: zeros for those outside the subset."""
        words = np.zeros((len(frames), WORDS), np.uint64)
        held = self._held(frames)
        words[held] = self._memory.tables(frames[held])
        return words

    def _held(self, frames: U64) -> NDArray[np.bool_]:
        at = np.searchsorted(self.frames, frames)
        found: NDArray[np.bool_] = at < len(self.frames)
        found[found] = self.frames[at[found]] == frames[found]
        return found


def subset_of(memory: PhysicalMemory, context: PagingContext, va: U64) -> PhysicalMemory:
    """Return the subset that translates these addresses; in 32-bit and PAE paging all of memory.

    There are at most 2,052 tables in those modes. Of many ranges it has those that these addresses
    may lead to, whatever their entries are taken for: Unicorn's time to map one grows with the
    number of those that are mapped.
    """
    control = Control.of(context)
    if not control.long:
        return memory
    form = format_of(control)
    page = distinct(va >> np.uint64(12))
    table = np.full(len(page), control.root, np.uint64)
    found = [np.array([control.root], np.uint64)]
    reached = [found[0]]
    for shift, bits in form.levels:
        index = page >> np.uint64(shift - 12) & np.uint64((1 << bits) - 1)
        entry = _entries(memory, table, index)
        reached += _frames_behind(entry & np.uint64(form.address & ~control.mask), page)
        down = form.tables(entry, shift)
        page, table = page[down], entry[down] & np.uint64(form.address & ~control.mask)
        found.append(distinct(table))
    frames = distinct(np.concatenate(found))
    ranges = _some_ranges(memory.ranges, np.concatenate(reached))
    return Subset(memory, frames[has_frames(memory, frames)], ranges)


def _frames_behind(entry: U64, page: U64) -> list[U64]:
    """Return the frames that entries lead to, as tables and as leaves of any size."""
    found = []
    for shift in (12, 21, 30):
        offset = np.uint64((1 << shift) - 1)
        found.append(entry & ~offset | page << np.uint64(12) & offset)
    return found


def _some_ranges(ranges: Sequence[tuple[int, int]], frames: U64) -> Sequence[tuple[int, int]]:
    """Return the ranges that hold one of these frames; all where they are few, or most of them.

    Engines are kept while the ranges are the same.
    """
    if len(ranges) <= _MANY:
        return ranges
    starts = np.array([start for start, _ in ranges], np.uint64)
    at = np.unique(np.searchsorted(starts, frames, "right"))
    some = [ranges[each - 1] for each in at.tolist() if each]
    return some if 2 * len(some) < len(ranges) else ranges


def _entries(memory: PhysicalMemory, table: U64, index: U64) -> U64:
    """Return an entry of each of n tables, 0 where one isn't backed."""
    entry = np.zeros(len(table), np.uint64)
    order = np.argsort(table, kind="stable")
    frames, first = np.unique(table[order], return_index=True)
    bounds = np.append(first, len(table))
    for at in range(0, len(frames), _BLOCK):
        some = frames[at : at + _BLOCK]
        rows = order[bounds[at] : bounds[at + len(some)]]
        words = words_of(memory, some)
        entry[rows] = words[np.searchsorted(some, table[rows]), index[rows].astype(np.intp)]
    return entry


def nested_subset_of(memory: PhysicalMemory, context: NestedContext, va: int) -> PhysicalMemory:
    """Return the ranges that a guest's access may lead to, if there are many; else the whole."""
    control, nested = Control.of(context.guest), Control.of(context.npt)
    if len(memory.ranges) <= _MANY or not (control.long and nested.long):
        return memory
    form, page = format_of(control), np.array([va >> 12], np.uint64)
    table = np.array([control.root], np.uint64)
    reached = [table]
    for shift, bits in form.levels:
        index = va >> shift & (1 << bits) - 1
        held = _translated(memory, nested, int(table[0]))
        entry = np.array([memory.word(held + 8 * index) or 0 if held is not None else 0], np.uint64)
        reached += _frames_behind(entry & np.uint64(form.address & ~control.mask), page)
        if not form.tables(entry, shift)[0]:
            break
        table = entry & np.uint64(form.address & ~control.mask)
    ranges = subset_of(memory, context.npt, np.concatenate(reached)).ranges
    frames = [np.arange(start, start + size, FRAME, dtype=np.uint64) for start, size in ranges]
    return Subset(memory, np.concatenate(frames), ranges)


def _translated(memory: PhysicalMemory, control: Control, address: int) -> int | None:
    """Return where a table's address leads by the probe's own reading; None where nowhere."""
    form, table = format_of(control), control.root
    for shift, bits in form.levels:
        word = memory.word(table + 8 * (address >> shift & (1 << bits) - 1)) or 0
        entry = word & form.address & ~control.mask
        if not form.tables(np.array([word], np.uint64), shift)[0]:
            within = (1 << shift) - 1
            return entry & ~within | address & within if word & 1 else None
        table = entry
    return None
