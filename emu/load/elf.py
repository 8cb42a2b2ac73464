"""ELF files as guests: what is loaded where, and what a loader hands on.

Source: System V ABI, "Program Header", "Sections", "Note Section".
"""

import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from elftools.common.exceptions import ELFError, ELFParseError
from elftools.elf.elffile import ELFFile

from crosswalk.emu.load.image import GuestImage, Sections
from crosswalk.walker.errors import BadInput

__all__ = ["MACHINES", "ElfGuest", "ElfNote", "ElfSection", "ElfSegment", "read_elf_guest"]

MACHINES = {"EM_386": 32, "EM_X86_64": 64}
"""The machines of guests, and the bits of their code."""

_MAX_SEGMENTS = 64
_MAX_SECTIONS = 1 << 12
_LONGEST_NAME = 1 << 12
_MAX_NOTES = 1 << 16  # Bytes of all.
_ALLOCATED = 2
_NO_CONTENT = ("SHT_NOBITS", "SHT_NULL")
# What the library raises for a damaged file, depending on where the damage is.
_ERRORS = (
    ELFError,
    ValueError,  # Decoding errors are among these.
    OverflowError,
    struct.error,
    KeyError,
    AttributeError,
    TypeError,
    IndexError,
)
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class ElfSegment:
    """A segment that is loaded: at physical and linear address, with content and size in memory."""

    pa: int
    va: int
    content: bytes
    size: int


@dataclass(frozen=True, slots=True)
class ElfSection:
    """A section: its place in the file, and whether it is loaded with a segment (`allocated`).

    `address` is linear; `content` says whether the file has bytes for it.
    """

    name: str
    address: int
    offset: int
    size: int
    allocated: bool
    content: bool


@dataclass(frozen=True, slots=True)
class ElfNote:
    """A note: its owner, its type and its description."""

    owner: str
    type: int
    description: bytes


@dataclass(frozen=True, slots=True)
class ElfGuest:
    """An executable ELF file for x86 in the file `data`.

    `bits` are the file's class, 32 or 64, and `machine` is its name in the header; `entry` is as
    the header has it. `table` is the (offset, entry size, index of the names) of the section
    headers, which `sections` are in order.
    """

    data: bytes
    bits: int
    machine: str
    entry: int
    segments: tuple[ElfSegment, ...]
    sections: tuple[ElfSection, ...]
    table: tuple[int, int, int]
    notes: tuple[ElfNote, ...]

    @property
    def physical_entry(self) -> int:
        """The physical address of the entry.

        An entry inside a segment's linear addresses is one of these; any other is physical
        already, as that of a kernel which is linked high and entered low.
        """
        for each in self.segments:
            if 0 <= self.entry - each.va < each.size:
                return self.entry - each.va + each.pa
        return self.entry

    def image(self, entry: int | None = None, release: str = "") -> GuestImage:
        """Return the file as an image, with another physical entry if one is given."""
        return GuestImage(
            segments=tuple((each.pa, each.content, each.size) for each in self.segments),
            entry=self.physical_entry if entry is None else entry,
            release=release,
            sections=self.placed,
            file=self.data,
        )

    @property
    def placed(self) -> Sections:
        """The sections that lie in a segment: (name, physical address, size)."""
        return tuple(
            (each.name, segment.pa + each.address - segment.va, each.size)
            for each in self.sections
            if each.allocated
            for segment in [self._holding(each.address)]
            if segment is not None
        )

    def _holding(self, va: int) -> ElfSegment | None:
        return next((each for each in self.segments if 0 <= va - each.va < each.size), None)


