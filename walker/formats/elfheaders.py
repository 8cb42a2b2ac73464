"""The headers of ELF cores: what file it is, and its program headers as arrays.

Fields have the names of the ELF specification (System V gABI, "ELF Header", "Program Header").
Whatever a file states is bounded by what the file is long.
"""

import struct
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.formats.located_errors import one_line

__all__ = [
    "MAX_SEGMENTS",
    "NO_ADDRESS",
    "PT_LOAD",
    "PT_NOTE",
    "Headers",
    "Piecewise",
    "Programs",
    "read_headers",
]

MAX_SEGMENTS = 1 << 20
"""The most program headers a core may have.

QEMU's `dump-guest-memory -p` writes one for each run of mapped pages.
"""

PT_LOAD, PT_NOTE = 1, 4
NO_ADDRESS = (1 << 64) - 1
"""The p_paddr of a segment that has virtual addresses only."""

_MAGIC = b"\x7fELF"
_ET_CORE = 4
_EM_386, _EM_X86_64 = 3, 62
# QEMU calls a machine a 386 whose CPUs aren't in long mode, and uses 64 bits for much memory.
_MACHINES = {(_EM_X86_64, 64), (_EM_386, 64), (_EM_386, 32)}
_BITS = {1: 32, 2: 64}
_ORDERS = {1: "<", 2: ">"}
# e_type … e_shstrndx; of section header 0, sh_name … sh_size, sh_link, sh_info.
_HEADER = {32: "HHIIIIIHHHHHH", 64: "HHIQQQIHHHHHH"}
_SECTION = {32: "10I", 64: "IIQQQQIIQQ"}
_SH_INFO = 7
_PROGRAM = {
    32: ("type", "offset", "vaddr", "paddr", "filesz", "memsz", "flags", "align"),
    64: ("type", "flags", "offset", "vaddr", "paddr", "filesz", "memsz", "align"),
}
_WORDS = {"type", "flags"}  # Of 32 bits in either class.
_IDENT = 16
_PN_XNUM = 0xFFFF
_LONGEST = 128  # Of a program header, which has 56 bytes or 32.
_SECTIONS, _NAME = 1024, 64


class Piecewise(Protocol):
    """The bytes of a file, mapped or read by the piece."""

    def __len__(self) -> int:
        """Return the size of the file in bytes."""
        ...

    def __getitem__(self, part: slice, /) -> bytes:
        """Return a part of the file; the part of that which lies in the file, as slices do."""
        ...


Programs = NDArray[np.void]
"""Program headers, with the fields type, offset, vaddr, paddr, filesz and memsz of 64 bits each."""

_FIELDS = ("type", "offset", "vaddr", "paddr", "filesz", "memsz")


@dataclass(frozen=True, slots=True)
class Headers:
    """The program headers of a core, and whether its machine is a 386."""

    programs: Programs
    is_386: bool


def read_headers(data: Piecewise) -> Headers:
    """Return the program headers of an ELF core of an x86 machine.

    Where there are 65,535 of them or more, section header 0 says how many (PN_XNUM). A 32-bit
    core's p_paddr of all ones is given as `NO_ADDRESS`. Raises `BadInput` for what isn't
    such a core or is cut before the headers end, and for one without program headers that names
    its sections (Xen); `LimitExceeded` beyond `MAX_SEGMENTS`.
    """
    bits, order, values = _file_header(data)
    (
        kind,
        machine,
        _,
        _,
        first,
        sections,
        _,
        _,
        stride,
        count,
        section_size,
        section_count,
        names,
    ) = values
    if (machine, bits) not in _MACHINES or order != "<":
        raise BadInput(
            f"ELF file of another machine: {_named(machine, 'ENUM_E_MACHINE')}, {bits} bits, "
            f"{'little' if order == '<' else 'big'}-endian; x86-64 or 386 needed"
        )
    if kind != _ET_CORE:
        raise BadInput(f"not an ELF core: its type is {_named(kind, 'ENUM_E_TYPE')}")
    if count == _PN_XNUM:
        count = _count_of_many(data, bits, sections)
    if not count and sections and section_count:
        _refuse_sections(data, bits, sections, section_size, section_count, names)
    if count > MAX_SEGMENTS:
        raise LimitExceeded(
            f"ELF core: {count:,} program headers; at most {MAX_SEGMENTS:,} are read"
        )
    return _program_headers(data, bits, first, stride, count, is_386=machine == _EM_386)


