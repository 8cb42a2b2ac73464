"""An address space in pieces: what is accessed of it, in order, and what is left out."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

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
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import LimitExceeded
from crosswalk.walker.frames import count_mappings
from crosswalk.walker.leaves import TOP, malformed_addresses, walk_leaves
from crosswalk.walker.memory import U64, PhysicalMemory

__all__ = ["DEFAULT_LIMIT", "PIECE", "Survey"]

DEFAULT_LIMIT = 200_000
"""The default number of mappings that are checked one by one."""

PIECE = 4096
"""The most targets of a piece; one takes up to 24 accesses."""

_SCANNED = 1 << 24
"""How many pages are looked at for those that a limit leaves: an image may map 2^36 of them."""

_UNLISTED = "unlisted"
_BEYOND: dict[Place | str, str] = {
    Place.HOLE: "addresses in holes, beyond the limit",
    Place.MALFORMED: "malformed entries, beyond the limit",
    _UNLISTED: "present entries that the walk lists no page for, beyond the limit",
}
_MAPPINGS = "mappings, beyond the limit"


class Survey:
    """The targets of [start, end) in pieces, and what of it a limit leaves out.

    Without `cut` more than `limit` mappings are `LimitExceeded`; with it the first `limit` targets
    of each kind are taken: of each size of page, of holes, of malformed entries. `mappings` and
    `beyond` are whole when `pieces` has come to its end.
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        context: PagingContext,
        *,
        start: int = 0,
        end: int = TOP,
        limit: int = DEFAULT_LIMIT,
        cut: bool = False,
        walk: Lister = walk_leaves,
        read: Reader = mapped,
    ) -> None:
        self._memory, self._context = memory, context
        self._start, self._end = start, end
        self._walk, self._read = walk, read
        self._limit, self._cut = limit, cut
        self._taken: Counter[Place | str] = Counter()
        self._left: Counter[Place | str] = Counter()
        self._whole = (start, end) == (0, TOP)
        self.expected = self._expected()

    @property
    def mappings(self) -> int:
        """How many mappings the walk lists in [start, end)."""
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
        for block in self._walk(self._memory, self._context, self._start, self._end):
            total += len(block)
            if total > self._limit:
                if self._cut:
                    break
                raise LimitExceeded(
                    f"more than {self._limit:,} mappings in this range (--limit N for the first N "
                    "of each kind)"
                )
        return total

    def _parts(self) -> Iterator[Targets]:
        gaps = Gaps(self._context, self._start, self._end)
        for pages in self._pages():
            found = Targets.join([self._pages_taken(pages), self._holes(gaps.before(pages))])
            yield found.take(np.argsort(found.va, kind="stable"))
        if not self._stopped:
            yield self._holes(gaps.rest())
        for block in malformed_addresses(self._memory, self._context):
            inside = block[(block >= self._start) & (block <= self._end - 1)]
            yield self._within(Targets.at(inside, Place.MALFORMED), Place.MALFORMED)
        yield self._not_canonical()

    def _pages(self) -> Iterator[Pages]:
        """Yield the pages that the walk or the probe's own reading has, up to those looked at."""
        self._stopped = False
        given = self._memory, self._context, self._start, self._end
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
        outside = [va for va in outside if self._start <= va < self._end]
        return Targets.at(np.array(outside, np.uint64), Place.NOT_CANONICAL)


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
