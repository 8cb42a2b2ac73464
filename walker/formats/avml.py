"""AVML images: physical memory in blocks, each behind a header as LiME's and packed by Snappy.

The header, in little-endian order (Microsoft's AVML, src/image.rs, `Header`):

    uint32 magic 0x4C4D5641, uint32 version (2), uint64 first address, uint64 last address,
    uint64 padding (0)

After it come a stream in Snappy's framing format (google/snappy, framing_format.txt), and a uint64
with that stream's length. Blocks of zeros aren't written. `avml --no-compress` writes LiME images.
"""

import struct
from array import array
from functools import lru_cache
from mmap import mmap
from typing import Any

import numpy as np

from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.fetched import FetchedMemory
from crosswalk.walker.formats.extras import required
from crosswalk.walker.formats.files import MappedFile
from crosswalk.walker.formats.located_errors import errors_named, one_line
from crosswalk.walker.formats.ranged import HEADER_BYTES, RangedFormat
from crosswalk.walker.memory import FRAME, U64, WORDS

__all__ = ["AVML_MAGIC", "MAX_CHUNKS", "read_avml"]

AVML_MAGIC = b"AVML"
"""The magic as it stands in the file."""

MAX_CHUNKS = 1 << 24
"""The most chunks of Snappy's that an image may have: 1 TiB."""

_WHAT = "AVML image"
_FORMAT = RangedFormat("an AVML image", AVML_MAGIC, version=2, part="block", padded=True)
_STREAM = b"\xff\x06\0\0sNaPpY"
_PLAIN, _SKIPPED = 0x01, 0x80  # Chunks of type 0 are packed.
_CHECKSUM = 4
_LARGEST = 1 << 16  # What a chunk may stand for, in bytes.
_LENGTH = struct.Struct("<Q")
_KEPT = 64


def read_avml(file: MappedFile) -> FetchedMemory:
    """Return the physical memory of an AVML image: chunks are unpacked when they are asked for.

    What isn't in the file isn't backed: whether it was zeros or no RAM can't be told. Raises
    `BadInput` in one line that names the byte where it is, for a header or a chunk that is none, a
    file that is cut off and blocks that overlap, or where cramjam isn't installed, and
    `LimitExceeded` beyond `MAX_CHUNKS`; for a chunk whose checksum is wrong when it is read.
    """
    snappy = required("cramjam", "kdump", _WHAT)
    data = file.data
    index = _Index(data)
    at, ranges = 0, list[tuple[int, int]]()
    while at < len(data):
        first, size = _FORMAT.range_at(data, at)
        ranges.append((first, size))
        at = index.block(at + HEADER_BYTES, first, size)
    _FORMAT.reject_overlaps(ranges)
    starts, places = (np.frombuffer(each, np.uint64) for each in (index.starts, index.places))
    order = np.argsort(starts, kind="stable")
    return FetchedMemory(ranges, _Chunks(file, starts[order], places[order], snappy).fetch)


class _Index:
    """Where the chunks of a file are: the physical address, and the place in the file, of each."""

    def __init__(self, data: mmap) -> None:
        self.starts, self.places = array("Q"), array("Q")
        self._data = data
        self._seen = 0

    def block(self, begin: int, first: int, size: int) -> int:
        """Note the chunks of the stream that begins at a byte; return where the next block is."""
        data, at, done = self._data, begin, 0
        while done < size:
            self._seen += 1
            if self._seen > MAX_CHUNKS:
                raise LimitExceeded(f"{_WHAT}: more than {MAX_CHUNKS:,} chunks; no more are read")
            kind, length = _chunk_at(data, at)
            if kind <= _PLAIN:
                self.starts.append(first + done)
                self.places.append(at)
                done += _stands_for(data, at, kind, length)
            at += 4 + length
        if done > size:
            raise BadInput(f"damaged {_WHAT}: the block before byte {at:,} has more than it says")
        if at + _LENGTH.size > len(data):
            raise _cut(at, data)
        if _LENGTH.unpack_from(data, at)[0] != at - begin:
            raise BadInput(f"damaged {_WHAT}: no end of a block at byte {at:,}")
        return at + _LENGTH.size


def _chunk_at(data: mmap, at: int) -> tuple[int, int]:
    """Return the type and the length of the chunk at a byte; `BadInput` where there is none."""
    if at + 4 > len(data):
        raise _cut(at, data)
    kind, length = data[at], int.from_bytes(data[at + 1 : at + 4], "little")
    if at + 4 + length > len(data):
        raise _cut(at, data)
    # Of the others, some are to be passed over: the stream's identifier, and padding.
    if _PLAIN < kind < _SKIPPED or (kind <= _PLAIN and length <= _CHECKSUM):
        raise BadInput(f"damaged {_WHAT}: no chunk at byte {at:,}")
    return kind, length


def _stands_for(data: mmap, at: int, kind: int, length: int) -> int:
    """Return of how many bytes of memory a chunk is; `BadInput` for more than there may be."""
    if kind == _PLAIN:
        size = length - _CHECKSUM
    else:
        size, shift = 0, 0
        for byte in data[at + 4 + _CHECKSUM : at + 4 + min(length, _CHECKSUM + 5)]:
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
    if not 0 < size <= _LARGEST:
        raise BadInput(f"damaged {_WHAT}: the chunk at byte {at:,} is of {size:,} bytes")
    return size


def _cut(at: int, data: mmap) -> BadInput:
    return BadInput(f"truncated {_WHAT}: what begins at byte {at:,} ends after byte {len(data):,}")


class _Chunks:
    """The chunks of a file: `starts` are their physical addresses, ascending."""

    def __init__(self, file: MappedFile, starts: U64, places: U64, snappy: Any) -> None:
        self._name, self._data = file.name, file.data
        self._starts, self._places, self._snappy = starts, places, snappy
        self._unpacked = lru_cache(maxsize=_KEPT)(self._unpack)

    def fetch(self, frames: U64) -> U64:
        """Return the words of frames that are backed; a frame may be of several chunks."""
        found = bytearray(len(frames) * FRAME)
        first = np.searchsorted(self._starts, frames, side="right") - 1
        for row, (pa, number) in enumerate(zip(frames.tolist(), first.tolist(), strict=True)):
            done, at = 0, number
            while done < FRAME:
                skipped = pa + done - int(self._starts[at])
                with errors_named(self._name):
                    part = self._unpacked(at)[skipped : skipped + FRAME - done]
                begin = row * FRAME + done
                found[begin : begin + len(part)] = part
                done += len(part)
                at += 1
        return np.frombuffer(found, np.uint64).reshape(-1, WORDS)

    def _unpack(self, number: int) -> bytes:
        at = int(self._places[number])
        kind, length = _chunk_at(self._data, at)
        size = _stands_for(self._data, at, kind, length)
        found = bytearray(size)
        try:
            written = self._snappy.snappy.decompress_into(
                _STREAM + self._data[at : at + 4 + length], found
            )
        except self._snappy.DecompressionError as error:
            raise BadInput(
                f"damaged {_WHAT}: the chunk at byte {at:,}: {one_line(str(error))}"
            ) from None
        if written != size:
            raise BadInput(f"damaged {_WHAT}: the chunk at byte {at:,} is of {written:,} bytes")
        return bytes(found)
