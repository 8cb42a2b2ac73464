"""Several maps of rights over the same RAM, cut into ranges where none of them changes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.columns import distinct
from crosswalk.walker.frames import Frames
from crosswalk.walker.memory import FRAME, U64

__all__ = ["Overlay", "overlay", "ram_below", "whole_frames"]


@dataclass(frozen=True, slots=True)
class Overlay:
    """n disjoint parts of RAM in ascending order, together all of it; each in one range of RAM.

    `start`, `size` uint64[n] in bytes, whole frames; `rights` uint8[n, k], the `Rights` in each of
    k maps, 0 where nothing is mapped.
    """

    start: U64
    size: U64
    rights: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.start)

    def total(self, chosen: NDArray[np.bool_]) -> int:
        """Return the size in bytes of the chosen parts."""
        return int(self.size[chosen].sum())


def whole_frames(ram: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges (start, size) without the frames that lie in them only in part."""
    edges = ((-(-start // FRAME) * FRAME, (start + size) // FRAME * FRAME) for start, size in ram)
    return [(start, end - start) for start, end in edges if end > start]


def overlay(ram: Sequence[tuple[int, int]], *maps: Frames) -> Overlay:
    """Return RAM, given as `PhysicalMemory.ranges`, cut wherever one of the maps changes.

    Rights outside RAM are left out.
    """
    start, end = _edges(ram)
    columns = [start, end]
    for each in maps:
        columns += [each.start, each.start + each.size]
    edges = distinct(np.concatenate(columns))
    first, last = edges[:-1], edges[1:]
    inside = _holders(first, start, end) >= 0
    first, last = first[inside], last[inside]
    rights = np.zeros((len(first), len(maps)), np.uint8)
    for number, each in enumerate(maps):
        holder = _holders(first, each.start, each.start + each.size)
        held = holder >= 0
        rights[held, number] = each.rights[holder[held]]
    return Overlay(first, last - first, rights)


def ram_below(ram: Sequence[tuple[int, int]], pa: U64) -> U64:
    """Return for each physical address how many bytes of RAM, in whole frames, lie below it."""
    start, end = _edges(ram)
    before = np.concatenate([np.zeros(1, np.uint64), np.cumsum(end - start, dtype=np.uint64)])
    holder = np.searchsorted(start, pa, "right")
    at = np.maximum(holder, 1) - 1
    partly = np.minimum(np.maximum(pa, start[at]), end[at]) - start[at]
    return np.where(holder > 0, before[at] + partly, np.uint64(0))


def _edges(ram: Sequence[tuple[int, int]]) -> tuple[U64, U64]:
    """Return the starts and ends of RAM's ranges, in whole frames; without RAM, one empty range."""
    ranges = whole_frames(ram) or [(0, 0)]
    start = np.array([start for start, _ in ranges], np.uint64)
    return start, start + np.array([size for _, size in ranges], np.uint64)


def _holders(pa: U64, start: U64, end: U64) -> NDArray[np.intp]:
    """Return the number of the range that holds each address, -1 for none."""
    if not len(start):
        return np.full(len(pa), -1, np.intp)
    holder = np.searchsorted(start, pa, "right") - 1
    return np.where((holder >= 0) & (pa < end[holder]), holder, -1)