def read_elf_guest(data: bytes) -> ElfGuest:
    """Return an ELF file's parts.

    Raises `BadInput` in one line for a file that is none, is damaged, isn't for x86, isn't linked
    to fixed addresses, or has nothing to load.
    """
    header = 64 if data[4:5] == b"\2" else 52
    if data.startswith(b"\x7fELF") and len(data) < header:
        raise BadInput(
            f"a damaged ELF file: truncated to {len(data)} bytes, in its header of {header}"
        )
    elf = _read(lambda: ELFFile(io.BytesIO(data)))
    machine, kind = _read(lambda: (elf["e_machine"], elf["e_type"]))
    if machine not in MACHINES:
        raise BadInput(f"not a guest for x86: an ELF file of {machine}, {kind}")
    if kind != "ET_EXEC":
        raise BadInput(
            f"an ELF file of {machine}, {kind}: only ET_EXEC, linked to fixed addresses, is loaded"
        )
    _read(lambda: _require_names(elf, data))
    segments = _read(lambda: tuple(_segments(elf, data)))
    if not segments:
        raise BadInput("an ELF file without segments: nothing to load")
    return ElfGuest(
        data=data,
        bits=elf.elfclass,
        machine=machine,
        entry=elf["e_entry"],
        segments=segments,
        sections=_read(lambda: tuple(_sections(elf, data))),
        table=(elf["e_shoff"], elf["e_shentsize"], elf["e_shstrndx"]),
        notes=_read(lambda: tuple(_notes(elf))),
    )


def _read(part: Callable[[], Result]) -> Result:
    try:
        return part()
    except ELFParseError as error:
        raise BadInput(
            "a damaged ELF file: truncated, what its headers name lies beyond its end"
        ) from error
    except _ERRORS as error:
        raise BadInput(f"a damaged ELF file: {error}") from error


def _segments(elf: Any, data: bytes) -> Iterator[ElfSegment]:
    if elf.num_segments() > _MAX_SEGMENTS:
        raise BadInput(f"an ELF file with {elf.num_segments()} program headers: no kernel")
    left = 2 * len(data)  # They may share the bytes of a page.
    for each in elf.iter_segments("PT_LOAD"):
        header = each.header
        offset, size, memory = header["p_offset"], header["p_filesz"], header["p_memsz"]
        if offset + size > len(data) or memory < size:
            raise BadInput("a damaged ELF file: a segment ends beyond its file")
        left -= size
        if left < 0:
            raise BadInput("a damaged ELF file: its segments hold more than twice the file")
        if memory:
            content = data[offset : offset + size]
            yield ElfSegment(header["p_paddr"], header["p_vaddr"], content, memory)


def _sections(elf: Any, data: bytes) -> Iterator[ElfSection]:
    for each in elf.iter_sections():
        header = each.header
        content = header["sh_type"] not in _NO_CONTENT
        if content and header["sh_offset"] + header["sh_size"] > len(data):
            raise BadInput("a damaged ELF file: a section ends beyond its file")
        yield ElfSection(
            name=each.name,
            address=header["sh_addr"],
            offset=header["sh_offset"],
            size=header["sh_size"],
            allocated=bool(header["sh_flags"] & _ALLOCATED),
            content=content,
        )


def _require_names(elf: Any, data: bytes) -> None:
    """Refuse sections that are too many, or whose names have no end.

    The library reads all names to their ends, also where it looks for segments.
    """
    count = elf.num_sections()
    if count > _MAX_SECTIONS:
        raise BadInput(f"a damaged ELF file: {count:,} sections")
    entry = struct.Struct("<IIIIII" if elf.elfclass == 32 else "<IIQQQQ")  # Up to the size.

    def header(number: int) -> tuple[int, ...]:
        at = elf["e_shoff"] + number * elf["e_shentsize"]
        return entry.unpack_from(data, at) if at + entry.size <= len(data) else ()

    # What lies beyond the file isn't read.
    table = header(elf.get_shstrndx()) if count else ()
    starts = (table[4] + each[0] for each in map(header, range(count)) if each and table)
    for start in starts:
        if start < len(data) and data.find(b"\0", start, start + _LONGEST_NAME) < 0:
            raise BadInput("a damaged ELF file: a section's name has no end")


def _notes(elf: Any) -> Iterator[ElfNote]:
    """Yield the notes of segments, and of sections where no segment holds notes."""
    found = [(part, part["p_filesz"]) for part in elf.iter_segments("PT_NOTE")] or [
        (part, part["sh_size"]) for part in elf.iter_sections() if part["sh_type"] == "SHT_NOTE"
    ]
    if (total := sum(size for _, size in found)) > _MAX_NOTES:
        raise BadInput(f"a damaged ELF file: {total:,} bytes of notes")
    for part, _ in found:
        for note in part.iter_notes():
            yield ElfNote(str(note["n_name"]), _number(note["n_type"]), bytes(note["n_descdata"]))


def _number(kind: object) -> int:
    """Return a note's type as a number; those that the library has a name for are no loader's."""
    return kind if isinstance(kind, int) else -1
