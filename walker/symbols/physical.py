"""Which regions of the address space map physical memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.blocks import BLOCK
from crosswalk.walker.columns import united_ranges
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import level_of
from crosswalk.walker.leaves import Tables, expand, root_tables
from crosswalk.walker.memory import U64, PhysicalMemory
from crosswalk.walker.spaces import Contexts, groups_of
from crosswalk.walker.symbols.names import Names

__all__ = ["PhysicalNames", "physical_names"]

_ONE = np.uint64(1)


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

    Pages that touch a region count, whole. The cost is that of the distinct tables of each region,
    however many mappings there are.
    """
    by_name: dict[str, list[tuple[U64, U64]]] = {}
    columns = zip(names.regions.start.tolist(), names.regions.last.tolist(), strict=True)
    for row, (first, last) in enumerate(columns):
        parts = [
            part
            for group in groups_of(contexts)
            for part in _mapped(memory, group.context, group.roots, first, last)
        ]
        if parts:
            by_name.setdefault(names.regions.names.shown(row), []).append(_merged(parts))
    spans = [_merged(parts) for parts in by_name.values()]
    return PhysicalNames(
        tuple(by_name), tuple(start for start, _ in spans), tuple(end for _, end in spans)
    )


def _mapped(
    memory: PhysicalMemory, context: PagingContext, roots: U64, first: int, last: int
) -> Iterator[tuple[U64, U64]]:
    """Yield physical ranges, as start and end, that pages touching these linear addresses map.

    Of address spaces that differ in their roots alone. Level by level: of tables that lie in the
    region as a whole it doesn't matter where, and each counts once.
    """
    mask = (1 << context.va_bits) - 1 if context.mode.long else (1 << 32) - 1
    low, high = np.uint64(first & mask), np.uint64(last & mask)
    tables = root_tables(context, roots)
    for level in range(context.levels, 0, -1):
        below = [tables.take(slice(0))]
        span = np.uint64(level_of(context, level).span)
        for at in range(0, len(tables), BLOCK):
            part = expand(memory, context, level, tables.take(slice(at, at + BLOCK)))
            size = part.leaves.size
            touch = (part.leaves.va <= high) & (part.leaves.va + (size - _ONE) >= low)
            if touch.any():
                start = part.leaves.pa[touch]
                yield start, start + size[touch]
            va = part.children.va
            below.append(part.children.take((va <= high) & (va + (span - _ONE) >= low)))
        tables = _distinct(Tables.join(below), low, high, span)


def _distinct(tables: Tables, low: np.uint64, high: np.uint64, span: np.uint64) -> Tables:
    """Return tables once each: those that lie in [low, high] by their frames, others by places."""
    inside = (tables.va >= low) & (tables.va + (span - _ONE) <= high)
    place = np.where(inside, np.uint64(0), tables.va)
    order = np.lexsort((place, inside, tables.frame))
    fresh = np.ones(len(order), np.bool_)
    for column in (tables.frame, inside, place):
        ordered = column[order]
        fresh[1:] &= ordered[1:] == ordered[:-1]
    fresh[1:] = ~fresh[1:]
    return tables.take(order[fresh])


def _merged(parts: list[tuple[U64, U64]]) -> tuple[U64, U64]:
    """Return the union of ranges, disjoint and ascending."""
    start, end = (np.concatenate(column) for column in zip(*parts, strict=True))
    return united_ranges(start, end)
