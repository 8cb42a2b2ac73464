"""Physical memory: the interface, and its two implementations.

`PhysicalMemory` is what the walker reads. `Segments` implements it for all that is laid out as
ranges of bytes: an emulator's RAM, an mmapped image, the segments of an ELF core. `SparseWords`
holds the few words of a case file.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import pairwise
from mmap import MADV_DONTNEED, mmap
from operator import index
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.architecture import PAGE_BYTES
from crosswalk.walker.errors import BadInput

__all__ = [
    "FRAME",
    "U64",
    "WORDS",
    "PhysicalMemory",
    "Segments",
    "SparseWords",
    "WholeFrames",
    "joined",
    "release",
]

FRAME = PAGE_BYTES
WORDS = FRAME // 8
_AROUND = 1 << 16  # What Linux maps around a fault (fault_around_bytes), by default.

U64 = NDArray[np.uint64]
Bytes = bytes | bytearray | memoryview | mmap | NDArray[np.uint8]


class PhysicalMemory(Protocol):
    """Bytes by physical address, and whole paging structures at a time."""

    @property
    def ranges(self) -> Sequence[tuple[int, int]]:
        """The backed ranges as (start, size) in bytes: sorted, disjoint, not adjacent."""
        ...

    def read(self, pa: int, size: int) -> bytes:
        """Return `size` bytes from `pa`; `BadInput` unless all of them are backed."""
        ...

    def word(self, pa: int) -> int | None:
        """Return the 8-byte word at `pa`, a multiple of 8; None if its frame is not backed."""
        ...

    def backed(self, frames: U64) -> NDArray[np.bool_]:
        """Return, for each physical address of a frame, whether all 4 KiB of it are backed."""
        ...

    def tables(self, frames: U64) -> U64:
        """Return the (n, 512) words of the n frames at these physical addresses.

        A read-only view where the frames follow each other in memory, else a gathered copy.
        A frame that isn't backed reads as zeros: as not-present entries.
        """
        ...


class WholeFrames:
    """The frames that lie in ranges of memory as a whole, found without a loop over the ranges.

    `ranges` are (start, size) in bytes, sorted and disjoint.
    """

    def __init__(self, ranges: Sequence[tuple[int, int]]) -> None:
        starts, sizes = np.array(ranges, np.uint64).reshape(-1, 2).T
        low = np.uint64(FRAME - 1)
        first, end = (starts + low) & ~low, (starts + sizes) & ~low
        self._first, self._end = first[first < end], end[first < end]
        self._firsts, self._ends = self._first.tolist(), self._end.tolist()

    def __contains__(self, frame: int) -> bool:
        """Return whether the frame at a physical address is one of these."""
        at = bisect_right(self._firsts, frame) - 1
        return at >= 0 and frame < self._ends[at]

    def among(self, frames: U64) -> NDArray[np.bool_]:
        """Return for each physical address of a frame whether the frame is one of these."""
        if len(self._firsts) <= 1:
            first, end = (self._firsts[0], self._ends[0]) if self._firsts else (0, 0)
            one: NDArray[np.bool_] = (frames >= first) & (frames < end)
            return one
        at = self._first.searchsorted(frames, side="right")
        # Frames below the first range: of index 0, and below what is looked up for it.
        found: NDArray[np.bool_] = (at > 0) & (frames < self._end[np.maximum(at, 1) - 1])
        return found


class Segments:
    """Physical memory laid out as ranges of bytes, read without a copy.

    `segments` are (physical address, bytes) pairs in any order; the bytes are anything numpy
    can view as `uint8` (bytes, mmap, a numpy array). They may be adjacent but not overlap:
    `BadInput` else. Later changes of the underlying bytes are seen. Tens of thousands of segments
    cost no more a word than one, and a block of tables as much as the segments that it lies in.
    """

    def __init__(self, segments: Iterable[tuple[int, Bytes]]) -> None:
        held = ((start, _bytes_of(data)) for start, data in segments)
        parts = sorted(((s, data) for s, data in held if data.size), key=lambda part: part[0])
        self._parts = parts
        self._starts = [start for start, _ in parts]
        self._ranges = joined((start, data.size) for start, data in parts)
        self._whole = WholeFrames(self._ranges)
        # Frames that begin in one part and end in a later one: few, and read when asked for.
        self._split: set[int] = set()
        # The parts that hold whole frames, each at the same place of these lists: the address of
        # its first frame, the end of its last one, its bytes from there, and its words once they
        # have been asked for.
        self._firsts: list[int] = []
        self._ends: list[int] = []
        self._bytes: list[NDArray[np.uint8]] = []
        self._words: list[U64 | None] = []
        for start, data in parts:
            first = -(-start // FRAME) * FRAME
            end = (start + data.size) // FRAME * FRAME
            if end > first:
                self._firsts.append(first)
                self._ends.append(end)
                self._bytes.append(data if first == start else data[first - start :])
            if end < start + data.size and end in self._whole:
                self._split.add(end)
        self._words += [None] * len(self._firsts)
        self._first = np.array(self._firsts, np.uint64)

    @property
    def ranges(self) -> Sequence[tuple[int, int]]:
        """The backed ranges as (start, size) in bytes: sorted, disjoint, not adjacent."""
        return self._ranges

    @property
    def parts(self) -> Sequence[tuple[int, NDArray[np.uint8]]]:
        """The segments that aren't empty as (physical address, bytes), by address."""
        return self._parts

    def read(self, pa: int, size: int) -> bytes:
        """Return `size` bytes from `pa`; `BadInput` unless all of them are backed."""
        found = bytearray()
        at = bisect_right(self._starts, pa) - 1
        while at >= 0 and len(found) < size and at < len(self._parts):
            start, data = self._parts[at]
            offset = pa + len(found) - start
            if not 0 <= offset < data.size:
                break
            found += data[offset : offset + size - len(found)].tobytes()
            at += 1
        if len(found) != size:
            raise BadInput(f"no memory at {pa + len(found):#x}")
        return bytes(found)

    def word(self, pa: int) -> int | None:
        """Return the 8-byte word at `pa`, a multiple of 8; None if its frame is not backed."""
        at = bisect_right(self._firsts, pa) - 1
        if at >= 0 and pa < self._ends[at]:
            words = self._words[at]
            if words is None:
                words = self._words_of(at)
            return int(words[(pa - self._firsts[at]) // 8])
        if pa & -FRAME in self._split:
            return int.from_bytes(self.read(pa, 8), "little")
        return None

    def backed(self, frames: U64) -> NDArray[np.bool_]:
        """Return, for each physical address of a frame, whether all 4 KiB of it are backed."""
        return self._whole.among(frames)

    def tables(self, frames: U64) -> U64:
        """Return the (n, 512) words of n frames; zeros where one isn't backed.

        A view where the frames follow each other in memory, else a gathered copy.
        """
        count = len(frames)
        if not count:
            return np.zeros((0, WORDS), np.uint64)
        lowest, highest = int(frames.min()), int(frames.max())
        at = bisect_right(self._firsts, lowest) - 1
        if at >= 0 and highest < self._ends[at]:
            words = self._words_of(at).reshape(-1, WORDS)
            row = (lowest - self._firsts[at]) // FRAME
            if highest - lowest == (count - 1) * FRAME and _consecutive(frames):
                return words[row : row + count]
            return self._picked(at, frames)
        gathered = np.zeros((count, WORDS), dtype=np.uint64)
        part = self._first.searchsorted(frames, side="right") - 1
        order = part.argsort(kind="stable")
        ordered = part[order]
        turns = [0, *(np.flatnonzero(ordered[1:] != ordered[:-1]) + 1).tolist(), count]
        for begin, end in pairwise(turns):
            at = int(ordered[begin])
            if at >= 0:
                rows = order[begin:end]
                rows = rows[frames[rows] < self._ends[at]]
                gathered[rows] = self._picked(at, frames[rows])
        if self._split:
            split = np.isin(frames, np.array([*self._split], np.uint64))
            for row in np.flatnonzero(split).tolist():
                gathered[row] = np.frombuffer(self.read(int(frames[row]), FRAME), np.uint64)
        return gathered

    def release(self, start: int, size: int) -> None:
        """Give back the pages of mapped files in `size` bytes from `start`; it can be read again.

        A read of all memory would have it all resident. What isn't a file mapped read-only stays.
        """
        first = max(bisect_right(self._starts, start) - 1, 0)
        end = bisect_left(self._starts, start + size)
        # Of each file from the first part's page to the last one's, since most lie side by side.
        reach: dict[int, tuple[mmap, int, int]] = {}
        for begins, data in self._parts[first:end]:
            part = data[max(start - begins, 0) : start + size - begins]
            mapping = _mapping_of(part)
            if mapping is not None and part.size:
                at = part.ctypes.data
                _, low, high = reach.get(id(mapping), (mapping, at, at))
                reach[id(mapping)] = mapping, min(low, at), max(high, at + part.size)
        for mapping, low, high in reach.values():
            _give_back(mapping, low, high)

    def _words_of(self, part: int) -> U64:
        """Return the words of the whole frames of a part."""
        words = self._words[part]
        if words is None:
            size = self._ends[part] - self._firsts[part]
            words = self._words[part] = self._bytes[part][:size].view(np.uint64)
        return words

    def _picked(self, part: int, frames: U64) -> U64:
        """Return the words of frames of one part, a copy."""
        words = self._words_of(part).reshape(-1, WORDS)
        picked: U64 = words[(frames - np.uint64(self._firsts[part])) // np.uint64(FRAME)]
        return picked


class SparseWords:
    """Physical memory that is zero but for a few 8-byte words, as in a case file.

    `ranges` are the backed ranges as (start, size) in bytes, whole frames; `words` maps
    physical addresses (multiples of 8) to values. `BadInput` for a word outside the ranges.
    """

    def __init__(self, ranges: Iterable[tuple[int, int]], words: Mapping[int, int]) -> None:
        touched = sorted({pa // FRAME * FRAME for pa in words})
        tables = np.zeros((len(touched), WORDS), dtype=np.uint64)
        row = {frame: at for at, frame in enumerate(touched)}
        for pa, value in words.items():
            if pa % 8:
                raise BadInput(f"the word at {pa:#x} is not at a multiple of 8")
            tables[row[pa // FRAME * FRAME], pa % FRAME // 8] = value
        self._fill(ranges, np.array(touched, dtype=np.uint64), tables)

    @classmethod
    def of_tables(
        cls, ranges: Iterable[tuple[int, int]], frames: U64, tables: U64
    ) -> "SparseWords":
        """Return memory that is zero but for whole frames: uint64[n], ascending, and [n, 512]."""
        memory = cls.__new__(cls)
        memory._fill(ranges, frames, tables)  # noqa: SLF001  # of this very class
        return memory

    def _fill(self, ranges: Iterable[tuple[int, int]], frames: U64, tables: U64) -> None:
        self._ranges = joined(sorted(ranges))
        self._whole = WholeFrames(self._ranges)
        self._known = frames
        backed = self.backed(frames)
        if not backed.all():
            raise BadInput(f"an entry lies outside RAM: {int(frames[~backed][0]):#x}")
        # The last row is all zeros: what a frame without words reads as.
        self._tables = np.concatenate([tables, np.zeros((1, WORDS), np.uint64)])

    def __getstate__(self) -> dict[str, object]:
        """Return what is to be pickled: not the words that were looked up."""
        return {name: held for name, held in vars(self).items() if name != "word"}

    @property
    def ranges(self) -> Sequence[tuple[int, int]]:
        """The backed ranges as (start, size) in bytes: sorted, disjoint, not adjacent."""
        return self._ranges

    def read(self, pa: int, size: int) -> bytes:
        """Return `size` bytes from `pa`; `BadInput` unless all of them are backed."""
        if not any(start <= pa and pa + size <= start + length for start, length in self._ranges):
            raise BadInput(f"no memory at {pa:#x}")
        first = pa // FRAME * FRAME
        frames = np.arange(first, pa + size, FRAME, dtype=np.uint64)
        return self.tables(frames).tobytes()[pa - first : pa - first + size]

    @cached_property
    def word(self) -> Callable[[int], int | None]:
        """Return the 8-byte word at an address, a multiple of 8; None if its frame is not backed.

        It is called as a method, `memory.word(pa)`, and costs a look-up in a dict: a walker calls
        it for each entry.
        """
        return _KnownWords(self._ranges, self._known, self._tables).__getitem__

    def backed(self, frames: U64) -> NDArray[np.bool_]:
        """Return, for each physical address of a frame, whether all 4 KiB of it are backed."""
        return self._whole.among(frames)

    def tables(self, frames: U64) -> U64:
        """Return the (n, 512) words of n frames, a copy; zeros where one isn't backed."""
        found: U64 = self._tables[self._rows(frames)]
        return found

    def content(self) -> tuple[U64, U64]:
        """Return the frames that hold words, uint64[n], ascending, and their (n, 512) words."""
        return self._known, self._tables[:-1]

    def words(self) -> Iterator[tuple[int, int]]:
        """Yield the words that aren't zero, by address."""
        row, at = np.nonzero(self._tables[:-1])
        addresses = self._known[row] + np.uint64(8) * at.astype(np.uint64)
        yield from zip(addresses.tolist(), self._tables[row, at].tolist(), strict=True)

    def _rows(self, frames: U64) -> NDArray[np.intp]:
        at = np.searchsorted(self._known, frames)
        known = np.append(self._known, np.uint64(np.iinfo(np.uint64).max))
        return np.where(known[at] == frames, at, len(self._known))


class _KnownWords(dict[int, int | None]):
    """Words by physical address, looked up in tables when they are first asked for.

    The words that aren't zero are there from the beginning, unless they are many. Others come by
    the part of a frame, and all go when there are too many: that takes 100 MB.
    """

    _MANY, _MOST = 1 << 16, 1 << 20
    _PART = 64  # Words.

    def __init__(self, ranges: Sequence[tuple[int, int]], known: U64, tables: U64) -> None:
        super().__init__()
        self._ranges, self._tables = ranges, tables
        self._starts = [start for start, _ in ranges]
        self._row = dict(zip(known.tolist(), range(len(known)), strict=True))
        row, at = np.nonzero(tables)
        if len(row) <= self._MANY:
            words = known[row] + np.uint64(8) * at.astype(np.uint64)
            self.update(zip(words.tolist(), tables[row, at].tolist(), strict=True))

    def __missing__(self, pa: int) -> int | None:
        pa = index(pa)
        if pa % 8:
            return self[pa & -8]
        if len(self) > self._MOST:
            self.clear()
        size, frame = 8 * self._PART, pa & -FRAME
        first = pa // size * size
        if not self._backed(frame):
            part: list[int | None] = [None] * self._PART
        else:
            at = (first - frame) // 8
            part = self._tables[self._row.get(frame, -1), at : at + self._PART].tolist()
        self.update(zip(range(first, first + size, 8), part, strict=True))
        return self[pa]

    def _backed(self, frame: int) -> bool:
        at = bisect_right(self._starts, frame) - 1
        return at >= 0 and frame < self._ranges[at][0] + self._ranges[at][1]


def release(memory: PhysicalMemory, start: int, size: int) -> None:
    """Have a memory give back the pages of mapped files in a part of it, where it can do that."""
    if isinstance(memory, Segments):
        memory.release(start, size)


def _give_back(mapping: mmap, low: int, high: int) -> None:
    """Give back the pages of a mapping between two addresses of this process.

    They aren't resident then, and are mapped again when they are read.
    """
    base = np.frombuffer(mapping, np.uint8).ctypes.data
    # A fault maps the pages around it, too.
    begin = (low - base) & -_AROUND
    end = min(-(-(high - base) // _AROUND) * _AROUND, len(mapping))
    # Pages of /proc/vmcore are no page cache's, and take no advice (EINVAL).
    with suppress(OSError):
        mapping.madvise(MADV_DONTNEED, begin, end - begin)


def _mapping_of(data: NDArray[np.uint8]) -> mmap | None:
    """Return the read-only mapping that an array views, None where it views anything else.

    What can be written may hold what is in no file, and would lose that.
    """
    held: object = data
    while not isinstance(held, mmap):
        if isinstance(held, np.ndarray):
            held = held.base
        elif isinstance(held, memoryview):
            held = held.obj
        else:
            return None
    return held if memoryview(held).readonly else None


def joined(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return ranges in ascending order, adjacent ones as one; `BadInput` where they overlap."""
    found: list[tuple[int, int]] = []
    for start, size in ranges:
        first, length = found[-1] if found else (start, 0)
        if start < first + length:
            raise BadInput(f"memory ranges overlap at {start:#x}")
        if found and start == first + length:
            found[-1] = first, length + size
        else:
            found.append((start, size))
    return tuple(found)


def _bytes_of(data: Bytes) -> NDArray[np.uint8]:
    """Return a read-only view of anything that holds bytes."""
    # A view of an array takes half as much memory as that of a buffer.
    if isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.ndim == 1:
        found = data[:]
    else:
        found = np.frombuffer(data, np.uint8)
    found.flags.writeable = False
    return found


def _consecutive(frames: U64) -> bool:
    return bool((frames[1:] - frames[:-1] == FRAME).all())
