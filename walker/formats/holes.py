"""A mapping of a file with holes that reads none of them from the file.

On file systems in memory (tmpfs), the page of a hole that is read through a mapping is allocated:
the file grows with what is read, and where the file system is full, that is SIGBUS. Here what is
no hole is mapped from the file, and the rest is the kernel's page of zeros, which takes nothing.
"""

import ctypes
import errno
import mmap
import os
from array import array
from collections.abc import Callable

import numpy as np

__all__ = ["MOST_RUNS", "Runs", "allocates_when_read", "mapped_with_holes", "runs_of"]

MOST_RUNS = 8192
"""The most parts that are mapped: with the holes between them, twice as many mappings, of which
Linux allows a process 65,530 (vm.max_map_count).
"""

# linux/magic.h: TMPFS_MAGIC, RAMFS_MAGIC, HUGETLBFS_MAGIC, OVERLAYFS_SUPER_MAGIC (whose files may
# lie in a tmpfs).
_IN_MEMORY = frozenset((0x01021994, 0x858458F6, 0x958458F6, 0x794C7630))
_STATFS_BYTES = 256  # More than any struct statfs takes; f_type is its first word.
_MAP_FIXED = 0x10  # linux/mman.h; Python's mmap has no name for it.
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int),
    ctypes.c_long,
)
_libc.fstatfs.argtypes = (ctypes.c_int, ctypes.c_void_p)


class Runs:
    """The parts of a file that aren't holes, as (begin, end) in bytes, ascending, apart.

    They begin and end at multiples of the page size. There are at most `most` of them: where there
    are more, the smallest holes are taken for parts, which `filled` is told of, as (begin, end).
    """

    def __init__(self, filled: Callable[[int, int], object], most: int) -> None:
        self._filled, self._most = filled, most
        self._begins, self._ends = array("q"), array("q")
        self._least = mmap.PAGESIZE

    def __len__(self) -> int:
        """Return the number of parts."""
        return len(self._begins)

    def __iter__(self) -> "zip[tuple[int, int]]":
        """Return an iterator over the parts."""
        return zip(self._begins, self._ends, strict=True)

    def put(self, begin: int, end: int) -> None:
        """Add the pages of a part that ends behind all that were added before."""
        begin, end = begin & -mmap.PAGESIZE, -(-end // mmap.PAGESIZE) * mmap.PAGESIZE
        if self._ends and begin - self._ends[-1] < self._least:
            self._fill(self._ends[-1], begin)
            self._ends[-1] = max(end, self._ends[-1])
            return
        self._begins.append(begin)
        self._ends.append(end)
        while len(self._begins) > self._most:
            self._coarsen()

    def _coarsen(self) -> None:
        self._least *= 2
        begins, ends = self._begins, self._ends
        self._begins, self._ends = begins[:1], ends[:1]
        for begin, end in zip(begins[1:], ends[1:], strict=True):
            if begin - self._ends[-1] < self._least:
                self._fill(self._ends[-1], begin)
                self._ends[-1] = end
            else:
                self._begins.append(begin)
                self._ends.append(end)

    def _fill(self, begin: int, end: int) -> None:
        if begin < end:
            self._filled(begin, end)


def runs_of(descriptor: int, size: int) -> Runs:
    """Return the parts of a file of `size` bytes that aren't holes; `OSError` as lseek(2)."""
    # Of what has more parts than can be mapped, the smallest holes are read from the file.
    found = Runs(lambda _begin, _end: None, MOST_RUNS)
    end = 0
    while end < size:
        try:
            begin = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # A hole up to the end.
                break
            raise
        end = min(os.lseek(descriptor, begin, os.SEEK_HOLE), size)
        if begin >= end:
            break
        found.put(begin, end)
    return found


def allocates_when_read(descriptor: int) -> bool:
    """Return whether the holes of a file may take memory when they are read through a mapping."""
    found = ctypes.create_string_buffer(_STATFS_BYTES)
    if _libc.fstatfs(descriptor, found):
        return True
    return ctypes.c_long.from_buffer(found).value in _IN_MEMORY


def mapped_with_holes(descriptor: int, size: int, runs: Runs) -> mmap.mmap:
    """Return a read-only mapping of a file's `size` bytes, of which the `runs` alone are its.

    What lies between them reads as zeros. Raises `OSError` where it can't be mapped.
    """
    data = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
    base = np.frombuffer(data, np.uint8).ctypes.data
    flags = mmap.MAP_SHARED | _MAP_FIXED
    for begin, end in runs:
        # The last run may go on to the end of its page, beyond the mapping's size.
        length = min(end, size) - begin
        found = _libc.mmap(base + begin, length, mmap.PROT_READ, flags, descriptor, begin)
        if found == _FAILED:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    return data
