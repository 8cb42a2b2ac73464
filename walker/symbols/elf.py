"""Symbols and sections of an ELF file: a vmlinux, a kernel of another system, a module.

Source: System V ABI, "Sections", "Symbol Table".
"""

import io
import struct
from typing import Any

import numpy as np
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from numpy.typing import NDArray

from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import U64
from crosswalk.walker.symbols.identity import Identity, identity_of_elf
from crosswalk.walker.symbols.spans import Span, SpanKind, Spans, Strings
from crosswalk.walker.symbols.system_map import RawSymbols, made_spans

__all__ = ["ELF", "read_elf"]

ELF = b"\x7fELF"
"""What an ELF file begins with."""

_SYMBOL_64 = np.dtype(
    [
        ("name", "u4"),
        ("info", "u1"),
        ("other", "u1"),
        ("section", "u2"),
        ("value", "u8"),
        ("size", "u8"),
    ]
)
_SYMBOL_32 = np.dtype(
    [
        ("name", "u4"),
        ("value", "u4"),
        ("size", "u4"),
        ("info", "u1"),
        ("other", "u1"),
        ("section", "u2"),
    ]
)
_HEADER_32, _HEADER_64 = 52, 64
# Where the section headers lie, the size of one, and their number.
_TABLE_32, _TABLE_64 = struct.Struct("<32xI10xHH"), struct.Struct("<40xQ10xHH")
_UNDEFINED, _RESERVED = 0, 0xFF00
_OBJECT, _FUNCTION, _NO_TYPE, _INDIRECT = 1, 2, 0, 10
_ALLOCATED, _THREAD_LOCAL = 2, 0x400
_LOCAL, _GLOBAL, _WEAK = 0, 1, 2
_RANKS = {_GLOBAL: 0, _WEAK: 1, _LOCAL: 2}
_RELOCATABLE = "ET_REL"
_BANNER = "linux_banner"
_BAD = (ELFError, ValueError, UnicodeDecodeError, OverflowError, struct.error, KeyError)


def read_elf(data: bytes) -> tuple[Spans, Spans, Identity]:
    """Return the symbols and the sections of an ELF file for x86, and which kernel's it says it is.

    Addresses are those that it is linked to.

    Symbols are those of .symtab, or of .dynsym where there is none: functions, objects and what has
    no type, defined in a section. One reaches no further than its section; one that lies outside
    it, as at its end, covers its own address alone, if it has no size. Sections are those that are
    loaded. Raises `BadInput` in one line
    for a file of another machine, an object file, a damaged one, and one that has neither.
    """
    _require_whole(data)
    try:
        elf = ELFFile(io.BytesIO(data))
        machine, kind = elf["e_machine"], elf["e_type"]
        if machine not in ("EM_X86_64", "EM_386"):
            raise BadInput(f"an ELF file of another machine ({machine})")
        if kind == _RELOCATABLE:
            raise BadInput("an object file: its symbols have no addresses until it is loaded")
        sections = [(each.name, each.header) for each in elf.iter_sections()]
        table = next(
            (
                header
                for wanted in ("SHT_SYMTAB", "SHT_DYNSYM")
                for _, header in sections
                if header["sh_type"] == wanted
            ),
            None,
        )
        raw = None if table is None else _raw(data, table, sections, long=elf.elfclass == 64)
        loaded = _sections(sections)
        symbols = Spans.of(SpanKind.SYMBOL, ()) if raw is None else made_spans(raw)
        banner = next(iter(symbols.find(_BANNER)), None)
        identity = identity_of_elf(elf, data, None if banner is None else banner.start)
    except _BAD as error:
        raise BadInput(f"a damaged ELF file: {error}") from None
    if not len(symbols) and not len(loaded):
        raise BadInput("an ELF file without sections and symbols: it was stripped of them")
    return symbols, loaded, identity


