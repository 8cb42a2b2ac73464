"""Collective rights: the union of the rights of all mappings of a physical frame.

No mapping is enumerated; see `crosswalk.walker.states`. Of several address spaces everything is
computed at once, at the cost of their distinct tables.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.columns import distinct
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import LEVELS, SHIFT_4MIB
from crosswalk.walker.leaves import Leaves
from crosswalk.walker.memory import FRAME, U64, PhysicalMemory
from crosswalk.walker.rights import GRANTS, Rights, rights_table
from crosswalk.walker.spaces import Contexts, groups_of
from crosswalk.walker.states import distinct_states

__all__ = [
    "PAGE_SHIFTS",
    "Frames",
    "collective_rights",
    "count_mappings",
    "page_keys",
    "page_shift",
    "page_span",
    "rights_of_pages",
    "united_frames",
]

PAGE_SHIFTS = (LEVELS[1].shift, LEVELS[2].shift, SHIFT_4MIB, LEVELS[3].shift)
"""The sizes that pages may have, as powers of two."""

_UNCOVERED = np.int64(-1)
_NO_PAGE = np.uint64(1)


@dataclass(frozen=True, slots=True)
class Frames:
    """n disjoint physical ranges in ascending order; neighbours differ in rights.

    `start`, `size` uint64[n] in bytes, multiples of 4096; `rights` uint8[n], the union of the
    `Rights` of all mappings. Frames that nothing maps are in no range.
    """

    start: U64
    size: U64
    rights: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.start)

    def __iter__(self) -> Iterator[tuple[int, int, Rights]]:
        """Yield (start, size, rights) of each range."""
        columns = (self.start.tolist(), self.size.tolist(), self.rights.tolist())
        for start, size, rights in zip(*columns, strict=True):
            yield start, size, Rights(rights)

    def rights_at(self, pa: U64) -> NDArray[np.uint8]:
        """Return the `Rights` of the frames with these addresses, uint8[m]; 0 where unmapped."""
        found = np.zeros(len(pa), np.uint8)
        row = np.searchsorted(self.start, pa, side="right").astype(np.intp) - 1
        inside = np.flatnonzero(row >= 0)
        row = row[inside]
        inside, row = (it[pa[inside] - self.start[row] < self.size[row]] for it in (inside, row))
        found[inside] = self.rights[row]
        return found


def collective_rights(memory: PhysicalMemory, context: Contexts) -> Frames:
    """Return the collective rights of every mapped physical range.

    The union, over all mappings of a frame in all of these address spaces, of their effective
    rights under each context.
    """
    found = []
    for group in groups_of(context):
        blocks = distinct_states(memory, group.contexts)
        parts = [distinct(page_keys(block.held.leaves)) for block in blocks]
        found.append(rights_of_pages(group.context, np.concatenate(parts)))
    return united_frames(found)


def united_frames(parts: Sequence[Frames]) -> Frames:
    """Return the union of the rights in all parts."""
    if len(parts) == 1:
        return parts[0]
    none = np.zeros(0, np.uint64)
    start = np.concatenate([none, *(part.start for part in parts)])
    size = np.concatenate([none, *(part.size for part in parts)])
    rights = np.concatenate([np.zeros(0, np.uint8), *(part.rights for part in parts)])
    return _union(start, start + size, rights)


def rights_of_pages(
    context: PagingContext, pages: U64, *, start: int = 0, size: int = 1 << 63
) -> Frames:
    """Return the collective rights of these pages, each as `page_keys` has it.

    Only of physical bytes [start, start + size).
    """
    pages = distinct(pages)
    ranges = [_folded(context, shift, pages) for shift in PAGE_SHIFTS]
    first, end, rights = (np.concatenate(column) for column in zip(*ranges, strict=True))
    first, end = np.maximum(first, np.uint64(start)), np.minimum(end, np.uint64(start + size))
    some = first < end
    return _union(first[some], end[some], rights[some])


def _folded(context: PagingContext, shift: int, pages: U64) -> tuple[U64, U64, NDArray[np.uint8]]:
    """Return the pages of one size as ranges: start, end and the union of rights.

    Disjoint and few, where neighbours are alike; `pages` are in order.
    """
    # A page's shift and its grants stand in the bits below its address.
    pages = pages[(pages >> np.uint64(3) & np.uint64(63)) == shift]
    page = pages & ~np.uint64(FRAME - 1)
    rights = rights_table(context).take((pages & np.uint64(GRANTS - 1)).astype(np.intp))
    fresh = np.flatnonzero(np.diff(page, prepend=_NO_PAGE) != 0)
    page = page[fresh]
    if not len(page):
        return page, page, rights
    rights = np.bitwise_or.reduceat(rights, fresh)
    span = np.uint64(1 << shift)
    begins = np.ones(len(page), np.bool_)
    begins[1:] = (page[1:] != page[:-1] + span) | (rights[1:] != rights[:-1])
    first = np.flatnonzero(begins)
    last = np.append(first[1:], len(page)) - 1
    return page[first], page[last] + span, rights[first]


def page_keys(leaves: Leaves) -> U64:
    """Return for each leaf its page, with its shift and `Grant` bits in the bits below."""
    shift, grant = leaves.shift.astype(np.uint64), leaves.grant.astype(np.uint64)
    return leaves.pa | shift << np.uint64(3) | grant


def page_span(page: int) -> tuple[int, int]:
    """Return the physical range [start, end) of a page, given as `page_keys` has it."""
    start = page & -FRAME
    return start, start + (1 << page_shift(page))


def page_shift(page: int) -> int:
    """Return the shift of a page, given as `page_keys` has it: it has 1 << shift bytes."""
    return page >> 3 & 63


def count_mappings(memory: PhysicalMemory, context: Contexts) -> dict[int, int]:
    """Return the exact number of leaves by level, without listing them.

    Of several address spaces the sum: a leaf that two of them share counts twice.
    """
    counts = dict.fromkeys(range(1, 4), 0)
    for group in groups_of(context):
        for block in distinct_states(memory, group.contexts):
            if len(block.held.leaves):
                counts[block.level] += int(block.ways[block.held.leaf_parent].sum())
    return counts


def _union(start: U64, end: U64, rights: NDArray[np.uint8]) -> Frames:
    """Return the union of the rights over half-open ranges that may overlap."""
    edges = distinct(np.concatenate([start, end]))
    first, last = np.searchsorted(edges, start), np.searchsorted(edges, end)
    covered = np.zeros(len(edges), np.bool_)
    union = np.zeros(len(edges), np.uint8)
    for value in np.unique(rights).tolist():
        same = rights == value
        depth = np.bincount(first[same], minlength=len(edges))
        depth -= np.bincount(last[same], minlength=len(edges))
        inside = np.cumsum(depth) > 0
        covered |= inside
        union[inside] |= np.uint8(value)

    # Fold neighbours that are equal; an uncovered stretch is unlike any rights.
    key = np.where(covered, union, _UNCOVERED)
    begins = np.flatnonzero(np.diff(key, prepend=_UNCOVERED) != 0)
    bounds = np.append(edges[begins], edges[-1:])
    kept = key[begins] != _UNCOVERED
    sizes = np.diff(bounds)[kept]
    return Frames(edges[begins][kept], sizes, union[begins][kept])
