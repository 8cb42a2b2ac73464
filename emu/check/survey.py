"""An address space in pieces: targets in order, the accesses that check each, what is left out."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.check.selection import (
    PLACES,
    Gaps,
    Lister,
    Pages,
    Place,
    Reader,
    Targets,
    united,
)
from crosswalk.emu.probe import mapped
from crosswalk.walker.access import AccessType
from crosswalk.walker.columns import Accesses, Rows
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import LimitExceeded
from crosswalk.walker.frames import count_mappings
from crosswalk.walker.leaves import TOP, malformed_addresses, walk_leaves
from crosswalk.walker.memory import U64, PhysicalMemory

__all__ = ["DEFAULT_LIMIT", "PIECE", "Plan", "Survey", "accesses_to", "make_plan"]


DEFAULT_LIMIT = 200_000
"""The default number of mappings that are checked one by one."""

PIECE = 4096
"""The most targets of a piece; one takes up to 24 accesses."""

_SCANNED = 1 << 24
"""How many pages are looked at for those that a limit leaves: an image may map 2^36 of them."""

_EVERYTHING = ((0, TOP),)
_UNLISTED = "unlisted"
_BEYOND: dict[Place | str, str] = {
    Place.HOLE: "addresses in holes, beyond the limit",
    Place.MALFORMED: "malformed entries, beyond the limit",
    _UNLISTED: "present entries that the walk lists no page for, beyond the limit",
}
_MAPPINGS = "mappings, beyond the limit"


class Survey:
    """The targets of ranges [start, end) in pieces, and what of them a limit leaves out.

    The ranges don't overlap and are in address order.

    Without `cut` more than `limit` mappings are `LimitExceeded`; with it the first `limit` targets
    of each kind are taken: of each size of page, of holes, of malformed entries. `mappings` and
    `beyond` are whole when `pieces` has come to its end.
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        context: PagingContext,
        *,
        ranges: Sequence[tuple[int, int]] = _EVERYTHING,
        limit: int = DEFAULT_LIMIT,
        cut: bool = False,
        walk: Lister = walk_leaves,
        read: Reader = mapped,
    ) -> None:
        self._memory, self._context = memory, context
        self._ranges = ranges
        self._walk, self._read = walk, read
        self._limit, self._cut = limit, cut
        self._taken: Counter[Place | str] = Counter()
        self._left: Counter[Place | str] = Counter()
        self._whole = tuple(ranges) == _EVERYTHING
        self.expected = self._expected()

    @property
    def mappings(self) -> int:
        """How many mappings the walk lists in the ranges."""
        return self.taken + self.beyond.get(_MAPPINGS, 0)

    @property
    def taken(self) -> int:
        """How many of them are accessed."""
        return sum(self._taken[place] for place in PLACES.values())

    @property
    def beyond(self) -> dict[str, int]:
        """How many targets of each kind the limit leaves out, by words for the kind.

        Of an image with more than 2^24 pages, twice the limit if that is more, what lies behind
        them isn't looked at; its mappings are counted all the same where the range is all there is.
        """
        pages = sum(self._left[place] for place in PLACES.values())
        if self._whole and self._cut:
            pages = max(pages, self.expected - self.taken)
        left = {_MAPPINGS: pages} | {name: self._left[kind] for kind, name in _BEYOND.items()}
        return {name: count for name, count in left.items() if count}

    def pieces(self) -> Iterator[Targets]:
        """Yield the targets, each once, at most `PIECE` at a time.

        Pages and holes in address order; then malformed entries, table by table from the root
        down; then addresses that aren't canonical.
        """
        yield from _cut(self._parts())

    def _expected(self) -> int:
        """Return how many mappings the walk lists, as far as it has to be known beforehand."""
        if self._whole:
            total = sum(count_mappings(self._memory, self._context).values())
            if total > self._limit and not self._cut:
                raise LimitExceeded(
                    f"{total:,} mappings; the limit is {self._limit:,} (--limit N for the first N "
                    "of each kind; or a part, --start --end)"
                )
            return total
        total = 0
        for start, end in self._ranges:
            for block in self._walk(self._memory, self._context, start, end):
                total += len(block)
                if total <= self._limit:
                    continue
                if self._cut:
                    return total
                raise LimitExceeded(
                    f"more than {self._limit:,} mappings in this range (--limit N for the first N "
                    "of each kind)"
                )
        return total

    def _parts(self) -> Iterator[Targets]:
        for start, end in self._ranges:
            gaps = Gaps(self._context, start, end)
            for pages in self._pages(start, end):
                found = Targets.join([self._pages_taken(pages), self._holes(gaps.before(pages))])
                yield found.take(np.argsort(found.va, kind="stable"))
            if not self._stopped:
                yield self._holes(gaps.rest())
        for block in malformed_addresses(self._memory, self._context):
            inside = block[self._inside(block)]
            yield self._within(Targets.at(inside, Place.MALFORMED), Place.MALFORMED)
        yield self._not_canonical()

    def _inside(self, va: U64) -> NDArray[np.bool_]:
        inside = np.zeros(len(va), np.bool_)
        for start, end in self._ranges:
            inside |= (va >= start) & (va <= end - 1)
        return inside

    def _pages(self, start: int, end: int) -> Iterator[Pages]:
        """Yield the pages that the walk or the probe's own reading has, up to those looked at."""
        self._stopped = False
        given = self._memory, self._context, start, end
        listed = (Pages.of_walk(leaves) for leaves in self._walk(*given))
        read = (Pages.of_reading(*block) for block in self._read(*given))
        most, count = max(_SCANNED, 2 * self._limit), 0
        for pages in united(listed, read):
            yield pages
            count += len(pages)
            if count > most:
                self._stopped = True
                return

    def _pages_taken(self, pages: Pages) -> Targets:
        found = pages.targets
        parts = [self._within(found.take(~found.listed), _UNLISTED)]
        for place in PLACES.values():
            some = found.take(found.listed & (found.place == place))
            parts.append(self._within(some, place))
        return Targets.join(parts)

    def _holes(self, points: U64) -> Targets:
        # A gap has three points. Without a cut there are no more gaps than pages, and two.
        most = 3 * self._limit if self._cut else None
        return self._within(Targets.at(points, Place.HOLE), Place.HOLE, most)

    def _within(self, found: Targets, kind: Place | str, most: int | None = None) -> Targets:
        """Return what the limit leaves of these targets of one kind."""
        if most is None:
            most = len(found) + self._taken[kind] if kind is Place.HOLE else self._limit
        some = found.take(slice(0, max(0, most - self._taken[kind])))
        self._taken[kind] += len(some)
        self._left[kind] += len(found) - len(some)
        return some

    def _not_canonical(self) -> Targets:
        outside: list[int] = []
        if self._context.mode.long:
            half = 1 << (self._context.va_bits - 1)
            outside = [half, TOP // 2, TOP - half - 1]
        found = np.array(outside, np.uint64)
        return Targets.at(found[self._inside(found)], Place.NOT_CANONICAL)


def _cut(parts: Iterator[Targets]) -> Iterator[Targets]:
    """Yield the same targets, cut into pieces."""
    kept = Targets.at(np.zeros(0, np.uint64), Place.HOLE)
    for part in parts:
        kept = Targets.join([kept, part]) if len(kept) else part
        at = 0
        while len(kept) - at >= PIECE:
            yield kept.take(slice(at, at + PIECE))
            at += PIECE
        kept = kept.take(slice(at, None))
    if len(kept):
        yield kept


_SLOT = 16
# An offset in a large page that changes if it is rounded to any smaller size.
_INSIDE = 0x2A5A_5A50
_SHIFT_4KIB = 12


@dataclass(frozen=True, slots=True)
class Plan(Rows):
    """n accesses with the `Place` of each, uint8[n], and `listed`, bool[n], as in `Targets`."""

    va: U64
    type: NDArray[np.uint8]
    cpl: NDArray[np.uint8]
    ac: NDArray[np.bool_]
    place: NDArray[np.uint8]
    listed: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.va)

    @property
    def accesses(self) -> Accesses:
        """The accesses, without what the plan knows of them."""
        return Accesses(self.va, self.type, self.cpl, self.ac)