def _sections(sections: list[tuple[str, Any]]) -> Spans:
    """Return the sections that are loaded; TLS' .tbss takes no addresses."""
    return Spans.of(
        SpanKind.SECTION,
        [
            Span(name, start, min(start + header["sh_size"], 1 << 64), SpanKind.SECTION)
            for name, header in sections
            for start in [header["sh_addr"]]
            if header["sh_flags"] & _ALLOCATED
            and start
            and not (header["sh_flags"] & _THREAD_LOCAL and header["sh_type"] == "SHT_NOBITS")
        ],
    )


def _raw(data: bytes, table: Any, sections: list[tuple[str, Any]], *, long: bool) -> RawSymbols:
    """Return the symbols of a table that are addresses."""
    _, strings = sections[table["sh_link"]] if table["sh_link"] < len(sections) else ("", None)
    kind = _SYMBOL_64 if long else _SYMBOL_32
    begin, size = table["sh_offset"], table["sh_size"]
    if strings is None or strings["sh_type"] != "SHT_STRTAB" or size % kind.itemsize:
        raise ValueError("a symbol table of another form")
    if begin + size > len(data) or strings["sh_offset"] + strings["sh_size"] > len(data):
        end = max(begin + size, strings["sh_offset"] + strings["sh_size"])
        raise ValueError(_truncated(data, "symbols", end))
    rows = np.frombuffer(data, kind, size // kind.itemsize, begin)
    section = rows["section"]
    kept = (section != _UNDEFINED) & (section < _RESERVED) & (rows["name"] != 0)
    kept &= np.isin(rows["info"] & 15, (_NO_TYPE, _OBJECT, _FUNCTION, _INDIRECT))
    # Offsets of per-CPU variables are in a section that is linked to 0.
    flags = np.array([header["sh_flags"] & _ALLOCATED for _, header in sections], np.uint64)
    starts: U64 = np.array([header["sh_addr"] for _, header in sections], np.uint64)
    number = np.minimum(section, len(sections) - 1)
    kept &= (flags[number] != 0) & (starts[number] != 0)
    rows = rows[kept]
    names = _names(data, strings["sh_offset"], strings["sh_size"], rows["name"].astype(np.int64))
    bind = rows["info"] >> 4
    rank = np.full(len(rows), 0, np.uint8)
    for value, place in _RANKS.items():
        rank[bind == value] = place
    value, size = rows["value"].astype(np.uint64), rows["size"].astype(np.uint64)
    sizes: U64 = np.array([header["sh_size"] for _, header in sections], np.uint64)
    number = number[kept]
    furthest = _furthest(value, size, starts[number], sizes[number])
    return RawSymbols(value, size, rank, names, furthest)


def _furthest(value: U64, size: U64, start: U64, length: U64) -> U64:
    """Return the last address that symbols may cover, by where their sections lie, uint64[n]."""
    inside = value - start < length  # Modulo 2^64: not below it either.
    beyond = np.where(size == 0, value, np.iinfo(np.uint64).max)
    return np.where(inside, start + (length - np.uint64(1)), beyond)


def _require_whole(data: bytes) -> None:
    """Raise `BadInput` for a file that ends within its header or its section headers."""
    long = data[4:5] == b"\2"
    size = _HEADER_64 if long else _HEADER_32
    if len(data) < size:
        raise BadInput(f"a damaged ELF file: {_truncated(data, 'header', size)}")
    offset, entry, count = _TABLE_64.unpack_from(data) if long else _TABLE_32.unpack_from(data)
    if offset + entry * count > len(data):
        text = _truncated(data, "section headers", offset + entry * count)
        raise BadInput(f"a damaged ELF file: {text}")


def _truncated(data: bytes, what: str, end: int) -> str:
    verb = "ends" if what == "header" else "end"
    return f"truncated to {len(data):,} bytes, its {what} {verb} at byte {end:,}"


def _names(data: bytes, begin: int, size: int, at: NDArray[np.int64]) -> Strings:
    """Return the names that begin at these places of a string table."""
    if len(at) and int(at.max()) >= size:
        raise ValueError("a symbol's name lies outside the string table")
    text = np.frombuffer(data, np.uint8, size, begin)
    ends = np.append(np.flatnonzero(text == 0), size)
    stop = ends[np.searchsorted(ends, at)]
    return Strings(data, at + begin, stop + begin)
