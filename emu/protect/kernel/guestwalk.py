"""A guest's tables as they lie in memory, read for its host: without the CPU, without a trace.

Source: Intel SDM vol. 3A, "4-Level Paging and 5-Level Paging"; Linux Documentation/x86/pti.rst (two
roots).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from crosswalk.walker.memory import FRAME, U64, PhysicalMemory

__all__ = ["Leaf", "entries_of", "find_kernel_root", "find_leaf", "find_user_root", "lower_leaves"]

_PRESENT, _WRITE, _USER, _LARGE, _NX = 1, 2, 4, 0x80, 1 << 63
_ADDRESS = (1 << 52) - FRAME
_LEVELS, _HALF = 4, 256
_HIGH = (1 << 64) - (1 << 48)
_LOOKED_AT = 256


@dataclass(frozen=True, slots=True)
class Leaf:
    """The end of a walk: the page's physical address and size, and where its entry lies.

    The rights are those that all levels leave.
    """

    pa: int
    size: int
    entry: int
    writable: bool
    user: bool
    executable: bool


def find_leaf(memory: PhysicalMemory, root: int, va: int) -> Leaf | None:
    """Return the page that `va` is in, or None."""
    table, grants = root & _ADDRESS, _WRITE | _USER
    no_execution = 0
    for level in range(_LEVELS, 0, -1):
        at = table + 8 * (va >> 12 + 9 * (level - 1) & 511)
        entry = memory.word(at)
        if entry is None or not entry & _PRESENT:
            return None
        grants &= entry
        no_execution |= entry & _NX
        size = 1 << 12 + 9 * (level - 1)
        if level == 1 or (level < _LEVELS and entry & _LARGE):
            return Leaf(
                pa=entry & _ADDRESS & -size,
                size=size,
                entry=at,
                writable=bool(grants & _WRITE),
                user=bool(grants & _USER),
                executable=not no_execution,
            )
        table = entry & _ADDRESS
    raise AssertionError("level 1 ends every walk")


def entries_of(memory: PhysicalMemory, root: int, va: int) -> Iterator[int]:
    """Yield the addresses of the entries that map the page that `va` is in, from the root down."""
    table = root & _ADDRESS
    for level in range(_LEVELS, 0, -1):
        at = table + 8 * (va >> 12 + 9 * (level - 1) & 511)
        entry = memory.word(at)
        if entry is None or not entry & _PRESENT:
            return
        yield at
        if level < _LEVELS and entry & _LARGE:
            return
        table = entry & _ADDRESS


def lower_leaves(memory: PhysicalMemory, root: int) -> Iterator[int]:
    """Yield the addresses of the pages in the lower half, in order; of large ones all 4 KiB."""
    for va, size in _leaves(memory, root & _ADDRESS, _LEVELS, 0, range(_HALF)):
        yield from range(va, va + size, FRAME)


def find_kernel_root(memory: PhysicalMemory, root: int, frames: U64) -> int | None:
    """Return the root table among these frames that has the upper half of `root`, and no lower one.

    It is the kernel's own, which no process has: Linux keeps it in its image, and copies its upper
    half to each process's root. The one that `root` may be itself comes first.
    """
    wanted = memory.tables(np.array([root & _ADDRESS], np.uint64))[0, _HALF:]
    if not wanted.any():
        return None
    asked = np.concatenate([np.array([root & _ADDRESS], np.uint64), frames])
    for first in range(0, len(asked), _LOOKED_AT):
        some = asked[first : first + _LOOKED_AT]
        tables = memory.tables(some)
        same = (tables[:, _HALF:] == wanted).all(axis=1) & ~tables[:, :_HALF].any(axis=1)
        for row in np.flatnonzero(same).tolist():
            if some[row] in frames:
                return int(some[row])
    return None


def find_user_root(memory: PhysicalMemory, root: int) -> int | None:
    """Return the root table for user mode that page-table isolation keeps beside `root`, or None.

    It is the frame above, which is one if it maps something in the upper half, and there nothing
    that `root` doesn't map to the same place, and has the same tables in the lower half.
    """
    other = (root & _ADDRESS) + FRAME
    pair = np.array([other - FRAME, other], np.uint64)
    if root & FRAME or not memory.backed(pair).all():
        return None
    kernel, user = memory.tables(pair)[:, :_HALF].tolist()
    if [_table(entry) for entry in kernel] != [_table(entry) for entry in user]:
        return None
    found = False
    for va, _ in _leaves(memory, other, _LEVELS, 0, range(_HALF, 2 * _HALF)):
        here, there = find_leaf(memory, other, va), find_leaf(memory, root, va)
        if here is None or there is None or here.pa + va % here.size != there.pa + va % there.size:
            return None
        found = True
    return other if found else None


def _table(entry: int) -> int | None:
    return entry & _ADDRESS if entry & _PRESENT else None


def _leaves(
    memory: PhysicalMemory, table: int, level: int, base: int, indices: range
) -> Iterator[tuple[int, int]]:
    """Yield (address, size) of the pages below these entries of a table; none outside memory."""
    shift = 12 + 9 * (level - 1)
    words: U64 = memory.tables(np.array([table], np.uint64))[0]
    entries = words[indices.start : indices.stop]
    for index in (entries & 1).nonzero()[0].tolist():
        entry, va = int(entries[index]), base | indices[index] << shift
        if level == _LEVELS and indices[index] >= _HALF:
            va |= _HIGH
        if level == 1 or (level < _LEVELS and entry & _LARGE):
            yield va, 1 << shift
        else:
            yield from _leaves(memory, entry & _ADDRESS, level - 1, va, range(2 * _HALF))
