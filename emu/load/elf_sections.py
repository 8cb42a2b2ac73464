"""The sections of an ELF file, as a boot loader hands them on.

Source: Multiboot Specification, "Boot information format"; Multiboot2 Specification, "ELF-Symbols".
"""

import struct
from dataclasses import dataclass

from crosswalk.emu.load.elf import ElfGuest
from crosswalk.emu.load.placing import Placement
from crosswalk.walker.errors import BadInput

__all__ = ["LoadedSections", "load_sections"]

# By the file's class: the size of a header, and where and how it has the section's address.
_HEADERS = {32: (40, 12, struct.Struct("<I")), 64: (64, 16, struct.Struct("<Q"))}
_ALIGN = 16


@dataclass(frozen=True, slots=True)
class LoadedSections:
    """A table of section headers: their number, the size of one, and which one has the names."""

    count: int
    entry_size: int
    names: int
    table: bytes


def load_sections(placement: Placement, elf: ElfGuest, floor: int) -> LoadedSections | None:
    """Give memory from `floor` on to sections that no segment holds; return all headers.

    A header that had no address has the physical one of its section then. None where the file has
    no sections. Raises `BadInput` for headers of another size, and where memory is too small.
    """
    offset, entry_size, names = elf.table
    if not elf.sections:
        return None
    size, address_at, address = _HEADERS[elf.bits]
    table = bytearray(elf.data[offset : offset + len(elf.sections) * size])
    if entry_size != size or len(table) != len(elf.sections) * size:
        raise BadInput(f"a damaged ELF file: section headers of {entry_size} bytes, not {size}")
    for number, each in enumerate(elf.sections):
        if each.content and each.size and not each.allocated and not each.address:
            content = elf.data[each.offset : each.offset + each.size]
            at = placement.add(content, f"section {each.name}", align=_ALIGN, floor=floor)
            address.pack_into(table, number * size + address_at, at)
    return LoadedSections(len(elf.sections), size, names, bytes(table))
