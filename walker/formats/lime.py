"""LiME images: physical memory in ranges, each behind a header of 32 bytes.

The header, in little-endian order (LiME's doc/README.md, "Spec", `lime_mem_range_header`):

    uint32 magic 0x4C694D45, uint32 version (1), uint64 first address, uint64 last address,
    8 bytes reserved

The range's bytes follow it, as many as from the first address to the last, that one included.
LiME's other formats, padded and raw, have no headers: they are raw images.
"""

from mmap import mmap

import numpy as np

from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.formats.elfheaders import MAX_SEGMENTS
from crosswalk.walker.formats.ranged import HEADER_BYTES, RangedFormat
from crosswalk.walker.memory import Segments

__all__ = ["LIME_MAGIC", "MAX_RANGES", "read_lime"]

LIME_MAGIC = b"EMiL"
"""The magic as it stands in the file."""

MAX_RANGES = MAX_SEGMENTS
"""The most ranges an image may have: as many as an ELF core."""

_FORMAT = RangedFormat("a LiME image", LIME_MAGIC, version=1, part="range")


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
        at += HEADER_BYTES
        parts.append((first, at, size))
        at += size
    parts.sort()
    _FORMAT.reject_overlaps((first, size) for first, _, size in parts)
    whole = np.frombuffer(data, np.uint8)
    return Segments((first, whole[at : at + size]) for first, at, size in parts)


def _range_at(data: mmap | bytes, at: int) -> tuple[int, int]:
    """Return the address and the size of the range whose header is at this byte."""
    first, size = _FORMAT.range_at(data, at)
    end = at + HEADER_BYTES + size
    if end > len(data):
        raise BadInput(
            f"truncated LiME image: the range {first:#x}–{first + size - 1:#x} ends at byte "
            f"{end:,}, the file at {len(data):,}"
        )
    return first, size
