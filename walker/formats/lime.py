"""LiME images: physical memory in ranges, each behind a header of 32 bytes.

The header, in little-endian order (LiME's doc/README.md, "Spec", `lime_mem_range_header`):

    uint32 magic 0x4C694D45, uint32 version (1), uint64 first address, uint64 last address,
    8 bytes reserved

The range's bytes follow it, as many as from the first address to the last, that one included.
LiME's other formats, padded and raw, have no headers: they are raw images.
"""

import struct
from mmap import mmap

import numpy as np

from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.formats.elfheaders import MAX_SEGMENTS
from crosswalk.walker.memory import Segments

__all__ = ["LIME_MAGIC", "MAX_RANGES", "read_lime"]

LIME_MAGIC = b"EMiL"
"""The magic as it stands in the file."""

MAX_RANGES = MAX_SEGMENTS
"""The most ranges an image may have: as many as an ELF core."""

_HEADER = struct.Struct("<4sIQQ8x")
_VERSION = 1
_PHYSICAL_BITS = 52


def read_lime(data: mmap | bytes) -> Segments:
    """Return the physical memory of a LiME image, without a copy.

    Ranges may come in any order. Raises `BadInput` in one line that names the byte where it is:
    for a header that is none or of another version, a range that ends before it begins, that goes
    beyond 52 bits or that the file doesn't hold as a whole, and ranges that overlap;
    `LimitExceeded` beyond `MAX_RANGES`.
    """
    at, parts = 0, list[tuple[int, int, int]]()
    while at < len(data):
        if len(parts) == MAX_RANGES:
            raise LimitExceeded(f"LiME image: more than {MAX_RANGES:,} ranges: it isn't read")
        first, size = _range_at(data, at)
        at += _HEADER.size
        parts.append((first, at, size))
        at += size
    parts.sort()
    _reject_overlaps(parts)
    whole = np.frombuffer(data, np.uint8)
    return Segments((first, whole[at : at + size]) for first, at, size in parts)


def _range_at(data: mmap | bytes, at: int) -> tuple[int, int]:
    """Return the address and the size of the range whose header is at this byte."""
    if at + _HEADER.size > len(data):
        raise BadInput(
            f"truncated LiME image: the header at byte {at:,} takes {_HEADER.size} bytes, "
            f"and the file ends at {len(data):,}"
        )
    magic, version, first, last = _HEADER.unpack_from(data, at)
    if magic != LIME_MAGIC:
        what = "damaged LiME image: no header of a range" if at else "not a LiME image: no header"
        raise BadInput(f"{what} at byte {at:,}")
    if version != _VERSION:
        raise BadInput(f"LiME image: version {version} at byte {at:,}; version {_VERSION} is known")
    if last < first:
        raise BadInput(
            f"damaged LiME image: the range at byte {at:,} goes from {first:#x} to {last:#x}"
        )
    if last >= 1 << _PHYSICAL_BITS:
        raise BadInput(
            f"LiME image: the range at byte {at:,} ends at {last:#x}, beyond {_PHYSICAL_BITS} bits"
        )
    size = last + 1 - first
    begins = at + _HEADER.size
    if begins + size > len(data):
        raise BadInput(
            f"truncated LiME image: the range {first:#x}–{last:#x} ends at byte {begins + size:,}, "
            f"the file at {len(data):,}"
        )
    return first, size


def _reject_overlaps(parts: list[tuple[int, int, int]]) -> None:
    end = 0
    for first, _, size in parts:
        if first < end:
            raise BadInput(f"LiME image: ranges overlap at {first:#x}")
        end = first + size
