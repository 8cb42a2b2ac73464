"""ELF cores of a whole machine, as QEMU's `dump-guest-memory` writes them.

Physical memory is in PT_LOAD segments, by physical address. The registers of each CPU are in
a note "QEMU" of type 0: QEMU's own dump of its CPU state (QEMU target/i386/arch_dump.c).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap
from typing import IO, Any, cast

from elftools.common.exceptions import ELFError
from elftools.common.utils import struct_parse
from elftools.elf.elffile import ELFFile

from walker.context import CR0, CR4
from walker.errors import BadInput, LimitExceeded
from walker.memory import Segments
from walker.source.registers import Registers

__all__ = ["MAX_SEGMENTS", "ElfCore", "read_core"]

MAX_SEGMENTS = 4096
"""The most program headers a core may have; QEMU writes one for each block of RAM."""

_PHYSICAL_BITS = 52
# QEMU calls a machine a 386 whose CPUs aren't in long mode, and uses 64 bits for much memory.
_MACHINES = {("EM_X86_64", 64), ("EM_386", 64), ("EM_386", 32)}
_X86_64 = 62

# version, size; rax … r15, rip, rflags; ten segments of selector, limit, flags, pad, base;
# cr0 … cr4. A kernel_gs_base may follow.
_CPU_STATE = struct.Struct("<II" + "18Q" + "IIIIQ" * 10 + "5Q")
_RFLAGS = 2 + 17
_CS_FLAGS = 2 + 18 + 2
_GDT_BASE = 2 + 18 + 5 * 8 + 4
_CONTROL = 2 + 18 + 5 * 10

_RFLAGS_AC = 1 << 18
_SEGMENT_LONG = 1 << 21  # QEMU's DESC_L_MASK: the L bit where a descriptor has it.


@dataclass(frozen=True, slots=True)
class ElfCore:
    """What an ELF core holds.

    `registers` are those of one CPU, or none at all in a core without notes by QEMU; `cpus`
    is the number of such notes.
    """

    memory: Segments
    registers: Registers
    cpus: int


def read_core(data: mmap, cpu: int = 0) -> ElfCore:
    """Return the physical memory of an ELF core, without a copy, and the registers of a CPU.

    Of a segment, as many bytes are backed as the file holds (p_filesz). `cpu` counts the
    notes from 0. A note doesn't tell EFER, PKRU and MAXPHYADDR: they stay open, and a context
    made of the registers takes 0xd00 (LME, LMA, NXE) for EFER, or outside long mode 0x800
    (NXE). Where paging with PAE isn't on, EFER is given as 0. A CPU is in long mode where CS is
    a 64-bit segment or the GDT lies above 4 GiB; and the first one where the core is one of an
    x86-64 machine, since QEMU makes it that of a 386 otherwise.

    Raises `BadInput` for what isn't a core of an x86 machine, is truncated, or has
    overlapping segments or no such CPU, and `LimitExceeded` beyond `MAX_SEGMENTS`.
    """
    headers = list(_program_headers(data))
    loads = []
    notes: list[memoryview] = []
    for header in headers:
        kind, offset, size = header["p_type"], header["p_offset"], header["p_filesz"]
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
            notes.append(part)
            continue
        start = header["p_paddr"]
        if start + size > 1 << _PHYSICAL_BITS:
            raise BadInput(f"ELF core: a segment at {start:#x} ends beyond {_PHYSICAL_BITS} bits")
        loads.append((start, part))
    if not loads:
        raise BadInput("ELF core: no PT_LOAD segment, so no memory")
    try:
        memory = Segments(loads)
    except BadInput as error:
        raise BadInput(f"ELF core: {error}; was it dumped with paging (-p)?") from None
    states = [state for note in notes for state in _qemu_states(note)]
    return ElfCore(memory, _registers_of(states, cpu, _machine(data)), len(states))


def _machine(data: mmap) -> int:
    return int(struct.unpack_from("<H", data, 18)[0])


def _program_headers(data: mmap) -> Iterator[Any]:
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


def _qemu_states(notes: memoryview) -> Iterator[memoryview]:
    """Yield the contents of the QEMU notes of a PT_NOTE segment.

    Not by pyelftools: that interprets other notes too, and fails where one is damaged.
    """
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("<III", notes, at)
        content = at + 12 + -(-name_size // 4) * 4
        if content + size > len(notes):
            raise BadInput("truncated ELF core: a note runs beyond its segment")
        if kind == 0 and notes[at + 12 : at + 12 + name_size].tobytes() == b"QEMU\0":
            yield notes[content : content + size]
        at = content + -(-size // 4) * 4


def _registers_of(states: list[memoryview], cpu: int, machine: int) -> Registers:
    if not states and cpu == 0:
        return Registers()
    if not 0 <= cpu < len(states):
        raise BadInput(f"ELF core: no CPU {cpu}; the file has the registers of {len(states)}")
    state = states[cpu]
    if len(state) < _CPU_STATE.size:
        raise BadInput(
            f"ELF core: a QEMU note of {len(state)} bytes; at least {_CPU_STATE.size} are needed"
        )
    values = _CPU_STATE.unpack_from(state)
    if values[0] != 1:
        raise BadInput(f"ELF core: a QEMU note of version {values[0]}; version 1 is known")
    cr0, _, _, cr3, cr4 = values[_CONTROL:]
    long_mode = bool(values[_CS_FLAGS] & _SEGMENT_LONG) or values[_GDT_BASE] >= 1 << 32
    long_mode |= cpu == 0 and machine == _X86_64
    paging = bool(cr0 & CR0.PG) and bool(cr4 & CR4.PAE)
    return Registers(
        cr0=cr0,
        cr3=cr3,
        cr4=cr4,
        # Left open, it becomes what `Registers.context` takes for granted.
        efer=None if paging else 0,
        long_mode=long_mode if paging else None,
        rflags_ac=bool(values[_RFLAGS] & _RFLAGS_AC),
    )
