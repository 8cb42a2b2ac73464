"""RAM that the host and any number of engines share."""

import mmap

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.architecture import PAGE_BYTES
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import U64

__all__ = ["Ram"]


class Ram:
    """`size` zeroed bytes of guest RAM from physical address `start` on.

    `bytes` and `words` are the same memory for the host, one byte or one 64-bit word an
    element; `pointer` is its host address, which an engine maps without a copy (`attach`). The
    memory lives as long as this object or one of the arrays; an engine doesn't keep it alive.

    Raises `BadInput` unless start and size are whole pages, and at least one.
    """

    def __init__(self, start: int, size: int) -> None:
        if start < 0 or size <= 0 or start % PAGE_BYTES or size % PAGE_BYTES:
            raise BadInput(f"RAM of {size:#x} bytes at {start:#x} is not made of whole pages")
        self.start = start
        self.size = size
        self.bytes: NDArray[np.uint8] = np.frombuffer(mmap.mmap(-1, size), dtype=np.uint8)
        self.words: U64 = self.bytes.view(np.uint64)

    @property
    def pointer(self) -> int:
        """The host address of the first byte, aligned to a host page."""
        return self.bytes.ctypes.data

    def write(self, pa: int, data: bytes) -> None:
        """Copy `data` to physical address `pa`; `BadInput` unless all of it is RAM."""
        self._check(pa, len(data))
        offset = pa - self.start
        self.bytes[offset : offset + len(data)] = np.frombuffer(data, dtype=np.uint8)

    def read(self, pa: int, size: int) -> bytes:
        """Return `size` bytes from physical address `pa`; `BadInput` unless all are RAM."""
        self._check(pa, size)
        offset = pa - self.start
        return self.bytes[offset : offset + size].tobytes()

    def _check(self, pa: int, size: int) -> None:
        if size < 0 or not self.start <= pa <= pa + size <= self.start + self.size:
            raise BadInput(f"{size:#x} bytes at {pa:#x} are not all RAM")
