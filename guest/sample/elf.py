"""An ELF file of 32 bits for x86, as multiboot loaders take it.

Source: System V ABI, "Object Files", "Program Loading"; its Intel386 supplement.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag

__all__ = ["Flags", "Section", "Symbol", "SymbolKind", "elf_file"]

_HEADER = struct.Struct("<16sHHIIIIIHHHHHH")
_PROGRAM = struct.Struct("<8I")
_SECTION = struct.Struct("<10I")
_SYMBOL = struct.Struct("<IIIBBH")

_EXECUTABLE, _I386, _CURRENT = 2, 3, 1
_LOAD, _PROGRAM_READ = 1, 4
_PROGBITS, _SYMTAB, _STRTAB, _NOBITS = 1, 2, 3, 8
_GLOBAL = 1
_ALIGNMENT = 16


class Flags(IntFlag):
    """What a section is for: SHF_WRITE, SHF_EXECINSTR; each is read."""

    NONE = 0
    WRITE = 1
    EXECUTE = 4


class SymbolKind(IntEnum):
    """What a symbol is of: STT_OBJECT, STT_FUNC."""

    OBJECT = 1
    FUNCTION = 2


@dataclass(frozen=True, slots=True)
class Section:
    """A section, and the segment that it alone is in.

    It is linked to `va` and loaded at `pa`. Its `content` may be shorter than its `size` in bytes:
    the rest is zeroes. A section that isn't `mapped` has no segment: its addresses are only kept.
    """

    name: str
    va: int
    pa: int
    size: int
    flags: Flags = Flags.NONE
    content: bytes = b""
    mapped: bool = True


@dataclass(frozen=True, slots=True)
class Symbol:
    """A global symbol: its name, value and size in bytes, and the section that it is in."""

    name: str
    value: int
    size: int
    kind: SymbolKind
    section: str


def elf_file(entry: int, sections: Sequence[Section], symbols: Sequence[Symbol]) -> bytes:
    """Return an executable file that is entered at `entry`."""
    segments = [each for each in sections if each.mapped]
    file = bytearray(_HEADER.size + len(segments) * _PROGRAM.size)
    offsets = {each.name: _appended(file, each.content) for each in sections}
    numbers = {each.name: number for number, each in enumerate(sections, 1)}
    strings, names = _strings([*(each.name for each in symbols)])
    rows = b"".join(
        _SYMBOL.pack(
            names[each.name],
            each.value,
            each.size,
            _GLOBAL << 4 | each.kind,
            0,
            numbers[each.section],
        )
        for each in symbols
    )
    tables = {".symtab": bytes(_SYMBOL.size) + rows, ".strtab": strings}
    tables[".shstrtab"], titles = _strings([*numbers, *tables, ".shstrtab"])
    headers = [bytes(_SECTION.size)]
    for each in sections:
        kind = _PROGBITS if each.content else _NOBITS
        flags = each.flags | 2  # SHF_ALLOC.
        at = offsets[each.name]
        headers.append(
            _SECTION.pack(titles[each.name], kind, flags, each.va, at, each.size, 0, 0, 1, 0)
        )
    for name, content in tables.items():
        at = _appended(file, content)
        # Of symbols: the table of their names, and the number of the first global one.
        link, info, width = (len(headers) + 1, 1, _SYMBOL.size) if name == ".symtab" else (0, 0, 0)
        kind = _SYMTAB if name == ".symtab" else _STRTAB
        headers.append(
            _SECTION.pack(titles[name], kind, 0, 0, at, len(content), link, info, 1, width)
        )
    sections_at = _appended(file, b"".join(headers))
    head = _HEADER.pack(
        b"\x7fELF\x01\x01\x01",
        _EXECUTABLE,
        _I386,
        _CURRENT,
        entry,
        _HEADER.size,
        sections_at,
        0,
        _HEADER.size,
        _PROGRAM.size,
        len(segments),
        _SECTION.size,
        len(headers),
        len(headers) - 1,
    )
    programs = b"".join(_program(each, offsets[each.name]) for each in segments)
    file[: len(head) + len(programs)] = head + programs
    return bytes(file)


def _appended(file: bytearray, content: bytes) -> int:
    """Append content at the next aligned offset, and return that."""
    file += bytes(-len(file) % _ALIGNMENT)
    at = len(file)
    file += content
    return at


def _strings(names: Sequence[str]) -> tuple[bytes, dict[str, int]]:
    """Return a table of strings, and where each is in it."""
    table, at = bytearray(1), {}
    for name in names:
        at[name] = len(table)
        table += name.encode() + b"\0"
    return bytes(table), at


def _program(section: Section, offset: int) -> bytes:
    flags = _PROGRAM_READ
    flags |= 2 if section.flags & Flags.WRITE else 0
    flags |= 1 if section.flags & Flags.EXECUTE else 0
    return _PROGRAM.pack(
        _LOAD, offset, section.va, section.pa, len(section.content), section.size, flags, 1
    )
