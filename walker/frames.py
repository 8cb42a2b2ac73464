"""Collective rights: the union of the rights of all mappings of a physical frame.

No mapping is enumerated; see `crosswalk.walker.states`. Of several address spaces everything is
computed at once, at the cost of their distinct tables.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.columns import Rows, distinct
from crosswalk.walker.entry import LEVELS, SHIFT_4MIB
from crosswalk.walker.leaves import Leaves
from crosswalk.walker.memory import FRAME, U64, PhysicalMemory
from crosswalk.walker.rights import GRANT_BITS, Rights, rights_table
from crosswalk.walker.second_level import Space, TableContext
from crosswalk.walker.spaces import groups_of
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
    "united_pages",
]

PAGE_SHIFTS = (LEVELS[1].shift, LEVELS[2].shift, SHIFT_4MIB, LEVELS[3].shift)
"""The sizes that pages may have, as powers of two."""

_NONE = np.zeros(0, np.uint64)
_COVERED = np.uint8(0x80)
"""A bit of `_union` that no right has."""
_MERGED = 1 << 20
"""How many pages are put together before those that are there more than once are left out."""
_LOW_BYTE = 0 if sys.byteorder == "little" else 7


@dataclass(frozen=True, slots=True)
class Frames(Rows):
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


def collective_rights(memory: PhysicalMemory, context: Space | Sequence[Space]) -> Frames:
    """Return the collective rights of every mapped physical range.

    The union, over all mappings of a frame in all of these address spaces, of their effective
    rights under each context.
    """
    found = []
    for group in groups_of(context):
        blocks = distinct_states(memory, group.contexts)
        pages = (page_keys(block.leaves) for block in blocks)
        found.append(united_pages(rights_table(group.context), pages))
    return united_frames(found)


def united_pages(values: NDArray[np.uint8], parts: Iterable[U64]) -> Frames:
    """Return the union of what mappings contribute to each physical range, in place of rights.

    `values` uint8[n], below 64, has the contribution by the lowest bits of a page, as `page_keys`
    has it: n is 8, or of a hypervisor's tables 16. `parts` have the pages of all mappings, in any
    order, repeats included.
    """
    return _of_distinct(values, _distinct_pages(parts))


def _distinct_pages(parts: Iterable[U64]) -> U64:
    """Return the distinct pages of all parts, each as `page_keys` has it, ascending.

    Holds no more than twice the distinct ones, and a part.
    """
    found = np.zeros(0, np.uint64)
    fresh: list[U64] = []
    for part in parts:
        fresh.append(part)
        if sum(map(len, fresh)) > max(len(found), _MERGED):
            found, fresh = distinct(np.concatenate([found, *fresh])), []
    return distinct(np.concatenate([found, *fresh])) if fresh else found


def united_frames(parts: Sequence[Frames]) -> Frames:
    """Return the union of the rights in all parts."""
    return parts[0] if len(parts) == 1 else _union(parts)


def rights_of_pages(
    context: TableContext, pages: U64, *, start: int = 0, size: int = 1 << 63
) -> Frames:
    """Return the collective rights of these pages, each as `page_keys` has it.

    Only of physical bytes [start, start + size).
    """
    found = _of_distinct(rights_table(context), distinct(pages))
    first = np.maximum(found.start, np.uint64(start))
    end = np.minimum(found.start + found.size, np.uint64(start + size))
    some = first < end
    return Frames(first[some], (end - first)[some], found.rights[some])


def _of_distinct(values: NDArray[np.uint8], pages: U64) -> Frames:
    """Return the same of distinct pages, which are in order."""
    shift = (pages >> np.uint64(GRANT_BITS)).astype(np.uint8) & np.uint8(63)
    shifts = [each for each in PAGE_SHIFTS if (shift == each).any()]
    if len(shifts) == 1:
        return _folded(values, shifts[0], pages)
    return _union([_folded(values, each, pages[shift == each]) for each in shifts])


def _folded(values: NDArray[np.uint8], shift: int, pages: U64) -> Frames:
    """Return the same of distinct pages of one size, which are in order."""
    # A page's grants stand in the bits below its address.
    rights = values.take(pages.view(np.uint8)[_LOW_BYTE::8] & ((1 << GRANT_BITS) - 1))
    page = pages & np.uint64(-FRAME & (1 << 64) - 1)
    step = page[1:] - page[:-1]
    again = np.flatnonzero(step == 0)
    if len(again):
        # Mappings of one page that differ in what they grant stand one after the other.
        fresh = np.ones(len(page), np.bool_)
        fresh[again + 1] = False
        first = np.flatnonzero(fresh)
        page, rights = page[first], np.bitwise_or.reduceat(rights, first)
        step = page[1:] - page[:-1]
    cuts = np.flatnonzero((step != np.uint64(1 << shift)) | (rights[1:] != rights[:-1]))
    first = np.concatenate([np.zeros(1, np.intp), cuts + 1])
    last = np.append(cuts, len(page) - 1)
    start = page[first]
    return Frames(start, page[last] - start + np.uint64(1 << shift), rights[first])


def page_keys(leaves: Leaves) -> U64:
    """Return for each leaf its page, with its shift and `Grant` bits in the bits below."""
    shift = leaves.shift
    if len(shift) and shift.min() == shift.max():
        shift = shift[:1]
    keys = leaves.pa | shift.astype(np.uint64) << np.uint64(GRANT_BITS)
    keys |= leaves.grant
    return keys


def page_span(page: int) -> tuple[int, int]:
    """Return the physical range [start, end) of a page, given as `page_keys` has it."""
    start = page & -FRAME
    return start, start + (1 << page_shift(page))


def page_shift(page: int) -> int:
    """Return the shift of a page, given as `page_keys` has it: it has 1 << shift bytes."""
    return page >> GRANT_BITS & 63


def count_mappings(memory: PhysicalMemory, context: Space | Sequence[Space]) -> dict[int, int]:
    """Return the exact number of leaves by level, without listing them.

    Of several address spaces the sum: a leaf that two of them share counts twice.
    """
    counts = dict.fromkeys(range(1, 4), 0)
    for group in groups_of(context):
        for block in distinct_states(memory, group.contexts):
            if len(block.leaves):
                counts[block.level] += int((block.ways * block.counts.astype(np.uint64)).sum())
    return counts


def _union(parts: Sequence[Frames]) -> Frames:
    """Return the union of the rights in all parts; ranges of two parts may overlap."""
    ends = [part.start + part.size for part in parts]
    edges = distinct(np.concatenate([_NONE, *(part.start for part in parts), *ends]))
    union = np.zeros(len(edges), np.uint8)
    for part, end in zip(parts, ends, strict=True):
        # Ranges of one part are disjoint: what one brings in at its first edge, it takes out again.
        own = np.zeros(len(edges), np.uint8)
        rights = part.rights | _COVERED
        own[np.searchsorted(edges, part.start)] = rights
        own[np.searchsorted(edges, end)] ^= rights
        union |= np.bitwise_xor.accumulate(own)

    # Fold neighbours that are equal; an uncovered stretch is unlike any rights.
    begins = np.flatnonzero(np.diff(union, prepend=np.uint8(0)))
    bounds = np.append(edges[begins], edges[-1:])
    kept = union[begins] != 0
    sizes = np.diff(bounds)[kept]
    return Frames(edges[begins][kept], sizes, union[begins][kept] & ~_COVERED)
