"""Tables from the bottom up: which frames are tables of each level, by what they refer to."""

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.entry import LEVELS, Entry
from crosswalk.walker.memory import U64, PhysicalMemory
from crosswalk.walker.roots.passes import Progress
from crosswalk.walker.roots.sieve import (
    PAGE_DIRECTORY,
    PAGE_TABLE,
    POINTERS,
    UPPER,
    Form,
    Places,
    Sieved,
    given_back,
)
from crosswalk.walker.tables import entries_with

__all__ = ["among", "tables_by_level"]

_BLOCK = 512


def tables_by_level(
    memory: PhysicalMemory, form: Form, sieved: Sieved, progress: Progress | None = None
) -> dict[int, U64]:
    """Return the frames that are tables of each level of IA-32e paging, 1 to 5, ascending.

    A table of level 1 is one by its own words. One above refers for the most part to tables of the
    level below, to frames without entries, or maps pages; and there is a page somewhere below it.
    `progress` is told of each level.
    """
    found = {1: sieved.of_kind(PAGE_TABLE)}
    for level, kind in ((2, PAGE_DIRECTORY), (3, POINTERS), (4, UPPER), (5, UPPER)):
        candidates, below = sieved.of_kind(kind), sieved.places_of(found[level - 1])
        kept = [candidates[:0]]
        for at in range(0, len(candidates), _BLOCK):
            some = candidates[at : at + _BLOCK]
            kept.append(some[_leads_on(memory, form, sieved, below, level, some)])
            given_back(memory, some)
            if progress is not None:
                what = f"frames that could be tables of level {level}"
                progress(what, at + len(some), len(candidates))
        found[level] = np.concatenate(kept)
    return found


def _leads_on(
    memory: PhysicalMemory,
    form: Form,
    sieved: Sieved,
    below: Places,
    level: int,
    frames: U64,
) -> NDArray[np.bool_]:
    """Return which frames are tables of a level, by the tables `below`, bool[n]."""
    row, _, entry = entries_with(memory, LEVELS[level], frames, Entry.P)
    target = entry & np.uint64(form.field)
    leaf = np.zeros(len(entry), np.bool_)
    if LEVELS[level].large:
        leaf = (entry & np.uint64(Entry.PS)) != 0
    table = ~leaf & below.has(target)
    unused = ~leaf & ~table & sieved.empty(target)
    count = len(frames)
    present, fit, used = (
        np.bincount(row[some], minlength=count)
        for some in (slice(None), leaf | table | unused, leaf | table)
    )
    kept: NDArray[np.bool_] = (2 * fit >= present) & (used > 0)
    return kept


def among(values: U64, known: U64) -> NDArray[np.bool_]:
    """Return which values are among the known ones, which are ascending."""
    at = np.searchsorted(known, values)
    same: NDArray[np.bool_] = np.append(known, ~np.uint64(0))[at] == values
    return same
