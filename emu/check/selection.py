"""What of an address space is accessed: pages, holes between them, malformed entries."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.columns import Rows
from crosswalk.walker.context import PagingContext
from crosswalk.walker.leaves import TOP, Leaves
from crosswalk.walker.memory import U64, PhysicalMemory
from crosswalk.walker.rights import Grant

__all__ = ["PLACES", "Gaps", "Lister", "Pages", "Place", "Reader", "Targets", "united"]

Lister = Callable[[PhysicalMemory, PagingContext, int, int], Iterator[Leaves]]
"""A walk under check: the leaves whose pages touch [start, end), as `walk_leaves` yields them."""

Reader = Callable[
    [PhysicalMemory, PagingContext, int, int], Iterator[tuple[U64, NDArray[np.uint8]]]
]
"""The probe's own reading of the tables: blocks of (va uint64[n], shift uint8[n]), by address."""


class Place(IntEnum):
    """What an address is, by the walk or by the probe's own reading; values index columns."""

    HOLE = 0
    PAGE_4K = 1
    PAGE_2M = 2
    PAGE_4M = 3
    PAGE_1G = 4
    MALFORMED = 5
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
    Place.MALFORMED: "malformed entry",
    Place.NOT_CANONICAL: "not canonical",
}

PLACES = {12: Place.PAGE_4K, 21: Place.PAGE_2M, 22: Place.PAGE_4M, 30: Place.PAGE_1G}
"""The place of a page of 1 << shift bytes."""

_PLACE_OF = np.zeros(64, np.uint8)
_PLACE_OF[list(PLACES)] = list(PLACES.values())


@dataclass(frozen=True, slots=True)
class Targets(Rows):
    """n places to access: `va` uint64[n], the first byte of a page or the address itself.

    `place` uint8[n] (`Place`); `user` bool[n], whether a page is a user page; `listed` bool[n],
    false for a page, of this size at this address, that only the probe's own reading finds.
    """

    va: U64
    place: NDArray[np.uint8]
    user: NDArray[np.bool_]
    listed: NDArray[np.bool_]

    @classmethod
    def at(cls, va: U64, place: Place) -> "Targets":
        """Return targets that are no pages."""
        count = len(va)
        return cls(
            va, np.full(count, place, np.uint8), np.zeros(count, np.bool_), np.ones(count, np.bool_)
        )

    def __len__(self) -> int:
        return len(self.va)


@dataclass(frozen=True, slots=True)
class Pages(Rows):
    """n pages of 1 << `shift` bytes, mapped by either reading; the rest as in `Targets`."""

    va: U64
    shift: NDArray[np.uint8]
    user: NDArray[np.bool_]
    listed: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.va)

    @classmethod
    def of_walk(cls, leaves: Leaves) -> "Pages":
        """Return the pages of a block of the walk."""
        user = (leaves.grant & np.uint8(Grant.USER)) != 0
        return cls(leaves.va, leaves.shift, user, np.ones(len(leaves), np.bool_))

    @classmethod
    def of_reading(cls, va: U64, shift: NDArray[np.uint8]) -> "Pages":
        """Return the pages of a block of the probe's own reading, which has no rights."""
        return cls(va, shift, np.ones(len(va), np.bool_), np.zeros(len(va), np.bool_))

    @property
    def targets(self) -> Targets:
        """The pages as targets."""
        return Targets(self.va, _PLACE_OF[self.shift], self.user, self.listed)


def united(one: Iterator[Pages], other: Iterator[Pages]) -> Iterator[Pages]:
    """Yield what either side says is mapped, in address order, in blocks.

    Both are in address order. A page of both, of one size at one address, comes once, with the
    `user` of the side that lists it; where the sizes differ both come.
    """
    sides = [_filled(one), _filled(other)]
    held = [next(side, None) for side in sides]
    while any(each is not None for each in held):
        horizon = min(int(each.va.max()) for each in held if each is not None)
        now = []
        for at, each in enumerate(held):
            if each is None:
                continue
            due = each.va <= np.uint64(horizon)
            now.append(each.take(due))
            held[at] = next(sides[at], None) if due.all() else each.take(~due)
        yield _merged(Pages.join(now))


def _filled(blocks: Iterator[Pages]) -> Iterator[Pages]:
    return (block for block in blocks if len(block))


def _merged(pages: Pages) -> Pages:
    # Of equal pages the listed one comes first.
    pages = pages.take(np.lexsort((~pages.listed, pages.shift, pages.va)))
    fresh = np.ones(len(pages), np.bool_)
    fresh[1:] = (pages.va[1:] != pages.va[:-1]) | (pages.shift[1:] != pages.shift[:-1])
    return pages.take(fresh)


class Gaps:
    """What lies between pages that come block by block, in address order.

    Addresses are counted without the hole between the canonical halves: the lower half first.
    """

    def __init__(self, context: PagingContext, start: int, end: int) -> None:
        self._bits = context.va_bits
        self._long = context.mode.long
        self._half = 1 << (self._bits - 1)
        self._at, self._end = self._place(start), self._place(end)

    def before(self, pages: Pages) -> U64:
        """Return the first, the middle and the last byte of each gap up to the last page given.

        uint64[n], three (fewer of one with fewer bytes) for each gap; a gap between a page of
        this block and one of an earlier block included.
        """
        if not len(pages):
            return np.zeros(0, np.uint64)
        first = pages.va & np.uint64((1 << self._bits) - 1)
        after = first + (np.uint64(1) << pages.shift.astype(np.uint64))
        reached = np.maximum.accumulate(np.concatenate([[np.uint64(self._at)], after]))
        self._at = int(reached[-1])
        return self._points(reached[:-1], np.minimum(first, np.uint64(self._end)))

    def rest(self) -> U64:
        """Return the same of the gap behind the last page."""
        begin, self._at = self._at, max(self._at, self._end)
        return self._points(np.array([begin], np.uint64), np.array([self._end], np.uint64))

    def _place(self, va: int) -> int:
        """Return how many addresses there are below `va`."""
        if not self._long:
            return min(va, 2 * self._half)
        return min(va, self._half) if va <= TOP - self._half else va - TOP + 2 * self._half

    def _points(self, begin: U64, end: U64) -> U64:
        """Return the bytes to access of the gaps [begin, end), of those that aren't empty."""
        real = begin < end
        begin, end = begin[real], end[real]
        half = np.uint64(self._half)
        across = (begin < half) & (end > half) if self._long else np.zeros(len(begin), np.bool_)
        if across.any():
            # Two gaps, one in either half.
            begin = np.sort(np.concatenate([begin, np.full(int(across.sum()), half)]))
            end = np.sort(np.concatenate([end, np.full(int(across.sum()), half)]))
        last = end - np.uint64(1)
        middle = begin + (last - begin) // np.uint64(2)
        points = np.stack([begin, middle, last], axis=1).reshape(-1)
        fresh = np.ones(len(points), np.bool_)
        fresh[1:] = points[1:] != points[:-1]
        points = points[fresh]
        if self._long:
            shift = np.int64(64 - self._bits)
            return (points.astype(np.int64) << shift >> shift).astype(np.uint64)
        return points
