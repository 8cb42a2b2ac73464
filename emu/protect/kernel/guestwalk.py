"""A guest's tables as they lie in RAM, read for its host: without the CPU, and without a trace.

Source: Intel SDM vol. 3A, "4-Level Paging and 5-Level Paging"; Linux Documentation/x86/pti.rst (two
roots).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from crosswalk.walker.memory import FRAME, U64

__all__ = ["Leaf", "find_leaf", "find_user_root", "lower_leaves"]

_PRESENT, _WRITE, _USER, _LARGE, _NX = 1, 2, 4, 0x80, 1 << 63
_ADDRESS = (1 << 52) - FRAME
_LEVELS, _HALF = 4, 256
_HIGH = (1 << 64) - (1 << 48)


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


def find_leaf(words: U64, root: int, va: int) -> Leaf | None:
    """Return the page that `va` is in, or None: `words` is RAM from address 0 on."""
    table, grants = root & _ADDRESS, _WRITE | _USER
    no_execution = 0
    for level in range(_LEVELS, 0, -1):
        at = table + 8 * (va >> 12 + 9 * (level - 1) & 511)
        if at // 8 >= len(words):
            return None
        entry = int(words[at // 8])
        if not entry & _PRESENT:
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


def lower_leaves(words: U64, root: int) -> Iterator[int]:
    """Yield the addresses of the pages in the lower half, in order; of large ones all 4 KiB."""
    for va, size in _leaves(words, root & _ADDRESS, _LEVELS, 0, range(_HALF)):
        yield from range(va, va + size, FRAME)


def find_user_root(words: U64, root: int) -> int | None:
    """Return the root table for user mode that page-table isolation keeps beside `root`, or None.

    It is the frame above, which is one if it maps something in the upper half, and there nothing
    that `root` doesn't map to the same place, and has the same tables in the lower half.
    """
    other = (root & _ADDRESS) + FRAME
    if root & FRAME or (other + FRAME) // 8 > len(words):
        return None
    kernel, user = (words[at // 8 : at // 8 + _HALF].tolist() for at in (other - FRAME, other))
    if [_table(entry) for entry in kernel] != [_table(entry) for entry in user]:
        return None
    found = False
    for va, _ in _leaves(words, other, _LEVELS, 0, range(_HALF, 2 * _HALF)):
        here, there = find_leaf(words, other, va), find_leaf(words, root, va)
        if here is None or there is None or here.pa + va % here.size != there.pa + va % there.size:
            return None
        found = True
    return other if found else None


def _table(entry: int) -> int | None:
    return entry & _ADDRESS if entry & _PRESENT else None


def _leaves(
    words: U64, table: int, level: int, base: int, indices: range
) -> Iterator[tuple[int, int]]:
    """Yield (address, size) of the pages below these entries of a table."""
    if table // 8 >= len(words):
        return
    shift = 12 + 9 * (level - 1)
    first = table // 8 + indices.start
    entries = words[first : first + len(indices)]
    for index in (entries & 1).nonzero()[0].tolist():
        entry, va = int(entries[index]), base | indices[index] << shift
        if level == _LEVELS and indices[index] >= _HALF:
            va |= _HIGH
        if level == 1 or (level < _LEVELS and entry & _LARGE):
            yield va, 1 << shift
        else:
            yield from _leaves(words, entry & _ADDRESS, level - 1, va, range(2 * _HALF))
