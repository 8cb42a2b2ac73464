"""Which accesses put an address space to the proof."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from walker.access import AccessType
from walker.columns import Accesses, Rows
from walker.context import PagingContext
from walker.errors import LimitExceeded
from walker.frames import count_mappings
from walker.leaves import TOP, Leaves, blocked_entries, entries_to_nowhere, walk_leaves
from walker.memory import U64, PhysicalMemory
from walker.rights import Grant

__all__ = ["DEFAULT_LIMIT", "Place", "Plan", "make_plan"]

DEFAULT_LIMIT = 200_000
"""The most mappings that are checked one by one, unless told otherwise."""

_SLOT = 16
# A place inside a large page that no rounding to a smaller size leaves alone.
_INSIDE = 0x2A5A_5A50


class Place(IntEnum):
    """What an address is, by the walker's word; the values index columns."""

    HOLE = 0
    PAGE_4K = 1
    PAGE_2M = 2
    PAGE_4M = 3
    PAGE_1G = 4
    BLOCKED = 5
    NOT_CANONICAL = 6

    @property
    def title(self) -> str:
        """The place's name in a report."""
        return _TITLES[self]


_TITLES = {
    Place.HOLE: "unmapped",
    Place.PAGE_4K: "4 KiB page",
    Place.PAGE_2M: "2 MiB page",
    Place.PAGE_4M: "4 MiB page",
    Place.PAGE_1G: "1 GiB page",
    Place.BLOCKED: "blocked entry",
    Place.NOT_CANONICAL: "not canonical",
}
_SHIFT_4KIB = 12
_PLACES = {_SHIFT_4KIB: Place.PAGE_4K, 21: Place.PAGE_2M, 22: Place.PAGE_4M, 30: Place.PAGE_1G}


@dataclass(frozen=True, slots=True)
class Plan(Rows):
    """n accesses with the `Place` of each, uint8[n]."""

    va: U64
    type: NDArray[np.uint8]
    cpl: NDArray[np.uint8]
    ac: NDArray[np.bool_]
    place: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.va)

    @property
    def accesses(self) -> Accesses:
        """The accesses alone."""
        return Accesses(self.va, self.type, self.cpl, self.ac)


def make_plan(
    memory: PhysicalMemory,
    context: PagingContext,
    *,
    start: int = 0,
    end: int = TOP,
    limit: int = DEFAULT_LIMIT,
) -> Plan:
    """Return the accesses that check what the walker says of [start, end).

    Of every page, at both CPLs: reads and writes of the first and the last byte, fetches from
    the first and the last 16 bytes and of the last byte, and all of it inside a large page; of
    a user page under SMAP the supervisor's data accesses with the other AC as well. Of what
    isn't mapped: both neighbours of each run of pages, the middle of each gap, entries that are
    not zero but map nothing, or lead out of RAM, and addresses that aren't canonical.

    `LimitExceeded` if there are more than `limit` mappings; they are counted, not listed.
    """
    total = sum(count_mappings(memory, context).values())
    if total > limit and (start, end) == (0, TOP):
        raise LimitExceeded(
            f"{total:,} mappings; the limit is {limit:,} (--limit; or a part, --start --end)"
        )
    leaves = _leaves(walk_leaves(memory, context, start, end), limit)
    parts = list(_of_pages(context, leaves))
    gaps = _gaps(context, leaves, start, end)
    parts.append(_plan(context, gaps, Place.HOLE))
    blocked = np.concatenate(
        [blocked_entries(memory, context).va, entries_to_nowhere(memory, context)]
    )
    blocked = blocked[(blocked >= start) & (blocked <= end - 1)][:limit]
    parts.append(_plan(context, blocked, Place.BLOCKED))
    if context.mode.long:
        half = 1 << (context.va_bits - 1)
        outside = [va for va in (half, TOP // 2, TOP - half - 1) if start <= va < end]
        parts.append(_plan(context, np.array(outside, np.uint64), Place.NOT_CANONICAL))
    return Plan.join(parts)


def _leaves(blocks: Iterator[Leaves], limit: int) -> Leaves:
    found, count = [Leaves.none()], 0
    for block in blocks:
        found.append(block)
        count += len(block)
        if count > limit:
            raise LimitExceeded(f"more than {limit:,} mappings in this range (--limit)")
    return Leaves.join(found)


def _of_pages(context: PagingContext, leaves: Leaves) -> Iterator[Plan]:
    for shift in np.unique(leaves.shift).tolist():
        pages = leaves.take(leaves.shift == shift)
        size = np.uint64(1 << shift)
        data = [pages.va, pages.va + size - np.uint64(1)]
        code = [pages.va, pages.va + size - np.uint64(_SLOT), data[1]]
        if shift > _SHIFT_4KIB:
            inside = pages.va + np.uint64(_INSIDE & ((1 << shift) - 1))
            data.append(inside)
            code.append(inside)
        place = _PLACES[shift]
        for va in data:
            yield _plan(context, va, place, (AccessType.READ, AccessType.WRITE))
        for va in code:
            yield _plan(context, va, place, (AccessType.EXECUTE,))
        if context.smap:
            user = pages.va[(pages.grant & Grant.USER) != 0]
            yield _plan(
                context,
                user,
                place,
                (AccessType.READ, AccessType.WRITE),
                cpls=(0,),
                ac=not context.rflags_ac,
            )


def _plan(
    context: PagingContext,
    va: U64,
    place: Place,
    types: tuple[AccessType, ...] = tuple(AccessType),
    *,
    cpls: tuple[int, ...] = (0, 3),
    ac: bool | None = None,
) -> Plan:
    pairs = [(kind, cpl) for kind in types for cpl in cpls]
    count = len(va) * len(pairs)
    return Plan(
        np.repeat(va, len(pairs)),
        np.tile(np.array([kind for kind, _ in pairs], np.uint8), len(va)),
        np.tile(np.array([cpl for _, cpl in pairs], np.uint8), len(va)),
        np.full(count, context.rflags_ac if ac is None else ac),
        np.full(count, place, np.uint8),
    )


def _gaps(context: PagingContext, leaves: Leaves, start: int, end: int) -> U64:
    """Return the first, middle and last byte of each gap between the pages of [start, end)."""
    half = 1 << (context.va_bits - 1)
    halves = ((0, half - 1), (TOP - half, TOP - 1)) if context.mode.long else ((0, 2 * half - 1),)
    # In 64-bit arithmetic the end of the last page is 0; so ends are the last bytes.
    first = leaves.va
    last = leaves.va + leaves.size - np.uint64(1)
    found = []
    for bottom, top in halves:
        low, high = max(bottom, start), min(top, end - 1)
        if low > high:
            continue
        inside = (last >= np.uint64(low)) & (first <= np.uint64(high))
        begins = np.concatenate([np.array([low], np.uint64), last[inside] + np.uint64(1)])
        ends = np.concatenate([first[inside] - np.uint64(1), np.array([high], np.uint64)])
        # A page at either end of the half leaves nothing there, and its neighbour wraps.
        real = np.ones(len(begins), np.bool_)
        if inside.any():
            real[0] = first[inside][0] > low
            real[-1] = last[inside][-1] < high
            real[1:-1] = begins[1:-1] <= ends[1:-1]
        begins, ends = begins[real], ends[real]
        found += [begins, begins + (ends - begins) // np.uint64(2), ends]
    return np.unique(np.concatenate(found)) if found else np.zeros(0, np.uint64)
