"""Linear regions: all mappings with one va − pa, and the rights that each region alone adds.

The *direct map*, wherever a kernel puts it, is the linear region that maps most of RAM.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from crosswalk.walker.columns import distinct
from crosswalk.walker.errors import LimitExceeded
from crosswalk.walker.frames import (
    Frames,
    count_mappings,
    page_keys,
    rights_of_pages,
    united_frames,
)
from crosswalk.walker.leaves import TOP, Leaves, walk_leaves
from crosswalk.walker.memory import U64, PhysicalMemory
from crosswalk.walker.protection.overlay import overlay, ram_below
from crosswalk.walker.rights import EXECUTES, WRITES, Rights
from crosswalk.walker.spaces import Contexts, SpaceGroup, groups_of, shared_slots, slot_ranges

__all__ = ["MAX_MAPPINGS", "LinearRegion", "linear_regions"]

MAX_MAPPINGS = 10_000_000
"""The maximum number of mappings; each is looked at."""

_NAMED = 3
_MERGED = 1 << 20
"""Runs are put together when there are so many, which bounds what is kept."""


@dataclass(frozen=True, slots=True)
class LinearRegion:
    """All mappings of which the linear address is `offset` (mod 2^64) above the physical one.

    `va` is the first address in index order, `end` the end of the last mapping; `mappings` their
    number, in all address spaces together. The rest is in bytes of RAM: `ram` is mapped by the
    region, `alone` by it alone. Of RAM that is mapped elsewhere, too, these are the bytes that
    dropping the region would change: `writes` become non-writable, `executes` non-executable,
    `both` are no longer writable and executable at once. `largest` are the largest parts of these:
    pa, size, the collective rights now, and without the region.
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
    memory: PhysicalMemory, context: Contexts, frames: Frames, count: int
) -> list[LinearRegion]:
    """Return the `count` linear regions that map most RAM, the largest first.

    Of two that map as much the one with the lower offset is first. `frames` are the
    `collective_rights` of the same address spaces; of several a region has the mappings of all.
    `LimitExceeded` for more than `MAX_MAPPINGS` mappings, where those that roots have by the same
    entry count once: which offset each has does not follow from the tables alone.
    """
    groups = groups_of(context)
    _require_few(memory, groups)
    offsets, ram = _largest(memory, groups, count)
    parts = _pages_by_region(memory, groups, offsets)
    return [
        _region(memory, groups, frames, parts, number, int(size))
        for number, size in enumerate(ram.tolist())
    ]


def _require_few(memory: PhysicalMemory, groups: Sequence[SpaceGroup]) -> None:
    mappings = sum(sum(count_mappings(memory, each.contexts).values()) for each in groups)
    if mappings <= MAX_MAPPINGS:
        return
    if any(len(each.contexts) > 1 for each in groups):
        mappings = 0
        for each in groups:
            for _, leaves in _leaves(memory, each):
                mappings += len(leaves)
                if mappings > MAX_MAPPINGS:
                    break
    if mappings > MAX_MAPPINGS:
        raise LimitExceeded(
            f"{mappings:,} mappings; linear regions are made out of at most {MAX_MAPPINGS:,}"
        )


def _leaves(memory: PhysicalMemory, group: SpaceGroup) -> Iterator[tuple[int, Leaves]]:
    """Yield the leaves of all roots, once for all that have them by the same entry of the root.

    Each block comes with the number of these roots.
    """
    if len(group.contexts) == 1:
        yield from ((1, leaves) for leaves in walk_leaves(memory, group.context))
        return
    for context, roots in zip(group.contexts, shared_slots(memory, group), strict=True):
        for count in np.unique(roots[roots != 0]).tolist():
            for start, end in slot_ranges(context, roots == count):
                for leaves in walk_leaves(memory, context, start, end):
                    yield count, leaves


@dataclass(frozen=True, slots=True)
class _Part:
    """The pages of one region, as in `page_keys`, or those of all other regions together.

    By group of address spaces, as their rights are stated under different registers.
    """

    offset: int
    pages: tuple[U64, ...]
    va: int
    end: int
    mappings: int


def _offsets(leaves: Leaves) -> U64:
    return leaves.va - leaves.pa


