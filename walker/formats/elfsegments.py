"""Segments of an ELF core: which part of the file is which part of physical memory.

Segments may overlap: /proc/vmcore has the kernel's image by itself, and once more in RAM; a core of
mapped memory (QEMU's -p) has a segment for each run of addresses, of the same memory often. What is
the same part of the file needs no comparison; all else has to have the same bytes.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from mmap import MADV_DONTNEED, MADV_NORMAL, MADV_RANDOM, mmap

import numpy as np

from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.memory import FRAME, U64

__all__ = ["Extent", "apart", "joined_extents", "uncovered"]

Extent = tuple[int, int, int]
"""A part of memory in a file: its physical address, its place in the file, its size in bytes."""

# An overlap up to the first size is compared as a whole, of a larger one as many frames as that,
# which lie evenly apart: no known tool writes one. All together are compared up to the last size.
_WHOLE, _FRAMES, _MOST = 1 << 28, 1024, 1 << 30
_CHUNK = 1 << 22
_SMALL = 1 << 16  # Not worth to give its pages back; what Linux maps around a fault.


def joined_extents(paddr: U64, offset: U64, size: U64) -> list[Extent]:
    """Return the extents, joined where they go on or overlap in memory and in the file alike.

    In the order of their addresses, of those that begin at the same one the largest first.
    """
    # Extents with equal differences put the same bytes of the file at the same addresses.
    shift = paddr - offset
    order = np.lexsort((paddr, shift))
    found: list[list[int]] = []
    last = None
    rows = (column[order].tolist() for column in (paddr, offset, size, shift))
    for start, at, length, group in zip(*rows, strict=True):
        if group == last and start <= found[-1][0] + found[-1][2]:
            found[-1][2] = max(found[-1][2], start + length - found[-1][0])
        else:
            found.append([start, at, length])
        last = group
    return sorted(
        ((each[0], each[1], each[2]) for each in found), key=lambda e: (e[0], -e[2], e[1])
    )


def apart(data: mmap | None, extents: Iterable[Extent]) -> Iterator[Extent]:
    """Yield extents, given in the order of `joined_extents`, without what an earlier one has.

    Raises `BadInput` where two overlap and have different bytes there; without `data`, whatever
    they have is taken for the same. Of an overlap of more than
    256 MiB, 1,024 frames are compared, that lie evenly apart. `LimitExceeded` where there is more
    than 1 GiB to compare, each such overlap counted as 256 MiB.
    """
    left = _MOST
    begin, place, end = 0, 0, 0  # The extent that reaches furthest so far.
    for start, at, size in extents:
        common = max(min(end - start, size), 0)
        if data is not None:
            left -= min(common, _WHOLE)
        if left < 0:
            raise LimitExceeded(
                f"ELF core: more than {_MOST >> 30} GiB of segments overlap, from different places "
                "of the file"
            )
        if common and data is not None and not _equal(data, place + start - begin, at, common):
            raise BadInput(f"ELF core: segments overlap at {start:#x} and differ there")
        if common < size:
            yield start + common, at + common, size - common
            begin, place, end = start, at, start + size


def uncovered(gaps: Sequence[tuple[int, int]], ranges: Sequence[tuple[int, int]]) -> int:
    """Return how many bytes lie in some of the gaps, as (start, end), and in none of the ranges.

    The ranges are (start, size), sorted and disjoint; the gaps may overlap.
    """
    if not gaps:
        return 0
    starts, ends = np.array(sorted(gaps), np.int64).T
    reached = np.maximum.accumulate(ends)
    # Each gap without what an earlier one reaches.
    starts = np.maximum(starts, np.concatenate([[0], reached[:-1]]))
    ends = np.maximum(ends, starts)
    held, sizes = np.array(ranges, np.int64).reshape(-1, 2).T
    below = np.concatenate([[0], np.cumsum(sizes)])

    def backed_below(address: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> int:
        at = np.searchsorted(held, address, side="right")
        if not len(held):
            return 0
        before = np.maximum(at - 1, 0)
        inside = np.clip(address - held[before], 0, sizes[before])
        return int(np.where(at > 0, below[before] + inside, 0).sum())

    return int((ends - starts).sum()) - (backed_below(ends) - backed_below(starts))


def _equal(data: mmap, one: int, other: int, size: int) -> bool:
    if size <= _SMALL:
        return data[one : one + size] == data[other : other + size]
    if size <= _WHOLE:
        chunks = ((at, min(_CHUNK, size - at)) for at in range(0, size, _CHUNK))
        return all(_equal_part(data, one + at, other + at, length) for at, length in chunks)
    frames = ((size - FRAME) * at // (_FRAMES - 1) for at in range(_FRAMES))
    # Else the kernel reads megabytes ahead for each frame.
    _advise(data, MADV_RANDOM, 0, len(data))
    try:
        return all(_equal_part(data, one + at, other + at, FRAME) for at in frames)
    finally:
        _advise(data, MADV_NORMAL, 0, len(data))


def _equal_part(data: mmap, one: int, other: int, size: int) -> bool:
    content = np.frombuffer(data, np.uint8)
    equal = np.array_equal(content[one : one + size], content[other : other + size])
    # What was compared is most likely not read again: its pages don't count as used memory.
    for place in (one, other):
        first = place & -_SMALL
        end = min(-(-(place + size) // _SMALL) * _SMALL, len(data))
        _advise(data, MADV_DONTNEED, first, end - first)
    return equal


def _advise(data: mmap, advice: int, first: int, size: int) -> None:
    # Pages of /proc/vmcore are no page cache's, and take no advice (EINVAL).
    with suppress(OSError):
        data.madvise(advice, first, size)
