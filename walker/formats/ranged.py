"""What LiME and AVML images have in common: parts of memory, each behind a header of 32 bytes."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from mmap import mmap

from crosswalk.walker.errors import BadInput

__all__ = ["HEADER_BYTES", "RangedFormat"]

_HEADER = struct.Struct("<4sIQQQ")
HEADER_BYTES = _HEADER.size

_PHYSICAL_BITS = 52


@dataclass(frozen=True, slots=True)
class RangedFormat:
    """A format whose parts have headers: magic, version, first and last address, 8 bytes more.

    `name` is its name in words, "a LiME image", and `part` what a part is called. `padded` says
    that the last 8 bytes are zeros.
    """

    name: str
    magic: bytes
    version: int
    part: str
    padded: bool = False

    @property
    def what(self) -> str:
        """The name without an article."""
        return self.name.partition(" ")[2]

    def range_at(self, data: mmap | bytes, at: int) -> tuple[int, int]:
        """Return the address and the size in bytes of the part whose header is at this byte.

        Raises `BadInput` in one line that names the byte: for a header that is cut off, none, or
        of another version, and for a part that ends before it begins or beyond 52 bits.
        """
        if at + HEADER_BYTES > len(data):
            raise BadInput(
                f"truncated {self.what}: the header at byte {at:,} takes {HEADER_BYTES} bytes, "
                f"and the file ends at {len(data):,}"
            )
        magic, version, first, last, padding = _HEADER.unpack_from(data, at)
        if magic != self.magic or (self.padded and version == self.version and padding):
            none = f"damaged {self.what}: no header of a {self.part}"
            raise BadInput(f"{none if at else f'not {self.name}: no header'} at byte {at:,}")
        if version != self.version:
            raise BadInput(
                f"{self.what}: version {version} at byte {at:,}; version {self.version} is known"
            )
        if last < first:
            raise BadInput(
                f"damaged {self.what}: the {self.part} at byte {at:,} goes from {first:#x} to "
                f"{last:#x}"
            )
        if last >= 1 << _PHYSICAL_BITS:
            raise BadInput(
                f"{self.what}: the {self.part} at byte {at:,} ends at {last:#x}, beyond "
                f"{_PHYSICAL_BITS} bits"
            )
        return first, last + 1 - first

    def reject_overlaps(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Raise `BadInput` where parts overlap; they are (address, size), in any order."""
        end = 0
        for first, size in sorted(ranges):
            if first < end:
                raise BadInput(f"{self.what}: {self.part}s overlap at {first:#x}")
            end = first + size