def make_plan(
    memory: PhysicalMemory,
    context: PagingContext,
    *,
    start: int = 0,
    end: int = TOP,
    limit: int = DEFAULT_LIMIT,
    walk: Lister = walk_leaves,
    read: Reader = mapped,
) -> Plan:
    """Return the accesses that check what the walker says of [start, end), all at once.

    Of every page that `walk` or `read` finds, at both CPLs: reads and writes of the first and the
    last byte, fetches from the first and the last 16 bytes and of the last byte, and all of it
    inside a large page; of a user page under SMAP the supervisor's data accesses with the other
    AC as well. Of what isn't mapped: both neighbours of each run of pages, the middle of each gap,
    entries that are not zero but map nothing, or lead out of RAM, and addresses that aren't
    canonical.

    `LimitExceeded` if there are more than `limit` mappings; they are counted, not listed.
    """
    ranges = ((start, end),)
    survey = Survey(memory, context, ranges=ranges, limit=limit, walk=walk, read=read)
    return Plan.join([_NOTHING, *(accesses_to(context, piece) for piece in survey.pieces())])


def accesses_to(context: PagingContext, targets: Targets) -> Plan:
    """Return the accesses that `make_plan` describes to these targets, by the kind of target."""
    parts = [_NOTHING]
    for shift, place in PLACES.items():
        pages = targets.take(targets.place == place)
        if len(pages):
            parts += _of_pages(context, pages, shift)
    for place in (Place.HOLE, Place.MALFORMED, Place.NOT_CANONICAL):
        parts.append(_plan(context, targets.take(targets.place == place)))
    return Plan.join(parts)


