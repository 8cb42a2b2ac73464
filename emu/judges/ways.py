"""Where accesses may lead in a machine: the tables to write, the words to watch, the end of each.

As the probe's own reading (`crosswalk.emu.probe.paths`), which this uses, it predicts nothing: of
an entry it knows P, PS and the address field. A mistake here costs an answer, never gives one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.probe.control import Control
from crosswalk.emu.probe.frames import words_of
from crosswalk.emu.probe.paths import (
    NO_ADDRESS,
    NO_PAGE,
    PagingFormat,
    distinct,
    find_paths,
    find_tables,
    format_of,
)
from crosswalk.emu.probe.space import NOWHERE, Entries
from crosswalk.emu.probe.subset import Subset, subset_of
from crosswalk.walker.access import AccessType
from crosswalk.walker.columns import Accesses, Rows
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import FRAME, U64, WORDS, PhysicalMemory

__all__ = ["LEGACY", "Ram", "Tables", "Ways", "frames_of", "linear", "root_entries", "walked"]

MANY = 4096
"""Of more tables than these, a run is given those on the walks of its accesses alone."""

LEGACY = (0xA_0000, 0x10_0000)
"""Where a PC has its video memory and firmware, [start, end)."""

_FRAME_BITS = np.uint64(-FRAME & (1 << 64) - 1)
_WORD_BITS = np.uint64(-8 & (1 << 64) - 1)
_ZONE = np.uint64(30)
_SURE = np.array([1 << 20, 2 << 30], np.uint64)
"""Between these a PC has RAM. Of the first MiB firmware keeps what it likes."""

_LOW_ZONE = np.uint64(16)


class Ram:
    """The RAM of a machine, as its firmware says, or, without that, as far as all PCs agree.

    `known` tells which of these it is. From `nothing_from` up, what isn't RAM is nothing at all:
    reads and writes there do no harm, and a table there is zeros.
    """

    def __init__(
        self, ranges: Sequence[tuple[int, int]] | None, nothing_from: int | None = None
    ) -> None:
        self.known, self.nothing_from = ranges is not None, nothing_from
        whole = sorted(
            (-(-start // FRAME) * FRAME, (start + size) // FRAME * FRAME)
            for start, size in ranges or ()
        )
        self._starts = np.array([start for start, _ in whole], np.uint64)
        self._ends = np.array([end for _, end in whole], np.uint64)

    def has(self, frames: U64) -> NDArray[np.bool_]:
        """Return bool[n]: which frames may be RAM; all but those of `LEGACY` if none is known."""
        found: NDArray[np.bool_]
        if not self.known:
            found = (frames < np.uint64(LEGACY[0])) | (frames >= np.uint64(LEGACY[1]))
            return found
        if not len(self._starts):
            return np.zeros(len(frames), np.bool_)
        at = np.searchsorted(self._starts, frames, side="right") - 1
        found = (at >= 0) & (frames < self._ends[at])
        return found

    def lacks(self, pa: U64) -> NDArray[np.bool_]:
        """Return bool[n]: at which addresses there is neither RAM nor anything else."""
        if self.nothing_from is None:
            return np.zeros(len(pa), np.bool_)
        found: NDArray[np.bool_] = pa >= np.uint64(self.nothing_from)
        return found & ~self.has(pa & _FRAME_BITS)

    def zones(self, frames: U64) -> U64:
        """Return uint64[n]: parts of memory that a machine may lack each by itself, 0 if none.

        They are of 1 GiB; in the first MiB of 64 KiB, but for the first page, which is one.
        """
        if self.known:
            return np.zeros(frames.shape, np.uint64)
        low = ~np.where(frames == 0, np.uint64(0), np.uint64(1) + (frames >> _LOW_ZONE))
        found: U64 = np.where(frames < _SURE[0], low, frames >> _ZONE)
        found[(frames >= _SURE[0]) & (frames < _SURE[1])] = 0
        return found


class Tables:
    """The tables of an address space: `frames` uint64[n], ascending, `words` uint64[n, 512]."""

    def __init__(self, frames: U64, words: U64) -> None:
        self.frames, self.words = frames, words
        self._flat = np.ascontiguousarray(words).reshape(-1)

    def entries(self, size: int) -> Entries:
        """Return all of them as entries of 4 or 8 bytes."""
        return self._flat if size == 8 else self._flat.view(np.uint32)

    def index_of(self, pa: U64) -> NDArray[np.int64]:
        """Return the index of the 8-byte word at each address, NOWHERE if it isn't held."""
        if not len(self.frames):
            return np.full(pa.shape, NOWHERE, np.int64)
        frame = pa & _FRAME_BITS
        row = np.minimum(np.searchsorted(self.frames, frame), len(self.frames) - 1)
        index = row * WORDS + ((pa - frame) >> np.uint64(3)).astype(np.int64)
        return np.where(self.frames[row] == frame, index, NOWHERE)

    def values(self, pa: U64) -> U64:
        """Return the 8-byte words at these addresses, 0 where none is held."""
        index = self.index_of(pa & _WORD_BITS)
        if not len(self._flat):
            return np.zeros(len(pa), np.uint64)
        return np.where(index == NOWHERE, np.uint64(0), self._flat[index])

    def holds(self, pa: U64) -> NDArray[np.bool_]:
        """Return bool[n]: which addresses lie in these tables."""
        found: NDArray[np.bool_] = self.index_of(pa & _WORD_BITS) != NOWHERE
        return found


