"""Columns of numbers, packed for a page: planes of bytes, compressed together."""

import zlib
from base64 import b64encode
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.memory import U64

__all__ = ["Columns", "Place"]

_LARGEST = 1 << 53
"""What numbers stay below: JavaScript's are exact up to there."""


class Place(TypedDict):
    """Where a column lies: at which byte, how many bytes a value has, how many values there are.

    `signed`: an even number stands for its half, an odd one for a negative number (zigzag).
    """

    at: int
    width: int
    count: int
    signed: bool


class Columns:
    """Packs columns, and texts, one after the other."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, values: NDArray[np.unsignedinteger]) -> Place:
        """Pack n unsigned numbers; `ValueError` for one of 2^53 and more."""
        return self._add(values.astype(np.uint64), signed=False)

    def add_steps(self, values: U64, before: U64) -> Place:
        """Pack the differences between n numbers and as many others, modulo 2^64."""
        difference = (values - before).astype(np.int64)
        zigzag = (difference.astype(np.uint64) << np.uint64(1)) ^ (difference >> 63).astype(
            np.uint64
        )
        return self._add(zigzag, signed=True)

    def add_text(self, text: str) -> Place:
        """Pack a text in UTF-8."""
        data = text.encode()
        return self._put(data, width=1, count=len(data), signed=False)

    def _add(self, values: U64, *, signed: bool) -> Place:
        most = int(values.max()) if len(values) else 0
        if most >= _LARGEST:
            raise ValueError(f"{most:#x} is no exact number in a page")
        width = max((most.bit_length() + 7) // 8, 1)
        planes = values.astype("<u8").view(np.uint8).reshape(len(values), 8)[:, :width]
        return self._put(planes.T.tobytes(), width=width, count=len(values), signed=signed)

    def _put(self, data: bytes, *, width: int, count: int, signed: bool) -> Place:
        place = Place(at=self._size, width=width, count=count, signed=signed)
        self._parts.append(data)
        self._size += len(data)
        return place

    def text(self) -> str:
        """Return everything that was packed: raw deflate in base64."""
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = [packer.compress(part) for part in self._parts]
        return b64encode(b"".join([*packed, packer.flush()])).decode()
