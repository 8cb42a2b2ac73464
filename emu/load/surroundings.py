"""What every guest but Linux finds in memory beside itself: descriptors, and what is usable."""

import struct
from dataclasses import dataclass

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.image import GuestImage
from crosswalk.emu.load.placing import Placement
from crosswalk.emu.pc.firmware import RSDP, memory_ranges, write_firmware
from crosswalk.walker.architecture import PAGE_BYTES
from crosswalk.walker.errors import BadInput

__all__ = ["CODE16", "CODE32", "CODE64", "DATA", "Range", "Surroundings", "prepare_memory"]

Range = tuple[int, int, bool]
"""A range of physical memory: start, size, and whether it is usable."""

CODE32, DATA, CODE64, CODE16 = 0x10, 0x18, 0x20, 0x28
"""Selectors in the global descriptor table: those of code and data are what GRUB's are."""

_DESCRIPTORS = (
    0,
    0,
    0x00CF_9B00_0000_FFFF,
    0x00CF_9300_0000_FFFF,
    0x00AF_9B00_0000_FFFF,
    0x000F_9B00_0000_FFFF,
)
_RSDP_BYTES = 36


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Memory to place a guest in, the map of it that the guest is told, and what lies there.

    `gdt` and `gdt_limit` are the table of the selectors above; `rsdp` is the content of
    ACPI's root pointer.
    """

    placement: Placement
    ranges: tuple[Range, ...]
    gdt: int
    rsdp: bytes
    gdt_limit: int = 8 * len(_DESCRIPTORS) - 1


def prepare_memory(ram: Ram, image: GuestImage) -> Surroundings:
    """Write the firmware's tables to RAM, place a guest, and return its surroundings.

    Raises `BadInput` as `Placement.put`, and for an entry that lies outside of the guest.
    """
    if not any(start <= image.entry < start + size for start, _, size in image.segments):
        raise BadInput(f"the entry {image.entry:#x} lies in none of the guest's segments")
    write_firmware(ram)
    ranges = tuple(memory_ranges(ram.size))
    # The first frame has the vectors and the data of the firmware.
    usable = [
        (max(start, PAGE_BYTES), start + size - max(start, PAGE_BYTES))
        for start, size, usable in ranges
        if usable
    ]
    placement = Placement(usable)
    placement.put_image(image)
    gdt = placement.add(struct.pack(f"<{len(_DESCRIPTORS)}Q", *_DESCRIPTORS), "descriptors")
    return Surroundings(placement, ranges, gdt, rsdp=ram.read(RSDP, _RSDP_BYTES))