def _of_pages(context: PagingContext, pages: Targets, shift: int) -> Iterator[Plan]:
    """Yield the accesses to pages of one size."""
    data = [0, (1 << shift) - 1]
    code = [0, (1 << shift) - _SLOT, data[1]]
    if shift > _SHIFT_4KIB:
        inside = _INSIDE & ((1 << shift) - 1)
        data.append(inside)
        code.append(inside)
    for offset in data:
        yield _plan(context, pages, offset, (AccessType.READ, AccessType.WRITE))
    for offset in code:
        yield _plan(context, pages, offset, (AccessType.EXECUTE,))
    if context.smap:
        yield _plan(
            context,
            pages.take(pages.user),
            0,
            (AccessType.READ, AccessType.WRITE),
            cpls=(0,),
            ac=not context.rflags_ac,
        )


def _plan(
    context: PagingContext,
    targets: Targets,
    offset: int = 0,
    types: tuple[AccessType, ...] = tuple(AccessType),
    *,
    cpls: tuple[int, ...] = (0, 3),
    ac: bool | None = None,
) -> Plan:
    pairs = [(kind, cpl) for kind in types for cpl in cpls]
    each, count = len(pairs), len(targets)
    return Plan(
        np.repeat(targets.va + np.uint64(offset), each),
        np.tile(np.array([kind for kind, _ in pairs], np.uint8), count),
        np.tile(np.array([cpl for _, cpl in pairs], np.uint8), count),
        np.full(count * each, context.rflags_ac if ac is None else ac),
        # A page that the walk doesn't list is, by its word, an entry that maps nothing.
        np.repeat(np.where(targets.listed, targets.place, np.uint8(Place.MALFORMED)), each),
        np.repeat(targets.listed, each),
    )


_NO_BITS, _NO_FLAGS = np.zeros(0, np.uint8), np.zeros(0, np.bool_)
_NOTHING = Plan(np.zeros(0, np.uint64), _NO_BITS, _NO_BITS, _NO_FLAGS, _NO_BITS, _NO_FLAGS)
