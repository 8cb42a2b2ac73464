"""Guests of the Multiboot2 Specification: what GRUB's command `multiboot2` loads on a PC.

Source: Multiboot2 Specification, "OS image format", "I386 machine state", "Boot information
format".
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.elf import ElfGuest, read_elf_guest
from crosswalk.emu.load.elf_sections import load_sections
from crosswalk.emu.load.entering import Entry, enter_flat
from crosswalk.emu.load.handed import LOADER, HandedOn, memory_sizes
from crosswalk.emu.load.image import Format, GuestImage
from crosswalk.emu.load.multiboot import TEXT_SCREEN, image_by_addresses
from crosswalk.emu.load.placing import place_modules
from crosswalk.emu.load.surroundings import Range, Surroundings, prepare_memory
from crosswalk.emu.pc.pc import Machine
from crosswalk.walker.errors import BadInput
from crosswalk.walker.symbols.elf import ELF

__all__ = ["Multiboot2Guest", "Multiboot2Header", "find_multiboot2", "open_multiboot2"]

_MAGIC, _LOADED = 0xE85250D6, 0x36D76289
_I386 = 0
_SEARCHED, _ALIGN = 32768, 8
_HEADER, _TAG = struct.Struct("<IIII"), struct.Struct("<HHI")
_OPTIONAL = 1

# Tags of a header.
_END, _REQUEST, _ADDRESSES, _ENTRY, _CONSOLE, _SCREEN, _ALIGNMENT = range(7)
_EFI_TAGS, _RELOCATABLE = (7, 8, 9), 10
_KNOWN = frozenset(range(11))
_REQUESTED = 21  # The highest tag of information that the specification has.

# Tags of the information.
_INFO_LINE, _INFO_LOADER, _INFO_MODULE, _INFO_MEMORY, _INFO_MAP = 1, 2, 3, 4, 6
_INFO_SCREEN, _INFO_SECTIONS, _INFO_OLD_ACPI, _INFO_NEW_ACPI, _INFO_BASE = 8, 9, 14, 15, 21
_MAP_ENTRY = struct.Struct("<QQII")
_USABLE, _RESERVED = 1, 2
_OLD_RSDP_BYTES = 20


@dataclass(frozen=True, slots=True)
class Multiboot2Header:
    """A header: its offset in the file, and the last tag of each type: (optional, content)."""

    at: int
    tags: dict[int, tuple[bool, bytes]]


@dataclass(slots=True)
class Multiboot2Guest:
    """A guest of this format; a `Guest`. `elf` is its file, or None for one with addresses."""

    header: Multiboot2Header
    image: GuestImage
    elf: ElfGuest | None
    handed: HandedOn
    format: Format = Format.MULTIBOOT2
    _entry: Entry = field(init=False)

    def place(self, ram: Ram) -> None:
        """Write it to RAM, with its modules and the boot information; `BadInput` as `Placement`."""
        around = prepare_memory(ram, self.image)
        placement = around.placement
        content = b"".join(_information_tag(*each) for each in self._information(around))
        head = struct.pack("<II", 8 + len(content), 0)
        at = placement.add(head + content, "the boot information", align=_ALIGN)
        placement.write(ram)
        self._entry = Entry(self.image.entry, around, {"rax": _LOADED, "rbx": at})

    def enter(self, machine: Machine) -> None:
        """Bring the CPU to the entry: flat 32-bit code without paging, EAX and EBX as specified."""
        enter_flat(machine, self._entry)

    def _information(self, around: Surroundings) -> Iterator[tuple[int, bytes]]:
        """Yield the type and content of each tag of the boot information."""
        placement, handed = around.placement, self.handed
        yield _INFO_LINE, _text(handed.command_line)
        yield _INFO_LOADER, _text(LOADER)
        places = place_modules(placement, handed.modules, self.image)
        for each, (at, size) in zip(handed.modules, places, strict=True):
            yield _INFO_MODULE, struct.pack("<II", at, at + size) + _text(each.text)
        yield _INFO_MEMORY, struct.pack("<II", *memory_sizes(around.ranges))
        yield _INFO_MAP, _memory_map(around.ranges)
        if _SCREEN in self.header.tags:
            yield _INFO_SCREEN, TEXT_SCREEN + b"\0\0"
        if self.elf is not None:
            floor = max([self.image.end, *(at + size for at, size in places)])
            sections = load_sections(placement, self.elf, floor)
            if sections is not None:
                # The specification's text has 16 bits for each number; GRUB's header, and so
                # every kernel, 32.
                numbers = (sections.count, sections.entry_size, sections.names)
                yield _INFO_SECTIONS, struct.pack("<III", *numbers) + sections.table
        yield _INFO_OLD_ACPI, around.rsdp[:_OLD_RSDP_BYTES]
        yield _INFO_NEW_ACPI, around.rsdp
        if _RELOCATABLE in self.header.tags:
            yield _INFO_BASE, struct.pack("<I", min(start for start, _, _ in self.image.segments))
        yield _END, b""


def _information_tag(kind: int, content: bytes) -> bytes:
    tag = struct.pack("<II", kind, 8 + len(content)) + content
    return tag + bytes(-len(tag) % _ALIGN)


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape") + b"\0"


def _memory_map(ranges: Sequence[Range]) -> bytes:
    return struct.pack("<II", _MAP_ENTRY.size, 0) + b"".join(
        _MAP_ENTRY.pack(start, size, _USABLE if usable else _RESERVED, 0)
        for start, size, usable in ranges
    )


def find_multiboot2(data: bytes) -> Multiboot2Header | None:
    """Return the first header in the first 32 KiB of a file, whose sum is right, or None.

    Raises `BadInput` for one of another architecture, and for damaged tags.
    """
    head = data[:_SEARCHED]
    for at in range(0, len(head) - _HEADER.size + 1, _ALIGN):
        magic, architecture, length, checksum = _HEADER.unpack_from(head, at)
        total = magic + architecture + length + checksum
        if magic != _MAGIC or total & 0xFFFF_FFFF:
            continue
        if architecture != _I386:
            raise BadInput(f"a Multiboot2 header of another architecture ({architecture})")
        if length < _HEADER.size or at + length > len(head):
            raise BadInput("a truncated Multiboot2 header")
        return Multiboot2Header(at, dict(_tags(head[at + _HEADER.size : at + length])))
    return None


def _tags(content: bytes) -> Iterator[tuple[int, tuple[bool, bytes]]]:
    at = 0
    while at + _TAG.size <= len(content):
        kind, flags, size = _TAG.unpack_from(content, at)
        if size < _TAG.size or at + size > len(content):
            raise BadInput(f"a damaged Multiboot2 header: a tag of type {kind} has {size} bytes")
        if kind == _END:
            return
        yield kind, (bool(flags & _OPTIONAL), content[at + _TAG.size : at + size])
        at += -(-size // _ALIGN) * _ALIGN
    raise BadInput("a damaged Multiboot2 header: its tags have no end")


def open_multiboot2(data: bytes, handed: HandedOn) -> Multiboot2Guest:
    """Return the guest in a file.

    Raises `BadInput` for one without a header, with a demand that isn't known, with addresses that
    contradict each other or the file, and for a damaged ELF file.
    """
    header = find_multiboot2(data)
    if header is None:
        raise BadInput("no Multiboot2 header in the first 32 KiB")
    _require_known(header)
    (entry,) = _numbers(header, _ENTRY, 1) or (None,)
    addresses = _numbers(header, _ADDRESSES, 4)
    if addresses:
        if entry is None:
            raise BadInput("a Multiboot2 header with addresses and without an entry")
        image = image_by_addresses(data, header.at, addresses, entry)
        return Multiboot2Guest(header, image, None, handed)
    if not data.startswith(ELF):
        raise BadInput("a Multiboot2 header without addresses in a file that is no ELF file")
    elf = read_elf_guest(data)
    return Multiboot2Guest(header, elf.image(entry), elf, handed)


def _require_known(header: Multiboot2Header) -> None:
    for kind, (optional, content) in header.tags.items():
        if kind not in _KNOWN and not optional:
            raise BadInput(f"a Multiboot2 header that demands what isn't known: a tag {kind}")
        if kind == _REQUEST and not optional:
            wanted = struct.unpack_from(f"<{len(content) // 4}I", content)
            if unknown := [each for each in wanted if each > _REQUESTED]:
                raise BadInput(f"a Multiboot2 header that demands unknown information: {unknown}")


def _numbers(header: Multiboot2Header, kind: int, count: int) -> tuple[int, ...]:
    if kind not in header.tags:
        return ()
    _, content = header.tags[kind]
    if len(content) < 4 * count:
        raise BadInput(f"a damaged Multiboot2 header: a tag {kind} of {len(content)} bytes")
    return struct.unpack_from(f"<{count}I", content)