def _largest(memory: PhysicalMemory, groups: Sequence[SpaceGroup], count: int) -> tuple[U64, U64]:
    """Return the offsets of the regions that map most RAM, and the bytes of it that they map."""
    none = np.zeros(0, np.uint64)
    runs = [(none, none, none)]
    for group in groups:
        for _, leaves in _leaves(memory, group):
            runs.append(_runs(leaves))
            if sum(len(offset) for offset, _, _ in runs[1:]) > _MERGED:
                runs = [_merged(runs)]
    offset, start, end = _merged(runs)
    held = ram_below(memory.ranges, end) - ram_below(memory.ranges, start)
    offset, row = np.unique(offset, return_inverse=True)
    total = np.zeros(len(offset), np.uint64)
    np.add.at(total, row, held)
    order = np.argsort(np.iinfo(np.uint64).max - total, kind="stable")[:count]
    order = order[total[order] > 0]
    return offset[order], total[order]


def _runs(leaves: Leaves) -> tuple[U64, U64, U64]:
    """Return leaves in address order as runs of one offset each: offset, first pa, end."""
    offset, start = _offsets(leaves), leaves.pa
    end = start + leaves.size
    begins = np.ones(len(leaves), np.bool_)
    begins[1:] = (offset[1:] != offset[:-1]) | (start[1:] != end[:-1])
    first = np.flatnonzero(begins)
    last = np.append(first[1:], len(leaves)) - 1
    return offset[first], start[first], end[last]


def _merged(runs: list[tuple[U64, U64, U64]]) -> tuple[U64, U64, U64]:
    """Return what runs cover, as runs that don't overlap, by offset and address.

    In one address space no byte is mapped twice at one offset; in another it may be mapped again.
    """
    offset, start, end = (np.concatenate(column) for column in zip(*runs, strict=True))
    if not len(offset):
        return offset, start, end
    order = np.lexsort((start, offset))
    offset, start, end = offset[order], start[order], end[order]
    begins = np.ones(len(offset), np.bool_)
    begins[1:] = offset[1:] != offset[:-1]
    # The furthest end so far at each offset; ends are ranks, to be beside the offset's number.
    ends, rank = np.unique(end, return_inverse=True)
    reached = ends[np.maximum.accumulate(np.cumsum(begins) * len(ends) + rank) % len(ends)]
    begins[1:] |= start[1:] > reached[:-1]
    first = np.flatnonzero(begins)
    last = np.append(first[1:], len(offset)) - 1
    return offset[first], start[first], reached[last]


def _pages_by_region(
    memory: PhysicalMemory, groups: Sequence[SpaceGroup], offsets: U64
) -> list[_Part]:
    """Return the pages of each of these regions, and last those of all others together."""
    count = len(offsets)
    pages: list[list[U64]] = [[] for _ in range(count + 1)]
    spans = [(TOP, 0, 0)] * (count + 1)
    order = np.argsort(offsets)
    for group in groups:
        found: list[list[U64]] = [[np.zeros(0, np.uint64)] for _ in range(count + 1)]
        for roots, leaves in _leaves(memory, group):
            mine = _offsets(leaves)
            at = np.searchsorted(offsets[order], mine) if count else np.zeros(len(mine), np.intp)
            known = at < count
            known[known] = offsets[order][at[known]] == mine[known]
            number = np.full(len(mine), count, np.intp)
            number[known] = order[at[known]]
            for each in np.unique(number).tolist():
                some = leaves.take(number == each)
                found[each].append(distinct(page_keys(some)))
                first, end, seen = spans[each]
                last = int(some.va[-1]) + int(some.size[-1])
                spans[each] = (
                    min(first, int(some.va[0])),
                    max(end, last),
                    seen + roots * len(some),
                )
        for each, parts in enumerate(found):
            pages[each].append(distinct(np.concatenate(parts)))
    return [
        _Part(offset, tuple(part), *span)
        for offset, part, span in zip([*offsets.tolist(), -1], pages, spans, strict=True)
    ]


def _rights(groups: Sequence[SpaceGroup], parts: Sequence[_Part]) -> Frames:
    """Return the collective rights of all pages of these parts."""
    found = []
    for at, group in enumerate(groups):
        pages = np.concatenate([part.pages[at] for part in parts])
        found.append(rights_of_pages(group.context, pages))
    return united_frames(found)


def _region(
    memory: PhysicalMemory,
    groups: Sequence[SpaceGroup],
    frames: Frames,
    parts: Sequence[_Part],
    number: int,
    ram: int,
) -> LinearRegion:
    without = _rights(groups, [part for at, part in enumerate(parts) if at != number])
    mine = _rights(groups, [parts[number]])
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
