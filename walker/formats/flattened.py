"""makedumpfile's flattened form of a file: pieces of it, each with the place where it belongs.

It is what `makedumpfile -F` writes to a pipe, and QEMU's `dump-guest-memory -z` to a file. After a
header of 4 KiB, in big-endian order (makedumpfile's makedumpfile.h, `makedumpfile_header` and
`makedumpfile_data_header`):

    int64 offset, int64 size, the bytes that belong there; the last piece has -1 for both

A later piece takes the place of an earlier one.
"""

import heapq
import struct
from itertools import pairwise
from mmap import mmap

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.errors import BadInput, LimitExceeded

__all__ = ["FLATTENED", "MAX_PIECES", "Flattened"]

FLATTENED = b"makedumpfile\0"
"""What a flattened file begins with."""

MAX_PIECES = 1 << 22
"""The most pieces a file may have; QEMU writes one for every 16 KiB."""

_BLOCK = 4096
_PIECE = struct.Struct(">qq")
_LARGEST = 1 << 62


class Flattened:
    """The bytes that a flattened file stands for, read where they are; its length is theirs.

    Raises `BadInput` for a piece that is none or that the file doesn't hold as a whole, and
    `LimitExceeded` beyond `MAX_PIECES`.
    """

    def __init__(self, data: mmap) -> None:
        self._data = data
        starts, ends, places = _disjoint(_pieces(data))
        self._starts, self._ends, self._places = starts, ends, places
        self._end = int(ends[-1]) if len(ends) else 0

    def __len__(self) -> int:
        return self._end

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`, zeros where no piece is; `BadInput` past the end."""
        if offset + size > self._end:
            raise BadInput(f"no byte {offset + size - 1:,} in a file of {self._end:,} bytes")
        at = int(np.searchsorted(self._ends, offset, side="right"))
        found, here = [], offset
        while here < offset + size:
            start = int(self._starts[at])
            if start > here:
                found.append(bytes(min(start, offset + size) - here))
                here += len(found[-1])
                continue
            place = int(self._places[at]) + here - start
            found.append(self._data[place : place + min(int(self._ends[at]), offset + size) - here])
            here += len(found[-1])
            at += 1
        return b"".join(found)


def _pieces(data: mmap) -> NDArray[np.int64]:
    """Return the offset, the size and the place in the file of each piece, int64[n, 3]."""
    if data[: len(FLATTENED)] != FLATTENED:
        raise BadInput("not a flattened file")
    found: list[tuple[int, int, int]] = []
    at = _BLOCK
    while True:
        if at + _PIECE.size > len(data):
            raise BadInput(f"truncated flattened file: it ends at byte {len(data):,}")
        offset, size = _PIECE.unpack_from(data, at)
        if offset == size == -1:
            return np.array(found, np.int64).reshape(-1, 3)
        at += _PIECE.size
        if offset < 0 or size < 0 or offset + size > _LARGEST:
            raise BadInput(f"damaged flattened file: no piece at byte {at - _PIECE.size:,}")
        if at + size > len(data):
            raise BadInput(
                f"truncated flattened file: a piece ends at byte {at + size:,}, "
                f"the file at {len(data):,}"
            )
        if len(found) == MAX_PIECES:
            raise LimitExceeded(f"flattened file: more than {MAX_PIECES:,} pieces")
        found.append((offset, size, at))
        at += size


def _disjoint(
    pieces: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return starts, ends and places of pieces in their order, later ones over earlier ones."""
    order = np.argsort(pieces[:, 0], kind="stable")
    starts, places = pieces[order, 0], pieces[order, 2]
    ends = starts + pieces[order, 1]
    if not (ends[:-1] > starts[1:]).any():
        return starts, ends, places
    found: list[tuple[int, int, int]] = []
    reach: list[tuple[int, int]] = []  # A heap of pieces that have begun: (-number, end).
    bounds = np.unique(np.concatenate([starts, ends])).tolist()
    begins = iter([*zip(starts.tolist(), order.tolist(), strict=True), (bounds[-1] + 1, 0)])
    following = next(begins)
    for here, there in pairwise(bounds):
        while following[0] == here:
            number = following[1]
            heapq.heappush(reach, (-number, int(pieces[number, 0] + pieces[number, 1])))
            following = next(begins)
        while reach and reach[0][1] <= here:
            heapq.heappop(reach)
        if reach:
            offset, _, place = pieces[-reach[0][0]].tolist()
            found.append((here, there, place + here - offset))
    columns = np.array(found, np.int64).reshape(-1, 3)
    return columns[:, 0], columns[:, 1], columns[:, 2]
