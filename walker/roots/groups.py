"""What roots have in common: the upper half of one kernel, and pairs of page-table isolation."""

from collections.abc import Container, Iterator
from hashlib import blake2b

import numpy as np

from crosswalk.walker.context import PagingContext, PagingMode
from crosswalk.walker.entry import ADDRESS_FIELD, Entry, level_of
from crosswalk.walker.memory import FRAME, U64, WORDS, PhysicalMemory
from crosswalk.walker.tables import read_tables

__all__ = ["pair_of", "upper_halves"]

_BLOCK = 512

_HALF = WORDS // 2
_KEPT = np.uint64(ADDRESS_FIELD | Entry.P | Entry.RW | Entry.US | Entry.PS | Entry.XD)
"""Of an entry, what address spaces of one kernel have in common: A and ignored bits may differ."""
_SELF = ~np.uint64(0)
"""In place of an entry that refers to its own table: Windows' self-map differs root by root."""


def upper_halves(
    memory: PhysicalMemory, context: PagingContext, roots: U64
) -> Iterator[bytes | None]:
    """Yield a digest of what the upper half of each root refers to; None where that is nothing.

    `context` is that of any of them: they may differ in CR3 alone. Outside IA-32e mode, of the
    upper quarter: systems that give user mode three quarters keep stacks in the third.
    """
    level = level_of(context, context.levels)
    wide = context.mode is not PagingMode.BIT32
    for at in range(0, len(roots), _BLOCK):
        some = roots[at : at + _BLOCK]
        entries = read_tables(memory, level, some)
        first = level.entries // 2 if context.mode.long else level.entries * 3 // 4
        upper = entries[:, first:].astype(np.uint64)
        upper = np.where((upper & np.uint64(Entry.P)) != 0, upper & _KEPT, np.uint64(0))
        if wide:
            own = (upper & np.uint64(context.address_mask)) == some[:, None]
            upper = np.where(own & (upper != 0), _SELF, upper)
        for row in upper:
            yield blake2b(row.tobytes(), digest_size=16).digest() if row.any() else None


def pair_of(memory: PhysicalMemory, context: PagingContext, roots: Container[int]) -> int | None:
    """Return the other root of a pair of page-table isolation, or None.

    The two are the halves of 8 KiB: the kernel's, and user mode's above it (Linux,
    arch/x86/include/asm/pgtable.h, "PTI_PGTABLE_SWITCH_BIT"). They have the lower half in common,
    but for XD, and of the kernel's upper half the other has a few entries. Where the lower half is
    empty, the other one has to be among `roots`, too, as the few entries alone say little.
    """
    if not context.mode.long:
        return None
    kernel, user = context.root & ~FRAME, context.root | FRAME
    frames = np.array([kernel, user], np.uint64)
    if not memory.backed(frames).all():
        return None
    ours, theirs = memory.tables(frames)
    if not _is_pair(ours, theirs):
        return None
    partner = context.root ^ FRAME
    lower = (ours[:_HALF] & np.uint64(Entry.P)).any()
    return partner if lower or partner in roots else None


def _is_pair(kernel: U64, user: U64) -> bool:
    """Return whether two tables are the kernel's and user mode's of one address space."""
    kept = _KEPT & ~np.uint64(Entry.XD)
    present = np.uint64(Entry.P)
    ours, theirs = (
        np.where((each & present) != 0, each & kept, np.uint64(0)) for each in (kernel, user)
    )
    all_of_them, some = ours[_HALF:] != 0, theirs[_HALF:] != 0
    few = 0 < int(some.sum()) < int(all_of_them.sum()) and not (some & ~all_of_them).any()
    return few and np.array_equal(ours[:_HALF], theirs[:_HALF])
