"""A guest's tables as they lie in RAM, read for its host: without the CPU, and without a trace.

Source: Intel SDM vol. 3A 4.5 (4-level paging).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from walker.memory import FRAME, U64

__all__ = ["Leaf", "find_leaf", "lower_leaves"]

_PRESENT, _WRITE, _USER, _LARGE, _NX = 1, 2, 4, 0x80, 1 << 63
_ADDRESS = (1 << 52) - FRAME
_LEVELS = 4


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
    yield from _leaves(words, root & _ADDRESS, _LEVELS, 0)


def _leaves(words: U64, table: int, level: int, base: int) -> Iterator[int]:
    if table // 8 >= len(words):
        return
    shift = 12 + 9 * (level - 1)
    entries = words[table // 8 : table // 8 + (256 if level == _LEVELS else 512)]
    for index in (entries & 1).nonzero()[0].tolist():
        entry, va = int(entries[index]), base + (index << shift)
        if level == 1 or (level < _LEVELS and entry & _LARGE):
            yield from range(va, va + (1 << shift), FRAME)
        else:
            yield from _leaves(words, entry & _ADDRESS, level - 1, va)
