"""ELF files of a few instructions, of either class, with what a test wants in them."""

import struct
from dataclasses import dataclass

from crosswalk.guest.assembler import assemble

EM_386, EM_X86_64 = 3, 62
PT_LOAD, PT_NOTE = 1, 4
SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_NOBITS = 1, 2, 3, 8
ALLOCATED = 2
BASE = 0x20_0000
PAGE = 0x1000

_IDENT = {32: b"\x7fELF\x01\x01\x01", 64: b"\x7fELF\x02\x01\x01"}
_HEADER = {32: struct.Struct("<16sHHIIIIIHHHHHH"), 64: struct.Struct("<16sHHIQQQIHHHHHH")}
_PROGRAM = {32: struct.Struct("<8I"), 64: struct.Struct("<IIQQQQQQ")}
_SECTION = {32: struct.Struct("<10I"), 64: struct.Struct("<IIQQQQIIQQ")}
_SYMBOL = {32: struct.Struct("<IIIBBH"), 64: struct.Struct("<IBBHQQ")}


@dataclass(frozen=True)
class Part:
    """A segment: physical and linear address, content, size in memory (the content's if 0)."""

    pa: int
    content: bytes
    va: int | None = None
    size: int = 0


def elf_file(
    parts, *, bits=32, machine=None, kind=2, entry=None, symbols=None, notes=b"", sections=True
):
    """An executable with these segments, a section for each, and a symbol table if one is given."""
    machine = {32: EM_386, 64: EM_X86_64}[bits] if machine is None else machine
    entry = parts[0].pa if entry is None else entry
    content, programs, rows = b"", b"", [(b"", 0, 0, 0, 0, 0, 0, 0)]
    for number, part in enumerate(parts):
        va = part.pa if part.va is None else part.va
        size = part.size or len(part.content)
        at = PAGE + len(content)
        programs += _program(bits, PT_LOAD, at, va, part.pa, len(part.content), size)
        content += part.content + bytes(-len(part.content) % 16)
        rows.append((b".part%d" % number, SHT_PROGBITS, ALLOCATED, va, at, len(part.content), 0, 0))
    if notes:
        programs += _program(bits, PT_NOTE, PAGE + len(content), 0, 0, len(notes), len(notes))
        content += notes
    if symbols is not None:
        table, names = _symbols(bits, symbols)
        rows.append(
            (b".symtab", SHT_SYMTAB, 0, 0, PAGE + len(content), len(table), len(rows) + 1, 0)
        )
        content += table
        rows.append((b".strtab", SHT_STRTAB, 0, 0, PAGE + len(content), len(names), 0, 0))
        content += names
    rows.append((b".shstrtab", SHT_STRTAB, 0, 0, 0, 0, 0, 0))
    names = b"\0".join(row[0] for row in rows) + b"\0"
    rows[-1] = (*rows[-1][:4], PAGE + len(content), len(names), 0, 0)
    content += names
    headers = b"".join(_section(bits, names, row) for row in rows)
    count = programs and len(programs) // _PROGRAM[bits].size
    head = _HEADER[bits].pack(
        *(_IDENT[bits], kind, machine, 1, entry, _HEADER[bits].size),
        *(PAGE + len(content) if sections else 0, 0, _HEADER[bits].size),
        *(_PROGRAM[bits].size, count, _SECTION[bits].size),
        *((len(rows), len(rows) - 1) if sections else (0, 0)),
    )
    return (head + programs).ljust(PAGE, b"\0") + content + (headers if sections else b"")


def _program(bits, kind, offset, va, pa, in_file, size):
    if bits == 32:
        return _PROGRAM[32].pack(kind, offset, va, pa, in_file, size, 7, 1)
    return _PROGRAM[64].pack(kind, 7, offset, va, pa, in_file, size, 1)


def _section(bits, names, row):
    name, kind, flags, address, offset, size, link, info = row
    at = names.index(b"\0" + name + b"\0") + 1 if name else 0
    entry = _SYMBOL[bits].size if kind == SHT_SYMTAB else 0
    return _SECTION[bits].pack(at, kind, flags, address, offset, size, link, info, 1, entry)


def _symbols(bits, symbols):
    names, table = b"\0", _SYMBOL[bits].pack(*[0] * 6)
    for name, value in symbols.items():
        at, section = len(names), 1
        names += name.encode() + b"\0"
        row = (at, value, 0, 0x12, 0, section) if bits == 32 else (at, 0x12, 0, section, value, 0)
        table += _SYMBOL[bits].pack(*row)
    return table, names


def note(owner, kind, description):
    """A note, as a PT_NOTE segment has it."""
    name = owner + b"\0"
    head = struct.pack("<III", len(name), len(description), kind)
    return head + name + bytes(-len(name) % 4) + description + bytes(-len(description) % 4)


def code(source, *, bits=32, address=BASE):
    """Machine code of a test's own guest."""
    return assemble("a guest of a test", source, bits=bits, address=address, symbols={})
