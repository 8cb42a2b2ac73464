"""ELF cores of a whole machine, as QEMU's `dump-guest-memory` writes them.

Physical memory is in PT_LOAD segments, by physical address; the registers of each CPU are in
notes. QEMU's note is a dump of a CPU's state (QEMU target/i386/arch_dump.c). The note CROSSWALK, of
type 1, is this project's: the state that QEMU's leaves out and a translation depends on. Its
content:

    uint32 version (1), uint32 size in bytes, uint64 EFER, uint64 encryption mask,
    uint32 PKRU, uint32 MAXPHYADDR, uint32 features (1: 1-GiB pages, 2: AMD), uint32 PKRS
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from mmap import mmap
from typing import IO, Any, cast

import numpy as np

from crosswalk.walker.context import CR0, CR4, PagingContext, Vendor
from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.formats.located_errors import one_line
from crosswalk.walker.formats.registers import NOT_GIVEN, Registers
from crosswalk.walker.memory import Segments

__all__ = [
    "MAX_SEGMENTS",
    "OWN_NAME",
    "OWN_TYPE",
    "CoreCpu",
    "ElfCore",
    "Note",
    "cpus_of",
    "notes_in",
    "own_content",
    "read_core",
]

MAX_SEGMENTS = 4096
"""The most program headers a core may have; QEMU writes one for each block of RAM."""

_PHYSICAL_BITS = 52
_NO_ADDRESS = (1 << 64) - 1
# QEMU calls a machine a 386 whose CPUs aren't in long mode, and uses 64 bits for much memory.
_MACHINES = {("EM_X86_64", 64), ("EM_386", 64), ("EM_386", 32)}
_386 = 3
_CHUNK = 1 << 24

OWN_NAME, OWN_TYPE = "CROSSWALK", 1
_QEMU = "QEMU"
# version, size; rax … r15, rip, rflags; ten segments of selector, limit, flags, pad, base;
# cr0 … cr4. A kernel_gs_base may follow.
_CPU_STATE = struct.Struct("<II" + "18Q" + "IIIIQ" * 10 + "5Q")
_RIP, _RFLAGS = 2 + 16, 2 + 17
_CS_FLAGS = 2 + 18 + 2
_GDT_BASE = 2 + 18 + 5 * 8 + 4
_CONTROL = 2 + 18 + 5 * 10
_RFLAGS_AC = 1 << 18
_SEGMENT_LONG = 1 << 21  # QEMU's DESC_L_MASK: the L bit where a descriptor has it.
_PCIDE = 1 << 17
_32_BITS = 1 << 32

_OWN_STATE = struct.Struct("<IIQQIIII")
_PAGE1GB, _AMD = 1, 2


@dataclass(frozen=True, slots=True)
class Note:
    """One note: its name without the final zero, its type, and its content."""

    name: str
    kind: int
    content: memoryview


@dataclass(frozen=True, slots=True)
class CoreCpu:
    """The state of one CPU in a core.

    `registers.efer` and `registers.long_mode` are None where the notes don't decide them. `why` is
    what decided the mode, empty where EFER itself is there or isn't needed.
    """

    registers: Registers
    why: str = ""


@dataclass(frozen=True, slots=True)
class ElfCore:
    """What an ELF core holds.

    `cpus` are those whose registers it has, in the order of its notes, and `chosen` is the
    number of the one asked for. `missing` is the number of bytes of PT_LOAD segments that
    the file doesn't hold (p_memsz beyond p_filesz): they are not backed. `is_386` says that
    the core is one of a 386, not of an x86-64 machine.
    """

    memory: Segments
    cpus: tuple[CoreCpu, ...]
    chosen: int
    notes: tuple[Note, ...]
    missing: int
    is_386: bool

    @property
    def registers(self) -> Registers:
        """The registers of the CPU asked for; none where the core has none."""
        return self.cpus[self.chosen].registers if self.cpus else NOT_GIVEN

    @property
    def why(self) -> str:
        """What decided its paging mode; empty where EFER is there, or nothing decides it."""
        return self.cpus[self.chosen].why if self.cpus else ""


def read_core(data: mmap, cpu: int = 0) -> ElfCore:
    """Return the physical memory of an ELF core, without a copy, and the state of its CPUs.

    Of a segment, as many bytes are backed as the file holds (p_filesz). `cpu` counts the
    CPUs from 0. A QEMU note has no EFER, PKRU and MAXPHYADDR: without a note of this project they
    are None. Where paging with PAE isn't on, EFER is given as 0; where it is, `long_mode` is what
    the registers or the machine decide, else None.

    Segments may overlap where they have the same bytes. Raises `BadInput` where they don't, for
    what isn't a core of an x86 machine or is truncated, and where there is no such CPU, and
    `LimitExceeded` beyond `MAX_SEGMENTS`.
    """
    loads: list[tuple[int, memoryview]] = []
    notes: list[Note] = []
    missing = 0
    for header in _program_headers(data):
        kind, offset, size = header["p_type"], header["p_offset"], header["p_filesz"]
        if kind == "PT_LOAD":
            missing += max(header["p_memsz"] - size, 0)
        # QEMU gives a block that it left out of the dump a size of 0 and an offset of -1.
        if kind not in ("PT_LOAD", "PT_NOTE") or size == 0:
            continue
        if offset + size > len(data):
            raise BadInput(
                f"truncated ELF core: a {kind} segment ends at byte {offset + size}, "
                f"the file at {len(data)}"
            )
        part = memoryview(data)[offset : offset + size]
        if kind == "PT_NOTE":
            notes += notes_in(part)
        else:
            loads.append((_address(header["p_paddr"], size), part))
    is_386 = int(struct.unpack_from("<H", data, 18)[0]) == _386
    cpus = cpus_of(notes, is_386=is_386)
    if cpu != 0 and not 0 <= cpu < len(cpus):
        raise BadInput(f"ELF core: no CPU {cpu}; the file has the registers of {len(cpus)}")
    return ElfCore(_memory(loads), cpus, cpu, tuple(notes), missing, is_386)


def _address(start: int, size: int) -> int:
    if start == _NO_ADDRESS:
        raise BadInput(
            "ELF core: a segment without a physical address, as /proc/kcore has; take "
            "/proc/vmcore, or a dump by QEMU"
        )
    if start + size > 1 << _PHYSICAL_BITS:
        raise BadInput(f"ELF core: a segment at {start:#x} ends beyond {_PHYSICAL_BITS} bits")
    return start


def _memory(loads: list[tuple[int, memoryview]]) -> Segments:
    if not loads:
        raise BadInput("ELF core: no PT_LOAD segment, so no memory")
    loads.sort(key=lambda load: (load[0], -len(load[1])))
    return Segments(_disjoint(loads))


def _disjoint(loads: list[tuple[int, memoryview]]) -> Iterator[tuple[int, memoryview]]:
    """Yield segments, given in the order of their addresses, without what an earlier one has.

    /proc/vmcore has the kernel's image by itself, and once more in RAM; a core with paging has
    what is mapped twice. `BadInput` where the bytes differ.
    """
    at, last = 0, memoryview(b"")  # The segment that reaches furthest so far.
    for start, part in loads:
        there = last[start - at :][: len(part)]
        if not _equal(there, part[: len(there)]):
            raise BadInput(f"ELF core: segments overlap at {start:#x} and differ there")
        if len(there) < len(part):
            yield start + len(there), part[len(there) :]
            at, last = start, part


def _equal(one: memoryview, other: memoryview) -> bool:
    return all(
        np.array_equal(
            np.frombuffer(one[at : at + _CHUNK], np.uint8),
            np.frombuffer(other[at : at + _CHUNK], np.uint8),
        )
        for at in range(0, len(one), _CHUNK)
    )


def _program_headers(data: mmap) -> Iterator[Any]:
    # Its import would be a tenth of the time that other files take.
    from elftools.common.exceptions import ELFError  # noqa: PLC0415
    from elftools.common.utils import struct_parse  # noqa: PLC0415
    from elftools.elf.elffile import ELFFile  # noqa: PLC0415

    if data[:4] != b"\x7fELF":
        raise BadInput("not an ELF file")
    stream = cast("IO[bytes]", data)
    try:
        elf = ELFFile(stream)
    except (ELFError, ValueError):
        raise BadInput("truncated or damaged ELF header") from None
    if (elf["e_machine"], elf.elfclass) not in _MACHINES or not elf.little_endian:
        order = "little" if elf.little_endian else "big"
        raise BadInput(
            f"ELF file of another machine: {elf['e_machine']}, {elf.elfclass} bits, "
            f"{order}-endian; x86-64 or 386 needed"
        )
    if elf["e_type"] != "ET_CORE":
        raise BadInput(f"not an ELF core: its type is {elf['e_type']}")
    header, count = elf.structs.Elf_Phdr, elf["e_phnum"]
    first, stride = elf["e_phoff"], elf["e_phentsize"]
    if count > MAX_SEGMENTS:
        raise LimitExceeded(f"ELF core: {count} program headers; at most {MAX_SEGMENTS} are read")
    if count and stride < header.sizeof():
        raise BadInput(f"damaged ELF header: program headers of {stride} bytes")
    if first + count * stride > len(data):
        raise BadInput(
            f"truncated ELF core: program headers end at byte {first + count * stride}, "
            f"the file at {len(data)}"
        )
    for at in range(count):
        yield struct_parse(header, stream, first + at * stride)


def notes_in(segment: memoryview) -> Iterator[Note]:
    """Yield the notes of a PT_NOTE segment, or of a kdump file; `BadInput` where one is cut off.

    Not by pyelftools: that interprets notes too, and fails where one is damaged.
    """
    at = 0
    while at + 12 <= len(segment):
        name_size, size, kind = struct.unpack_from("<III", segment, at)
        content = at + 12 + -(-name_size // 4) * 4
        if content + size > len(segment):
            raise BadInput("truncated ELF core: a note runs beyond its segment")
        name = segment[at + 12 : at + 12 + name_size].tobytes().rstrip(b"\0")
        yield Note(one_line(name.decode("latin-1")), kind, segment[content : content + size])
        at = content + -(-size // 4) * 4


def cpus_of(notes: Iterable[Note], *, is_386: bool) -> tuple[CoreCpu, ...]:
    """Return the state of each CPU by QEMU's notes, completed by this project's own notes.

    The n-th of these belongs to the n-th CPU. `is_386` says that the core is of a 386: QEMU writes
    that where its first CPU isn't in IA-32e mode. Raises `BadInput` for notes of another form or
    version.
    """
    notes = list(notes)
    states = [note.content for note in notes if (note.name, note.kind) == (_QEMU, 0)]
    own = [note.content for note in notes if (note.name, note.kind) == (OWN_NAME, OWN_TYPE)]
    found = [_qemu(state, narrow=is_386 and not at) for at, state in enumerate(states)]
    for at, content in enumerate(own[: len(found)]):
        found[at] = CoreCpu(_own(content).over(replace(found[at].registers, efer=None)))
    return tuple(found)


def _qemu(state: memoryview, *, narrow: bool) -> CoreCpu:
    if len(state) < _CPU_STATE.size:
        raise BadInput(
            f"ELF core: a QEMU note of {len(state)} bytes; at least {_CPU_STATE.size} are needed"
        )
    values = _CPU_STATE.unpack_from(state)
    if values[0] != 1:
        raise BadInput(f"ELF core: a QEMU note of version {values[0]}; version 1 is known")
    cr0, _, _, cr3, cr4 = values[_CONTROL:]
    known = Registers(cr0=cr0, cr3=cr3, cr4=cr4, rflags_ac=bool(values[_RFLAGS] & _RFLAGS_AC))
    if not (cr0 & CR0.PG and cr4 & CR4.PAE):
        # Neither IA-32e mode nor NXE matters then.
        return CoreCpu(replace(known, efer=0))
    for shows, what in (
        (values[_CS_FLAGS] & _SEGMENT_LONG, "CS is a 64-bit segment"),
        (values[_GDT_BASE] >= _32_BITS, "the GDT lies above 4 GiB"),
        (values[_RIP] >= _32_BITS, "RIP has more than 32 bits"),
        (cr3 >= _32_BITS, "CR3 has more than 32 bits"),
        (cr4 & _PCIDE, "CR4.PCIDE is set"),
    ):
        if shows:
            return CoreCpu(replace(known, long_mode=True), what)
    if narrow:
        return CoreCpu(replace(known, long_mode=False), "the core is one of a 386")
    return CoreCpu(known)


def _own(content: memoryview) -> Registers:
    if len(content) < _OWN_STATE.size:
        raise BadInput(
            f"ELF core: a CROSSWALK note of {len(content)} bytes; {_OWN_STATE.size} are needed"
        )
    version, _, efer, mask, pkru, maxphyaddr, features, pkrs = _OWN_STATE.unpack_from(content)
    if version != 1:
        raise BadInput(f"ELF core: a CROSSWALK note of version {version}; version 1 is known")
    return Registers(
        efer=efer,
        pkru=pkru,
        pkrs=pkrs,
        maxphyaddr=maxphyaddr,
        page1gb=bool(features & _PAGE1GB),
        vendor=Vendor.AMD if features & _AMD else Vendor.INTEL,
        encryption_mask=mask,
    )


def own_content(context: PagingContext) -> bytes:
    """Return the content of the note CROSSWALK for a CPU that is in this context."""
    return _OWN_STATE.pack(
        1,
        _OWN_STATE.size,
        context.efer,
        context.encryption_mask,
        context.pkru,
        context.maxphyaddr,
        (_PAGE1GB if context.page1gb else 0) | (_AMD if context.vendor is Vendor.AMD else 0),
        context.pkrs,
    )
