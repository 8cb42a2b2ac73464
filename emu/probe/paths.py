"""The probe's own reading of the tables: which words an access can touch, and where it may end.

None of this predicts anything. It says where to look for A and D bits, which frames hold
tables, and which pages are worth a signature; a mistake here costs a second look, or an error,
never an agreement. It shares no code with the walker: of an entry it knows P, PS and the
address field, and nothing of rights or reserved bits.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.probe.control import ADDRESS
from crosswalk.emu.probe.frames import has_frames, words_of
from crosswalk.emu.probe.space import NOWHERE, Space
from crosswalk.walker.memory import U64, PhysicalMemory

__all__ = ["MAX_LEVELS", "NO_PAGE", "NO_WORD", "Paths", "distinct", "find_paths", "find_tables"]

MAX_LEVELS = 5
NO_PAGE = (1 << 64) - 4096
"""A frame that no entry can name."""
NO_WORD = (1 << 64) - 1
"""An address that no word has."""

_PRESENT = np.uint64(1)
_PAGE_SIZE = np.uint64(0x80)
_ADDRESS = np.uint64(ADDRESS)


@dataclass(frozen=True, slots=True)
class Paths:
    """The words that walks of n addresses would use.

    `word` int64[n, 5], their indices in the space from the root down, NOWHERE behind the last;
    `pa` uint64[n, 5], their physical addresses, NO_WORD behind the last; `page` uint64[n], the
    4-KiB frame at the end, NO_PAGE where there is none.
    """

    word: NDArray[np.int64]
    pa: U64
    page: U64


def distinct(values: U64) -> U64:
    """Return the distinct values in ascending order: by sorting, which is faster than a table."""
    ordered = np.sort(values, kind="stable")
    return ordered[np.append(True, ordered[1:] != ordered[:-1])] if len(ordered) else ordered


def find_tables(memory: PhysicalMemory, root: int, levels: int, mask: int = 0) -> U64:
    """Return the frames that may be used as tables, ascending, all of them backed.

    Bits of the encryption `mask` are no part of an address. Each frame is looked at once a level,
    so that cycles end.
    """
    address = np.uint64(ADDRESS & ~mask)
    found = frames = np.array([root], dtype=np.uint64)
    for level in range(levels, 1, -1):
        below = []
        for start in range(0, len(frames), 4096):
            words = words_of(memory, frames[start : start + 4096])
            entries = words[(words & _PRESENT) != 0]
            if level in (2, 3):
                entries = entries[(entries & _PAGE_SIZE) == 0]
            below.append(distinct(entries & address))
        frames = distinct(np.concatenate(below)) if below else frames[:0]
        frames = frames[has_frames(memory, frames)]
        found = np.union1d(found, frames)
    return found


def find_paths(space: Space, root: int, levels: int, va: U64) -> Paths:
    """Return the words that a walk of each address, 4- or 5-level, would use from `root`."""
    count = len(va)
    word = np.full((count, MAX_LEVELS), NOWHERE, np.int64)
    address = np.full((count, MAX_LEVELS), NO_WORD, np.uint64)
    page = np.full(count, NO_PAGE, np.uint64)
    rows = np.arange(count)
    table = np.full(count, root, np.uint64)
    for level in range(levels, 0, -1):
        shift = np.uint64(3 + 9 * level)
        at = table + ((va[rows] >> shift & np.uint64(511)) << np.uint64(3))
        index = space.index_of(at)
        there = index != NOWHERE
        rows, at, index = rows[there], at[there], index[there]
        word[rows, levels - level] = index
        address[rows, levels - level] = at
        entry = space.words[index]
        present = (entry & _PRESENT) != 0
        ends = np.full(len(rows), level == 1)
        if level in (2, 3):
            ends = (entry & _PAGE_SIZE) != 0
        last = present & ends
        below = (np.uint64(1) << shift) - np.uint64(1)
        frame = (entry & _ADDRESS & ~below) | (va[rows] & below)
        page[rows[last]] = (frame & ~np.uint64(4095))[last]
        down = present & ~ends
        rows, table = rows[down], (entry & _ADDRESS)[down]
    return Paths(word, address, page)
