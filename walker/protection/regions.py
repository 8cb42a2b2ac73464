"""Linear regions: all mappings with one va − pa, and the rights that each region alone adds.

The *direct map*, wherever a kernel puts it, is the linear region that maps most of RAM.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.columns import distinct
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import LimitExceeded
from crosswalk.walker.frames import Frames, count_mappings, page_keys, rights_of_pages
from crosswalk.walker.leaves import Leaves, walk_leaves
from crosswalk.walker.memory import U64, PhysicalMemory
from crosswalk.walker.protection.overlay import overlay, ram_below
from crosswalk.walker.rights import EXECUTES, WRITES, Rights

__all__ = ["MAX_MAPPINGS", "LinearRegion", "linear_regions"]

MAX_MAPPINGS = 10_000_000
"""The maximum number of mappings; each is looked at."""

_NAMED = 3


@dataclass(frozen=True, slots=True)
class LinearRegion:
    """All mappings of which the linear address is `offset` (mod 2^64) above the physical one.

    `va` is the first address in index order, `end` the end of the last mapping; `mappings` their
    number. The rest is in bytes of RAM: `ram` is mapped by the region, `alone` by it alone. Of RAM
    that is mapped elsewhere, too, these are the bytes that dropping the region would change:
    `writes` become non-writable, `executes` non-executable, `both` are no longer writable and
    executable at once. `largest` are the largest parts of these: pa, size, the collective rights
    now, and without the region.
    """

    offset: int
    va: int
    end: int
    mappings: int
    ram: int
    alone: int
    writes: int
    executes: int
    both: int
    largest: tuple[tuple[int, int, Rights, Rights], ...]


def linear_regions(
    memory: PhysicalMemory, context: PagingContext, frames: Frames, count: int
) -> list[LinearRegion]:
    """Return the `count` linear regions that map most RAM, the largest first.

    Of two that map as much the one with the lower offset is first. `frames` are the
    `collective_rights` of the same address space. `LimitExceeded` for more than `MAX_MAPPINGS`
    mappings: which offset each has does not follow from the tables alone.
    """
    mappings = sum(count_mappings(memory, context).values())
    if mappings > MAX_MAPPINGS:
        raise LimitExceeded(
            f"{mappings:,} mappings; linear regions are made out of at most {MAX_MAPPINGS:,}"
        )
    offsets, ram = _largest(memory, context, count)
    parts = _pages_by_region(memory, context, offsets)
    return [
        _region(memory, context, frames, parts, number, int(size))
        for number, size in enumerate(ram.tolist())
    ]


@dataclass(frozen=True, slots=True)
class _Part:
    """The pages of one region, as in `page_keys`, or those of all other regions together."""

    offset: int
    pages: U64
    va: int
    end: int
    mappings: int


def _offsets(leaves: Leaves) -> U64:
    return leaves.va - leaves.pa


def _largest(memory: PhysicalMemory, context: PagingContext, count: int) -> tuple[U64, U64]:
    """Return the offsets of the regions that map most RAM, and the bytes of it that they map.

    A region maps no byte twice, so that sizes add up.
    """
    found, sizes = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    for leaves in walk_leaves(memory, context):
        pa = leaves.pa
        offset, row = np.unique(_offsets(leaves), return_inverse=True)
        held = ram_below(memory.ranges, pa + leaves.size) - ram_below(memory.ranges, pa)
        found.append(offset)
        sizes.append(_sums(row, held, len(offset)))
    offset, row = np.unique(np.concatenate(found), return_inverse=True)
    total = _sums(row, np.concatenate(sizes), len(offset))
    order = np.argsort(np.iinfo(np.uint64).max - total, kind="stable")[:count]
    order = order[total[order] > 0]
    return offset[order], total[order]


def _sums(row: NDArray[np.intp], values: U64, count: int) -> U64:
    total = np.zeros(count, np.uint64)
    np.add.at(total, row, values)
    return total


def _pages_by_region(memory: PhysicalMemory, context: PagingContext, offsets: U64) -> list[_Part]:
    """Return the pages of each of these regions, and last those of all others together."""
    count = len(offsets)
    pages: list[list[U64]] = [[np.zeros(0, np.uint64)] for _ in range(count + 1)]
    spans: list[tuple[int, int, int]] = [(0, 0, 0)] * (count + 1)
    order = np.argsort(offsets)
    for leaves in walk_leaves(memory, context):
        mine = _offsets(leaves)
        at = np.searchsorted(offsets[order], mine) if count else np.zeros(len(mine), np.intp)
        known = at < count
        known[known] = offsets[order][at[known]] == mine[known]
        number = np.full(len(mine), count, np.intp)
        number[known] = order[at[known]]
        for each in np.unique(number).tolist():
            some = leaves.take(number == each)
            pages[each].append(distinct(page_keys(some)))
            first, _, seen = spans[each]
            first = first if seen else int(some.va[0])
            spans[each] = (first, int(some.va[-1]) + int(some.size[-1]), seen + len(some))
    return [
        _Part(offset, distinct(np.concatenate(part)), *span)
        for offset, part, span in zip([*offsets.tolist(), -1], pages, spans, strict=True)
    ]


def _region(
    memory: PhysicalMemory,
    context: PagingContext,
    frames: Frames,
    parts: Sequence[_Part],
    number: int,
    ram: int,
) -> LinearRegion:
    others = [part.pages for at, part in enumerate(parts) if at != number]
    without = rights_of_pages(context, np.concatenate(others))
    mine = rights_of_pages(context, parts[number].pages)
    laid = overlay(memory.ranges, frames, without, mine)
    now, then, here = laid.rights.T
    shared = (here != 0) & (then != 0)
    writes = shared & (now & WRITES != 0) & (then & WRITES == 0)
    executes = shared & (now & EXECUTES != 0) & (then & EXECUTES == 0)
    both = (writes | executes) & (now & WRITES != 0) & (now & EXECUTES != 0)
    part = parts[number]
    gained = np.flatnonzero(writes | executes)
    gained = gained[np.argsort(-laid.size[gained].astype(np.int64), kind="stable")[:_NAMED]]
    largest = tuple(
        (int(laid.start[at]), int(laid.size[at]), Rights(int(now[at])), Rights(int(then[at])))
        for at in np.sort(gained).tolist()
    )
    return LinearRegion(
        offset=part.offset,
        va=part.va,
        end=part.end,
        mappings=part.mappings,
        ram=ram,
        alone=laid.total((here != 0) & (then == 0)),
        writes=laid.total(writes),
        executes=laid.total(executes),
        both=laid.total(both),
        largest=largest,
    )