@dataclass(frozen=True, slots=True)
class Ways(Rows):
    """Where n accesses may lead.

    `entry` uint64[n, 5] are the addresses of the entries on each walk, NO_ADDRESS behind the last;
    `end` uint64[n] the address reached, NO_PAGE for none. `beyond` uint64[n] is the frame of a
    table that the tables don't have and the walk goes on to, NO_PAGE for none.
    """

    entry: U64
    end: U64
    beyond: U64

    @property
    def words(self) -> U64:
        """The addresses of the 8-byte words that the entries lie in, uint64[n, 5]."""
        return np.where(self.entry == np.uint64(NO_ADDRESS), self.entry, self.entry & _WORD_BITS)

    @property
    def target(self) -> U64:
        """The address of the 8-byte word reached, uint64[n], NO_PAGE for none."""
        return self.end & _WORD_BITS


def tables_of(memory: PhysicalMemory, context: PagingContext, va: U64) -> Tables:
    """Return the tables that a walk may come to, or, of many, those that these addresses select."""
    control = Control.of(context)
    frames = find_tables(memory, format_of(control), control.root)
    if len(frames) > MANY:
        subset = subset_of(memory, context, va)
        frames = subset.frames if isinstance(subset, Subset) else frames
    return Tables(frames, words_of(memory, frames))


def ways_of(tables: Tables, form: PagingFormat, root: int, va: U64) -> Ways:
    """Return where the walks of these linear addresses lead."""
    paths = find_paths(tables, form, root, va)
    end = np.full(len(va), NO_PAGE, np.uint64)
    leaf = paths.page != np.uint64(NO_PAGE)
    end[leaf] = paths.page[leaf] | va[leaf] & np.uint64(FRAME - 1)
    beyond = np.full(len(va), NO_PAGE, np.uint64)
    entries = tables.entries(form.entry_bytes)
    for step, (shift, _) in enumerate(form.levels[:-1]):
        last = (paths.index[:, step] != NOWHERE) & (paths.index[:, step + 1] == NOWHERE)
        rows = np.flatnonzero(last & ~leaf)
        entry = entries[paths.index[rows, step]].astype(np.uint64, copy=False)
        down = form.tables(entry, shift)
        beyond[rows[down]] = (entry & np.uint64(form.address))[down]
    return Ways(paths.pa, end, beyond)


def linear(control: Control, accesses: Accesses) -> U64:
    """Return the linear addresses that walks are made for, uint64[n].

    Masking changes bits that select entries in one case: LAM of 48 bits under 5-level paging.

    Source: Intel SDM vol. 3A, "Linear-Address Masking (LAM)".
    """
    if not (control.user_u48 and control.levels == 5):
        return accesses.va
    masked = (accesses.type != AccessType.EXECUTE) & (accesses.va >> np.uint64(63) == 0)
    return np.where(masked, accesses.va & np.uint64((1 << 48) - 1), accesses.va)


def frames_of(pa: U64) -> U64:
    """Return the distinct frames of addresses, ascending, those of no address left out."""
    frames = pa.reshape(-1) & _FRAME_BITS
    return distinct(frames[frames < np.uint64(1 << 52)])


def walked(
    memory: PhysicalMemory, context: PagingContext, va: U64, ram: Ram, width: int
) -> tuple[Tables, Ways]:
    """Return an address space's tables, and where the walks of these linear addresses lead.

    A table that the case has no RAM for is zeros there, as all memory is that it doesn't state:
    where the machine has RAM, below 1 << `width`, it becomes one of the tables.
    """
    control = Control.of(context)
    form = format_of(control)
    tables = tables_of(memory, context, va)
    ways = ways_of(tables, form, control.root, va)
    frames = frames_of(ways.beyond)
    frames = frames[ram.has(frames) & (frames >> np.uint64(width) == 0)]
    if len(frames):
        every = np.concatenate([tables.frames, frames])
        words = np.concatenate([tables.words, np.zeros((len(frames), WORDS), np.uint64)])
        order = np.argsort(every)
        tables = Tables(every[order], words[order])
        ways = ways_of(tables, form, control.root, va)
    return tables, ways


def root_entries(tables: Tables, form: PagingFormat, root: int) -> U64:
    """Return the entries of the root, uint64[s]."""
    at = np.arange(form.root_bytes // 8, dtype=np.uint64) * np.uint64(8) + np.uint64(root)
    return form.entries(tables.values(at))
