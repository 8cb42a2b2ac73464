"""ELF files with sections and symbols, written out from the System V ABI."""

import struct

HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
SECTION = struct.Struct("<IIQQQQIIQQ")
SYMBOL = struct.Struct("<IBBHQQ")
NULL, PROGBITS, SYMTAB, STRTAB, NOTES, NOBITS = 0, 1, 2, 3, 7, 8
ALLOC, EXECUTE, TLS = 2, 4, 0x400
LOCAL, GLOBAL, WEAK = 0, 1, 2
NO_TYPE, OBJECT, FUNCTION, SECTION_SYMBOL, FILE = 0, 1, 2, 3, 4
ABSOLUTE = 0xFFF1


def strings(names):
    """A string table, and where each name is in it."""
    text, places = b"\0", {}
    for name in names:
        places[name] = len(text)
        text += name + b"\0"
    return text, places


def _typed(section):
    name, address, size, flags, *more = section
    return name, address, size, flags, *more, *(PROGBITS, b"")[len(more) :]


def kernel_elf(sections, symbols, *, machine=62, kind=2):
    """An ELF file of sections (name, address, size, flags[, type[, content]]) and
    symbols.

    A symbol is (name, value, size, bind, type, number of its section, from 1 on).
    """
    text, places = strings([name for name, *_ in symbols])
    table = SYMBOL.pack(0, 0, 0, 0, 0, 0) + b"".join(
        SYMBOL.pack(places[name], bind << 4 | what, 0, section, value, size)
        for name, value, size, bind, what, section in symbols
    )
    named = [name for name, *_ in sections] + [b".symtab", b".strtab", b".shstrtab"]
    names, at = strings(named)
    body = table + text + names + b"".join(content for *_, content in map(_typed, sections))
    offset = HEADER.size
    headers = [SECTION.pack(*[0] * 10)]
    place = offset + len(table) + len(text) + len(names)
    for name, address, size, flags, what, content in map(_typed, sections):
        where = place if content else 0
        headers.append(SECTION.pack(at[name], what, flags, address, where, size, 0, 0, 1, 0))
        place += len(content)
    strtab = len(sections) + 2
    headers += [
        SECTION.pack(at[b".symtab"], SYMTAB, 0, 0, offset, len(table), strtab, 1, 8, SYMBOL.size),
        SECTION.pack(at[b".strtab"], STRTAB, 0, 0, offset + len(table), len(text), 0, 0, 1, 0),
        SECTION.pack(
            at[b".shstrtab"], STRTAB, 0, 0, offset + len(table) + len(text), len(names), 0, 0, 1, 0
        ),
    ]
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = HEADER.pack(
        *(ident, kind, machine, 1, 0, 0, offset + len(body), 0, HEADER.size, 0, 0),
        *(SECTION.size, len(headers), len(headers) - 1),
    )
    return header + body + b"".join(headers)
