"""The zero page, with which a boot loader tells a kernel what it has done.

Source: Linux Documentation/arch/x86/boot.rst and zero-page.rst.
"""

import struct

from crosswalk.emu.load.linux.image import HEADER_AT
from crosswalk.walker.memory import FRAME

__all__ = ["RESERVED", "USABLE", "zero_page"]

USABLE, RESERVED = 1, 2
"""Types of an e820 range."""

_E820_COUNT, _E820_TABLE, _E820_ENTRY = 0x1E8, 0x2D0, struct.Struct("<QQI")
_BOOT_FLAG, _MAGIC, _VERSION = 0x1FE, 0x202, 0x206
_LOADER_TYPE, _LOAD_FLAGS = 0x210, 0x211
_INITRD, _COMMAND_LINE = 0x218, 0x228
_UNKNOWN_LOADER = 0xFF
_LOADED_HIGH = 0x01
_PROTOCOL = 0x020F


def zero_page(
    setup_header: bytes,
    *,
    command_line: int,
    initrd: tuple[int, int],
    ranges: list[tuple[int, int, int]],
) -> bytes:
    """Return the zero page, of one frame.

    `setup_header` is that of the image, or none: then a header of protocol 2.15 is made up.
    `command_line` is the physical address of the arguments, ending in a zero byte; `initrd` is
    the (address, size) of the initial RAM disk, a size of 0 for none; `ranges` are the e820
    map as (start, size, type).
    """
    page = bytearray(FRAME)
    page[HEADER_AT : HEADER_AT + len(setup_header)] = setup_header
    if not setup_header:
        struct.pack_into("<H", page, _BOOT_FLAG, 0xAA55)
        page[_MAGIC : _MAGIC + 4] = b"HdrS"
        struct.pack_into("<H", page, _VERSION, _PROTOCOL)
    page[_LOADER_TYPE] = _UNKNOWN_LOADER
    page[_LOAD_FLAGS] |= _LOADED_HIGH
    struct.pack_into("<II", page, _INITRD, *initrd)
    struct.pack_into("<I", page, _COMMAND_LINE, command_line)
    page[_E820_COUNT] = len(ranges)
    for number, each in enumerate(ranges):
        _E820_ENTRY.pack_into(page, _E820_TABLE + number * _E820_ENTRY.size, *each)
    return bytes(page)
