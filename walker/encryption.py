"""A guess at the encryption mask, from tables whose addresses make no sense without one."""

from collections.abc import Iterator

import numpy as np

from crosswalk.walker.context import PagingContext, PagingMode
from crosswalk.walker.entry import ADDRESS_FIELD, Entry, level_of
from crosswalk.walker.memory import FRAME, PhysicalMemory
from crosswalk.walker.tables import read_tables

__all__ = ["encryption_mask_hint", "likely_encryption_mask"]

_LOWEST = 32
"""The lowest bit that a mask may have: PAE's CR3 has no place for lower ones."""


def likely_encryption_mask(memory: PhysicalMemory, context: PagingContext) -> int:
    """Return the encryption mask that the root table suggests, or 0.

    One bit, from 32 up, where there is one that all present entries of the root share, and CR3 may
    too: with it what they refer to isn't in memory, without it all of it is. Several adjoining
    ones, as key IDs are, where no single one does. Only a hint: tables alone can't tell a bit
    of an address from another. 0 where the context has a mask already, and in 32-bit paging.
    """
    if context.encryption_mask or context.mode is PagingMode.BIT32:
        return 0
    shared = ADDRESS_FIELD & -1 << _LOWEST
    if not memory.backed(np.array([context.root & -FRAME], np.uint64))[0]:
        shared &= context.root
    for mask in _candidates(shared):
        if _suggests(memory, context, mask):
            return mask
    return 0


def encryption_mask_hint(mask: int, *, case: bool) -> str:
    """Return how to give this encryption mask: as a key of a case file, else as an option."""
    if case:
        return f'"encryption_mask": "{mask:#x}" in the "cpu" of the case file'
    return f"--encryption-mask {mask:#x}"


def _candidates(bits: int) -> Iterator[int]:
    """Yield each of these bits, from the highest down, and then runs of them, short ones first."""
    places = [at for at in range(51, _LOWEST - 1, -1) if bits >> at & 1]
    for length in range(1, len(places) + 1):
        for first in places:
            run = (1 << first + 1) - (1 << max(first + 1 - length, 0))
            if run & bits == run:
                yield run


def _suggests(memory: PhysicalMemory, context: PagingContext, mask: int) -> bool:
    level = level_of(context, context.levels)
    root = context.root & ~mask
    if not memory.backed(np.array([root & -FRAME], np.uint64))[0]:
        return False
    entries = read_tables(memory, level, np.array([root], np.uint64))[0].astype(np.uint64)
    present = entries[(entries & np.uint64(Entry.P)) != 0]
    if not len(present) or ((present & np.uint64(mask)) != np.uint64(mask)).any():
        return False
    targets = present & np.uint64(ADDRESS_FIELD)
    without = memory.backed(targets & ~np.uint64(mask))
    return bool(without.all() and not memory.backed(targets).any())
