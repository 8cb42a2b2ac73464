"""Which regions of the address space map physical memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.errors import LimitExceeded
from crosswalk.walker.leaves import walk_leaves
from crosswalk.walker.memory import U64, PhysicalMemory
from crosswalk.walker.spaces import Contexts, groups_of, shared_slots, slot_ranges
from crosswalk.walker.symbols.names import Names

__all__ = ["MAX_NAMED", "PhysicalNames", "physical_names"]

MAX_NAMED = 10_000_000
"""The most mappings that are looked at, those that roots have by the same entry once."""

_MERGED = 1 << 20


@dataclass(frozen=True, slots=True)
class PhysicalNames:
    """For each region that maps memory its name and what it maps.

    `start` and `end` uint64[n]: physical addresses [start, end), disjoint and ascending.
    """

    names: tuple[str, ...]
    start: tuple[U64, ...]
    end: tuple[U64, ...]

    def sets(self, start: U64, size: U64) -> tuple[NDArray[np.intp], list[tuple[str, ...]]]:
        """Return the sets of regions that map physical ranges, and which each has, intp[n].

        `size` is in bytes. The regions of a set are in the order of their linear addresses.
        """
        codes = np.zeros(len(start), np.intp)
        sets: list[tuple[str, ...]] = [()]
        for name, begins, ends in zip(self.names, self.start, self.end, strict=True):
            row = np.searchsorted(ends, start, "right")
            hit = row < len(ends)
            hit[hit] = begins[row[hit]] < (start + size)[hit]
            used, codes = np.unique(2 * codes + hit, return_inverse=True)
            sets = [(*sets[code >> 1], name) if code & 1 else sets[code >> 1] for code in used]
            codes = codes.astype(np.intp)
        return codes, sets


def physical_names(memory: PhysicalMemory, contexts: Contexts, names: Names) -> PhysicalNames:
    """Return which physical addresses each region maps, in any of these address spaces.

    A page belongs to the regions of its first and of its last byte. Raises `LimitExceeded` for
    more than `MAX_NAMED` mappings: which region each is in does not follow from the tables alone.
    """
    held: dict[int, list[tuple[U64, U64]]] = {}
    waiting = 0
    for va, pa, size in _leaves(memory, contexts):
        last = va + (size - np.uint64(1))
        first_row, last_row = names.regions.rows_at(va), names.regions.rows_at(last)
        for row in np.unique(np.concatenate([first_row, last_row])).tolist():
            mine = (first_row == row) | (last_row == row)
            if row >= 0:
                held.setdefault(row, []).append((pa[mine], (pa + size)[mine]))
        waiting += len(va)
        if waiting > _MERGED:
            held = {row: [_merged(parts)] for row, parts in held.items()}
            waiting = 0
    by_name: dict[str, list[tuple[U64, U64]]] = {}
    for row in sorted(held):
        by_name.setdefault(names.regions.names.shown(row), []).extend(held[row])
    spans = [_merged(parts) for parts in by_name.values()]
    return PhysicalNames(
        tuple(by_name), tuple(start for start, _ in spans), tuple(end for _, end in spans)
    )


def _leaves(memory: PhysicalMemory, contexts: Contexts) -> Iterator[tuple[U64, U64, U64]]:
    """Yield va, pa and size of all leaves, once for roots that have them by the same entry."""
    seen = 0
    for group in groups_of(contexts):
        for context, roots in zip(group.contexts, shared_slots(memory, group), strict=True):
            for start, end in slot_ranges(context, roots != 0):
                for leaves in walk_leaves(memory, context, start, end):
                    seen += len(leaves)
                    if seen > MAX_NAMED:
                        raise LimitExceeded(
                            f"more than {MAX_NAMED:,} mappings: frames are named by each of them; "
                            "without --symbols they are listed"
                        )
                    yield leaves.va, leaves.pa, leaves.size


def _merged(parts: list[tuple[U64, U64]]) -> tuple[U64, U64]:
    """Return the union of ranges, disjoint and ascending."""
    start, end = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(start, kind="stable")
    start, end = start[order], np.maximum.accumulate(end[order])
    fresh = np.ones(len(start), np.bool_)
    fresh[1:] = start[1:] > end[:-1]
    first = np.flatnonzero(fresh)
    last = np.append(first[1:], len(start)) - 1
    return start[first], end[last]