def _file_header(data: Piecewise) -> tuple[int, str, tuple[int, ...]]:
    """Return the class in bits, the byte order as `struct` has it, and the fields of the header."""
    ident = data[:_IDENT]
    if ident[:4] != _MAGIC:
        raise BadInput("not an ELF file")
    bits, order = _BITS.get(ident[4] if len(ident) == _IDENT else 0), None
    if bits is not None:
        order = _ORDERS.get(ident[5])
    if bits is None or order is None:
        raise BadInput("truncated or damaged ELF header")
    form = struct.Struct(order + _HEADER[bits])
    content = data[_IDENT : _IDENT + form.size]
    if len(content) < form.size:
        raise BadInput("truncated or damaged ELF header")
    return bits, order, form.unpack(content)


def _count_of_many(data: Piecewise, bits: int, sections: int) -> int:
    form = struct.Struct("<" + _SECTION[bits])
    content = data[sections : sections + form.size] if sections else b""
    if len(content) < form.size:
        raise BadInput(
            "truncated or damaged ELF header: 65,535 or more program headers, and no section "
            "header that says how many"
        )
    return int(form.unpack(content)[_SH_INFO])


def _program_headers(
    data: Piecewise, bits: int, first: int, stride: int, count: int, *, is_386: bool
) -> Headers:
    word, wide = np.dtype("<u4"), np.dtype("<u4" if bits == 32 else "<u8")
    names = _PROGRAM[bits]
    formats = [word if name in _WORDS else wide for name in names]
    size = sum(each.itemsize for each in formats)
    if count and not size <= stride <= _LONGEST:
        raise BadInput(f"damaged ELF header: program headers of {stride} bytes")
    end = first + count * stride
    if end > len(data):
        raise BadInput(
            f"truncated ELF core: program headers end at byte {end}, the file at {len(data)}"
        )
    offsets = [sum(each.itemsize for each in formats[:at]) for at in range(len(formats))]
    layout = np.dtype(
        {"names": names, "formats": formats, "offsets": offsets, "itemsize": max(stride, size)}
    )
    table = np.frombuffer(data[first:end] if count else b"", layout)
    programs = np.zeros(count, [(name, np.uint64) for name in _FIELDS])
    for name in _FIELDS:
        programs[name] = table[name]
    if bits == 32:
        programs["paddr"][programs["paddr"] == 0xFFFF_FFFF] = NO_ADDRESS
    return Headers(programs, is_386)


def _refuse_sections(
    data: Piecewise, bits: int, first: int, stride: int, count: int, names: int
) -> None:
    """Raise `BadInput` for a Xen core, which has its memory in sections, by its name."""
    form = struct.Struct("<" + _SECTION[bits])
    found = []
    for at in range(min(count, _SECTIONS)):
        content = data[first + at * stride : first + at * stride + form.size]
        if len(content) == form.size:
            found.append(form.unpack(content))
    if not names < len(found):
        return
    start, size = found[names][4], found[names][5]
    for section in found:
        at = start + section[0]
        if section[0] < size and data[at : at + _NAME].split(b"\0")[0] == b".xen_pages":
            raise BadInput(
                "Xen core by `xl dump-core`: its memory is in .xen_pages, not in segments; crash "
                "and volatility3 read it"
            )


def _named(value: int, table: str) -> str:
    """Return the specification's name of a number, or the number."""
    # Imported for an error alone.
    from elftools.elf import enums  # noqa: PLC0415

    numbers = getattr(enums, table)
    names = [name for name, number in numbers.items() if number == value]
    return one_line(names[0]) if names else str(value)
