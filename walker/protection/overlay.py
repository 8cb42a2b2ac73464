"""Several accounts of rights, laid side by side over the frames of RAM."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.columns import distinct
from crosswalk.walker.frames import Frames
from crosswalk.walker.memory import FRAME, U64

__all__ = ["Pieces", "cut", "ram_below", "whole_frames"]


@dataclass(frozen=True, slots=True)
class Pieces:
    """n disjoint stretches of RAM in ascending order, none across the edge of a range.

    `start`, `size` uint64[n] in bytes, whole frames; `rights` uint8[n, k], the `Rights` by each
    of k accounts, 0 where nothing maps. Together they are all of RAM.
    """

    start: U64
    size: U64
    rights: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.start)

    def total(self, chosen: NDArray[np.bool_]) -> int:
        """Return the bytes of the chosen pieces."""
        return int(self.size[chosen].sum())


def whole_frames(ram: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges (start, size) without the frames that they hold in part only."""
    edges = ((-(-start // FRAME) * FRAME, (start + size) // FRAME * FRAME) for start, size in ram)
    return [(start, end - start) for start, end in edges if end > start]


def cut(ram: Sequence[tuple[int, int]], *accounts: Frames) -> Pieces:
    """Return RAM, given as `PhysicalMemory.ranges`, cut wherever one of the accounts changes.

    What an account says of addresses outside RAM is left out.
    """
    start, end = _edges(ram)
    columns = [start, end]
    for account in accounts:
        columns += [account.start, account.start + account.size]
    edges = distinct(np.concatenate(columns))
    first, last = edges[:-1], edges[1:]
    inside = _holders(first, start, end) >= 0
    first, last = first[inside], last[inside]
    rights = np.zeros((len(first), len(accounts)), np.uint8)
    for number, account in enumerate(accounts):
        holder = _holders(first, account.start, account.start + account.size)
        held = holder >= 0
        rights[held, number] = account.rights[holder[held]]
    return Pieces(first, last - first, rights)


def ram_below(ram: Sequence[tuple[int, int]], pa: U64) -> U64:
    """Return for each physical address how many bytes of RAM, in whole frames, lie below it."""
    start, end = _edges(ram)
    before = np.concatenate([np.zeros(1, np.uint64), np.cumsum(end - start, dtype=np.uint64)])
    holder = np.searchsorted(start, pa, "right")
    at = np.maximum(holder, 1) - 1
    partly = np.minimum(np.maximum(pa, start[at]), end[at]) - start[at]
    return np.where(holder > 0, before[at] + partly, np.uint64(0))


def _edges(ram: Sequence[tuple[int, int]]) -> tuple[U64, U64]:
    """Return where each range of RAM begins and ends, in whole frames; one of none, if need be."""
    ranges = whole_frames(ram) or [(0, 0)]
    start = np.array([start for start, _ in ranges], np.uint64)
    return start, start + np.array([size for _, size in ranges], np.uint64)


def _holders(pa: U64, start: U64, end: U64) -> NDArray[np.intp]:
    """Return the number of the range that holds each address, -1 for none."""
    if not len(start):
        return np.full(len(pa), -1, np.intp)
    holder = np.searchsorted(start, pa, "right") - 1
    return np.where((holder >= 0) & (pa < end[holder]), holder, -1)
