"""Placing a kernel in RAM, and what the CPU has to be at its 64-bit or 32-bit entry.

Source: Linux Documentation/arch/x86/boot.rst, "64-bit boot protocol" (long mode, identity mapped)
and "32-bit boot protocol" (protected mode, unpaged; EBP, EDI and EBX are 0): flat segments 0x10 and
0x18, interrupts off, RSI at the zero page.
"""

import struct
from itertools import count

from unicorn import x86_const as x86

from crosswalk.emu.cpu.cpu import GENERAL
from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.boot_tables import LOW_4_GIB, BootTables
from crosswalk.emu.load.linux.image import HEADER_AT, KernelImage
from crosswalk.emu.pc.pc import Machine
from crosswalk.walker.architecture import CR0, CR4, EFER
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME

__all__ = [
    "GDT",
    "GDT_LIMIT",
    "RESERVED",
    "USABLE",
    "ZERO_PAGE",
    "enter_kernel",
    "enter_kernel_32",
    "place_kernel",
    "prepare_entry",
    "zero_page",
]

USABLE, RESERVED = 1, 2
"""Types of an e820 range."""

_E820_COUNT, _E820_TABLE, _E820_ENTRY = 0x1E8, 0x2D0, struct.Struct("<QQI")
_BOOT_FLAG, _MAGIC, _VERSION = 0x1FE, 0x202, 0x206
_LOADER_TYPE, _LOAD_FLAGS = 0x210, 0x211
_INITRD, _COMMAND_LINE = 0x218, 0x228
_UNKNOWN_LOADER = 0xFF
_LOADED_HIGH = 0x01
_PROTOCOL = 0x020F

# Below 640 KiB, which the kernel uses only after it has left these tables.
GDT, ZERO_PAGE = 0x1000, 0x2000
"""Where a kernel finds its descriptors (code 0x10, data 0x18), and the zero page: RSI."""
_ARGUMENTS, _TABLES = 0x3000, 0x10000
_LOW_END, _HIGH = 0x9_F000, 0x10_0000
_MAX_ARGUMENTS = 2047  # Linux keeps 2048 bytes of them, the last one being 0.
_CODE, _DATA = 0x10, 0x18
_CODE_64, _CODE_32 = 0x00AF_9B00_0000_FFFF, 0x00CF_9B00_0000_FFFF
_FLAT_DATA = 0x00CF_9300_0000_FFFF
GDT_LIMIT = 4 * 8 - 1


def place_kernel(ram: Ram, kernel: KernelImage, arguments: str, initrd: bytes) -> None:
    """Write the kernel, its arguments, the zero page and the initial RAM disk to RAM.

    Raises `BadInput` where something doesn't fit; the message has what, and the size needed.
    """
    text = arguments.encode("utf-8", "surrogateescape")
    if len(text) > _MAX_ARGUMENTS or b"\0" in text:
        raise BadInput(f"kernel arguments of {len(text)} bytes; at most {_MAX_ARGUMENTS}, no zeros")
    top = (min(ram.size, kernel.initrd_end) - len(initrd)) // FRAME * FRAME
    if kernel.end > top:
        raise BadInput(
            f"kernel and initial RAM disk don't fit: the kernel ends at {kernel.end:#x}, the disk "
            f"has {len(initrd):,} bytes, RAM {ram.size >> 20} MiB (--ram)"
        )
    for start, content, _ in kernel.segments:
        if start < _HIGH:
            raise BadInput(f"not a kernel: a segment at {start:#x}, below 1 MiB")
        ram.write(start, content)
    ram.write(top, initrd)
    ram.write(_ARGUMENTS, text + b"\0")
    ranges = [(0, _LOW_END, USABLE), (_HIGH, ram.size - _HIGH, USABLE)]
    place = (top if initrd else 0, len(initrd))
    page = zero_page(kernel.setup_header, command_line=_ARGUMENTS, initrd=place, ranges=ranges)
    ram.write(ZERO_PAGE, page)


def prepare_entry(ram: Ram, levels: int) -> PagingContext:
    """Write the tables and descriptors of the 64-bit entry to RAM; return the registers for them.

    The first 4 GiB are mapped to themselves, by paging of 4 or 5 levels.
    """
    root = _write_tables(ram, levels)
    _write_descriptors(ram, _CODE_64)
    return PagingContext(
        cr0=CR0.PG | CR0.ET | CR0.PE,
        cr3=root,
        cr4=CR4.PAE | (CR4.LA57 if levels == 5 else 0),
        efer=EFER.LME | EFER.LMA,
    )


def enter_kernel(machine: Machine, entry: int, levels: int) -> None:
    """Bring the CPU to the 64-bit entry, with paging of 4 or 5 levels on."""
    context = prepare_entry(machine.ram, levels)
    machine.cpu.set_mode(
        64,
        cr0=context.cr0,
        cr3=context.cr3,
        cr4=context.cr4,
        efer=context.efer,
        code=_CODE,
        data=_DATA,
    )
    _go_to(machine, entry)


def enter_kernel_32(machine: Machine, entry: int) -> None:
    """Bring the CPU to the 32-bit entry, without paging."""
    _write_descriptors(machine.ram, _CODE_32)
    machine.cpu.set_mode(32, cr0=CR0.ET | CR0.PE, code=_CODE, data=_DATA)
    _go_to(machine, entry)


def _write_descriptors(ram: Ram, code: int) -> None:
    ram.write(GDT, struct.pack("<4Q", 0, 0, code, _FLAT_DATA))


def _go_to(machine: Machine, entry: int) -> None:
    machine.engine.reg_write(x86.UC_X86_REG_GDTR, (0, GDT, GDT_LIMIT, 0))
    cpu = machine.cpu
    with cpu.changed():
        for name in ("rbp", "rdi", "rbx"):
            cpu.set_general(GENERAL.index(name), 0)
        cpu.set_general(GENERAL.index("rsi"), ZERO_PAGE)
        cpu.rip = entry


def zero_page(
    setup_header: bytes,
    *,
    command_line: int,
    initrd: tuple[int, int],
    ranges: list[tuple[int, int, int]],
) -> bytes:
    """Return the zero page, of one frame.

    `setup_header` is the image's, or empty: then a header of protocol 2.15 is made.
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


def _write_tables(ram: Ram, levels: int) -> int:
    """Map the first GiBs to themselves, in pages of 2 MiB; return the root's address."""
    tables = BootTables(levels, count(_TABLES, FRAME).__next__)
    tables.map([LOW_4_GIB])
    for at, content in tables.frames().items():
        ram.write(at, content)
    return tables.root
