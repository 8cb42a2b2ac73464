"""Xen's start info: arguments, modules and a map of memory, in one structure.

Source: Xen public/arch-x86/hvm/start_info.h, hvm_start_info version 1.
"""

import struct

from crosswalk.emu.load.handed import HandedOn, as_text
from crosswalk.emu.load.image import GuestImage
from crosswalk.emu.load.placing import place_modules
from crosswalk.emu.load.surroundings import Surroundings
from crosswalk.emu.pc.firmware import RSDP

__all__ = ["add_start_info"]

_MAGIC, _VERSION = 0x336EC578, 1
_INFO = struct.Struct("<IIIIQQQQII")
_MODULE = struct.Struct("<QQQQ")
_MAP_ENTRY = struct.Struct("<QQII")
_USABLE, _RESERVED = 1, 2  # As in an e820 map.


def add_start_info(around: Surroundings, handed: HandedOn, image: GuestImage) -> int:
    """Place the modules and the start info; return its address. `BadInput` as `Placement`."""
    placement = around.placement
    places = place_modules(placement, handed.modules, image)
    rows = b"".join(
        _MODULE.pack(at, size, as_text(placement, each.text, "a module's text"), 0)
        for each, (at, size) in zip(handed.modules, places, strict=True)
    )
    entries = b"".join(
        _MAP_ENTRY.pack(start, size, _USABLE if usable else _RESERVED, 0)
        for start, size, usable in around.ranges
    )
    info = _INFO.pack(
        *(_MAGIC, _VERSION, 0, len(places)),
        placement.add(rows, "modules") if rows else 0,
        as_text(placement, handed.arguments, "the command line"),
        RSDP,
        placement.add(entries, "the memory map"),
        *(len(around.ranges), 0),
    )
    return placement.add(info, "the start info")
