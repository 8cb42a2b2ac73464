"""Collective rights: what all mappings of a physical frame together allow.

Nothing here enumerates mappings; see `walker.states`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from walker.columns import distinct
from walker.context import PagingContext
from walker.entry import LEVELS
from walker.leaves import Leaves
from walker.memory import FRAME, U64, PhysicalMemory
from walker.rights import GRANTS, Rights, rights_table
from walker.states import distinct_states

__all__ = ["Frames", "collective_rights", "count_mappings", "page_keys", "rights_of_pages"]

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


def collective_rights(memory: PhysicalMemory, context: PagingContext) -> Frames:
    """Return the collective rights of every mapped physical range.

    The union, over all mappings of a frame, of their effective rights under the context.
    """
    parts = [distinct(page_keys(block.held.leaves)) for block in distinct_states(memory, context)]
    return rights_of_pages(context, np.concatenate(parts))


def rights_of_pages(
    context: PagingContext, pages: U64, *, start: int = 0, size: int = 1 << 63
) -> Frames:
    """Return the collective rights of these pages, each as `page_keys` has it.

    Only of physical bytes [start, start + size).
    """
    pages = distinct(pages)
    ranges = [_folded(context, level, pages) for level in (1, 2, 3)]
    first, end, rights = (np.concatenate(column) for column in zip(*ranges, strict=True))
    first, end = np.maximum(first, np.uint64(start)), np.minimum(end, np.uint64(start + size))
    some = first < end
    return _union(first[some], end[some], rights[some])


def _folded(context: PagingContext, level: int, pages: U64) -> tuple[U64, U64, NDArray[np.uint8]]:
    """Return the pages of one level as ranges: start, end and the union of rights.

    Disjoint and few, where neighbours are alike; `pages` are in order.
    """
    # A page's level and its grants stand in the bits below its address.
    pages = pages[(pages >> np.uint64(3) & np.uint64(3)) == level]
    page = pages & ~np.uint64(FRAME - 1)
    rights = rights_table(context).take((pages & np.uint64(GRANTS - 1)).astype(np.intp))
    fresh = np.flatnonzero(np.diff(page, prepend=_NO_PAGE) != 0)
    page = page[fresh]
    if not len(page):
        return page, page, rights
    rights = np.bitwise_or.reduceat(rights, fresh)
    span = np.uint64(LEVELS[level].span)
    begins = np.ones(len(page), np.bool_)
    begins[1:] = (page[1:] != page[:-1] + span) | (rights[1:] != rights[:-1])
    first = np.flatnonzero(begins)
    last = np.append(first[1:], len(page)) - 1
    return page[first], page[last] + span, rights[first]


def page_keys(leaves: Leaves) -> U64:
    """Return for each leaf its page, with its level and `Grant` bits in the bits below."""
    level, grant = leaves.level.astype(np.uint64), leaves.grant.astype(np.uint64)
    return leaves.pa | level << np.uint64(3) | grant


def count_mappings(memory: PhysicalMemory, context: PagingContext) -> dict[int, int]:
    """Return the exact number of leaves by level, without listing them."""
    counts = dict.fromkeys(range(1, 4), 0)
    for block in distinct_states(memory, context):
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
