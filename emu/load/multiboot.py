"""Guests of the Multiboot Specification, version 0.6.96: what GRUB's command `multiboot` loads.

Source: Multiboot Specification, "OS image format", "Machine state", "Boot information format".
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.elf import ElfGuest, read_elf_guest
from crosswalk.emu.load.elf_sections import load_sections
from crosswalk.emu.load.entering import Entry, enter_flat
from crosswalk.emu.load.handed import LOADER, HandedOn, as_text, memory_sizes
from crosswalk.emu.load.image import Format, GuestImage
from crosswalk.emu.load.placing import place_modules
from crosswalk.emu.load.surroundings import Range, Surroundings, prepare_memory
from crosswalk.emu.pc.pc import Machine
from crosswalk.walker.errors import BadInput
from crosswalk.walker.symbols.elf import ELF

__all__ = [
    "TEXT_SCREEN",
    "MultibootGuest",
    "MultibootHeader",
    "find_multiboot",
    "image_by_addresses",
    "open_multiboot",
]

_MAGIC, _LOADED = 0x1BADB002, 0x2BADB002
_SEARCHED = 8192
_HEADER, _ADDRESSES = struct.Struct("<III"), struct.Struct("<IIIII")
_VIDEO, _HAS_ADDRESSES = 1 << 2, 1 << 16  # Of the header's flags.
_MANDATORY, _KNOWN = 0xFFFF, 0x0007  # A loader refuses what it doesn't know of the lower half.

_INFORMATION_SIZE = 120
# Flags of the information: which of its fields are valid.
_MEMORY, _COMMAND_LINE, _MODULES, _SECTIONS = 1 << 0, 1 << 2, 1 << 3, 1 << 5
_MAP, _LOADER_NAME, _FRAMEBUFFER = 1 << 6, 1 << 9, 1 << 12
_SECTIONS_AT, _MAP_AT, _LOADER_AT, _FRAMEBUFFER_AT = 28, 44, 64, 88
_MAP_ENTRY, _MODULE = struct.Struct("<IQQI"), struct.Struct("<IIII")
_USABLE, _RESERVED = 1, 2

TEXT_SCREEN = struct.pack("<QIIIBB", 0xB8000, 160, 80, 25, 16, 2)
"""The text screen of a PC: address, bytes a line, columns, lines, bits a character, type."""


@dataclass(frozen=True, slots=True)
class MultibootHeader:
    """A header: its offset in the file, its flags, and addresses that replace those of the format.

    `addresses` are header_addr, load_addr, load_end_addr, bss_end_addr and entry_addr, or nothing.
    """

    at: int
    flags: int
    addresses: tuple[int, ...] = ()


@dataclass(slots=True)
class MultibootGuest:
    """A guest of this format; a `Guest`. `elf` is its file, or None for one with addresses."""

    header: MultibootHeader
    image: GuestImage
    elf: ElfGuest | None
    handed: HandedOn
    format: Format = Format.MULTIBOOT
    _entry: Entry = field(init=False)

    def place(self, ram: Ram) -> None:
        """Write it to RAM, with its modules and the boot information; `BadInput` as `Placement`."""
        around = prepare_memory(ram, self.image)
        placement = around.placement
        at = placement.allocate(_INFORMATION_SIZE, "the boot information")
        placement.fill(at, self._information(around))
        placement.write(ram)
        self._entry = Entry(self.image.entry, around, {"rax": _LOADED, "rbx": at})

    def enter(self, machine: Machine) -> None:
        """Bring the CPU to the entry: flat 32-bit code without paging, EAX and EBX as specified."""
        enter_flat(machine, self._entry)

    def _information(self, around: Surroundings) -> bytes:
        placement, handed = around.placement, self.handed
        info = bytearray(_INFORMATION_SIZE)
        flags = _MEMORY | _COMMAND_LINE | _MODULES | _MAP | _LOADER_NAME
        struct.pack_into("<II", info, 4, *memory_sizes(around.ranges))
        line = as_text(placement, handed.command_line, "the command line")
        places = place_modules(placement, handed.modules, self.image)
        rows = b"".join(
            _MODULE.pack(at, at + size, as_text(placement, each.text, "a module's text"), 0)
            for each, (at, size) in zip(handed.modules, places, strict=True)
        )
        struct.pack_into("<III", info, 16, line, len(places), placement.add(rows, "modules"))
        if self.elf is not None:
            floor = max([self.image.end, *(at + size for at, size in places)])
            sections = load_sections(placement, self.elf, floor)
            if sections is not None:
                table = placement.add(sections.table, "the section headers")
                fields = (sections.count, sections.entry_size, table, sections.names)
                struct.pack_into("<IIII", info, _SECTIONS_AT, *fields)
                flags |= _SECTIONS
        memory_map = _memory_map(around.ranges)
        at = placement.add(memory_map, "the memory map")
        struct.pack_into("<II", info, _MAP_AT, len(memory_map), at)
        struct.pack_into("<I", info, _LOADER_AT, as_text(placement, LOADER, "the loader's name"))
        if self.header.flags & _VIDEO:
            info[_FRAMEBUFFER_AT : _FRAMEBUFFER_AT + len(TEXT_SCREEN)] = TEXT_SCREEN
            flags |= _FRAMEBUFFER
        struct.pack_into("<I", info, 0, flags)
        return bytes(info)


def find_multiboot(data: bytes) -> MultibootHeader | None:
    """Return the first header in the first 8 KiB of a file, whose sum is right, or None.

    Raises `BadInput` for one that ends with the file, or behind the 8 KiB.
    """
    head = data[:_SEARCHED]
    for at in range(0, len(head) - _HEADER.size + 1, 4):
        magic, flags, checksum = _HEADER.unpack_from(head, at)
        if magic == _MAGIC and (magic + flags + checksum) & 0xFFFF_FFFF == 0:
            return MultibootHeader(at, flags, _addresses(head, at, flags))
    return None


def _addresses(head: bytes, at: int, flags: int) -> tuple[int, ...]:
    if not flags & _HAS_ADDRESSES:
        return ()
    start = at + _HEADER.size
    if start + _ADDRESSES.size > len(head):
        raise BadInput("a truncated Multiboot header: it ends in its addresses")
    return _ADDRESSES.unpack_from(head, start)


def open_multiboot(data: bytes, handed: HandedOn) -> MultibootGuest:
    """Return the guest in a file.

    Raises `BadInput` for one without a header, with a demand that isn't known, with addresses that
    contradict each other or the file, and for a damaged ELF file.
    """
    header = find_multiboot(data)
    if header is None:
        raise BadInput("no Multiboot header in the first 8 KiB")
    if unknown := header.flags & _MANDATORY & ~_KNOWN:
        raise BadInput(f"a Multiboot header that demands what isn't known: flags {unknown:#x}")
    if header.addresses:
        return MultibootGuest(header, _by_addresses(data, header), None, handed)
    if not data.startswith(ELF):
        raise BadInput("a Multiboot header without addresses in a file that is no ELF file")
    elf = read_elf_guest(data)
    return MultibootGuest(header, elf.image(), elf, handed)


def _by_addresses(data: bytes, header: MultibootHeader) -> GuestImage:
    return image_by_addresses(data, header.at, header.addresses[:4], header.addresses[4])


def image_by_addresses(
    data: bytes, header_at: int, addresses: Sequence[int], entry: int
) -> GuestImage:
    """Return the image that a header's addresses describe.

    They are where the header, the first byte loaded, the end of what the file has, and the end of
    all lie in memory; an end of 0 is the file's, and that of the file's content. Raises `BadInput`
    where they contradict each other or the file.
    """
    header, load, load_end, bss_end = addresses
    # 0xffffffff in Multiboot2: the image is loaded from the file's beginning.
    begin = 0 if load == 0xFFFF_FFFF else header_at - (header - load)
    load = header - header_at if load == 0xFFFF_FFFF else load
    size = len(data) - begin if not load_end else load_end - load
    in_memory = max(bss_end - load if bss_end else size, 0)
    if begin < 0 or size <= 0 or begin + size > len(data) or in_memory < size:
        raise BadInput(
            f"a Multiboot header with impossible addresses: header {header:#x}, load {load:#x}, "
            f"end {load_end:#x}, end of BSS {bss_end:#x}, in a file of {len(data):,} bytes"
        )
    # The addresses may be those of an ELF file, which has symbols.
    file = data if data.startswith(ELF) else b""
    return GuestImage(((load, data[begin : begin + size], in_memory),), entry, file=file)


def _memory_map(ranges: Sequence[Range]) -> bytes:
    # The first field doesn't count itself.
    size = _MAP_ENTRY.size - 4
    return b"".join(
        _MAP_ENTRY.pack(size, start, length, _USABLE if usable else _RESERVED)
        for start, length, usable in ranges
    )
