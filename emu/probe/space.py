"""The probe's private physical memory: the tables under test, its trampoline, nothing else.

One host buffer holds every range, so that a word has one index, whatever range it is in, and
two engines can look at the same bytes. The buffer is anonymous memory: untouched pages
cost nothing, and the source is never written to.
"""

import mmap
import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from unicorn import UC_PROT_EXEC, UC_PROT_READ, UC_PROT_WRITE, Uc

from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME, U64, WORDS

__all__ = ["MAX_RAM", "NOWHERE", "Entries", "Space"]

MAX_RAM = 1 << 38
"""The most RAM, in bytes, that is put before the emulated CPU."""

Entries = NDArray[np.uint64] | NDArray[np.uint32]

NOWHERE = -1
"""The word index of a physical address that no range holds."""


# Python names it from 3.12 on; without it a large sparse RAM counts against the overcommit limit.
_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


class Space:
    """Physical ranges in one host buffer of zeros.

    `words` is uint64[n] over the whole buffer, `view` the same for single words; `index_of`
    tells where a physical address stands in them. Ranges are cut to whole frames.
    """

    def __init__(self, ranges: Sequence[tuple[int, int]], most: int = MAX_RAM) -> None:
        whole = [
            (-(-start // FRAME) * FRAME, (start + size) // FRAME * FRAME) for start, size in ranges
        ]
        whole = [(start, end) for start, end in whole if end > start]
        total = sum(end - start for start, end in whole)
        if total > most:
            raise BadInput(f"{total:#x} bytes of RAM; the probe takes {most:#x} with its own")
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE
        self._buffer = mmap.mmap(-1, max(total, FRAME), flags=flags)
        self.words: U64 = np.frombuffer(self._buffer, dtype=np.uint64)
        self.view = memoryview(self._buffer).cast("Q")
        self.bytes = memoryview(self._buffer)
        starts = np.array([start for start, _ in whole], dtype=np.uint64)
        sizes = np.array([end - start for start, end in whole], dtype=np.uint64)
        bases = np.cumsum(sizes) - sizes
        columns = (starts.tolist(), (starts + sizes).tolist(), bases.tolist())
        self._ranges: list[tuple[int, int, int]] = list(zip(*columns, strict=True))
        order = np.argsort(starts)
        self._starts, self._ends = starts[order], (starts + sizes)[order]
        # What to add to an address of each range for its index, modulo 2^64.
        self._shifts = (bases - starts)[order]

    def entries(self, size: int) -> Entries:
        """Return the whole buffer as entries of 4 or 8 bytes."""
        return self.words if size == 8 else self.words.view(np.uint32)

    def single_entries(self, size: int) -> memoryview:
        """Return the whole buffer as entries of 4 or 8 bytes, to read and write single ones."""
        return self.view if size == 8 else self.bytes.cast("I")

    def index_of(self, pa: U64) -> NDArray[np.int64]:
        """Return the index in `words` of each physical address, NOWHERE if it isn't held."""
        if not len(self._starts):
            return np.full(pa.shape, NOWHERE, np.int64)
        at = np.searchsorted(self._starts, pa, side="right") - 1
        held = (at >= 0) & (pa < self._ends[at])
        index = (pa + self._shifts[at] >> np.uint64(3)).view(np.int64)
        return np.where(held, index, NOWHERE)

    def byte_at(self, pa: int) -> int:
        """Return the index in `bytes` of one physical address, or NOWHERE."""
        for start, end, base in self._ranges:
            if start <= pa < end:
                return pa - start + base
        return NOWHERE

    def address_of(self, index: int) -> int:
        """Return the physical address of a word, by its index in `words`."""
        for start, end, base in self._ranges:
            if base <= 8 * index < base + end - start:
                return start + 8 * index - base
        raise IndexError(index)

    def tables(self, frames: U64) -> U64:
        """Return a copy of the (n, 512) words of n frames, zeros where one isn't held."""
        at = self.index_of(frames)
        rows = self.words.reshape(-1, WORDS)[np.where(at == NOWHERE, 0, at // WORDS)]
        rows[at == NOWHERE] = 0
        return rows

    def write_tables(self, frames: U64, tables: U64) -> None:
        """Put the (n, 512) words into n frames, all of which are held."""
        self.words.reshape(-1, WORDS)[self.index_of(frames) // WORDS] = tables

    def release(self) -> bool:
        """Have all of it zeros again, and the system its memory back; False where it can't be."""
        if sys.platform != "linux":
            return False  # Elsewhere pages may keep what they hold.
        self._buffer.madvise(mmap.MADV_DONTNEED)
        return True

    def map_into(self, uc: Uc, *, own: tuple[int, int], fetch: bool) -> None:
        """Map every range into an engine; `fetch` says whether RAM may be executed.

        The range [start, end) `own` may be executed in any case.
        """
        rw = UC_PROT_READ | UC_PROT_WRITE
        address = self.words.ctypes.data
        for start, end, base in self._ranges:
            executable = fetch or (own[0] <= start and end <= own[1])
            prot = rw | (UC_PROT_EXEC if executable else 0)
            uc.mem_map_ptr(start, end - start, prot, address + base)
