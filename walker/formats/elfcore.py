"""ELF cores of a whole machine, as QEMU's `dump-guest-memory` writes them.

Physical memory is in PT_LOAD segments, by physical address; the registers of each CPU are in
notes (`crosswalk.walker.formats.elfnotes`).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap
from typing import IO, Any, cast

import numpy as np

from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.formats.elfnotes import CoreCpu, Note, cpus_of, read_notes
from crosswalk.walker.formats.registers import NOT_GIVEN, Registers
from crosswalk.walker.memory import Segments

__all__ = ["MAX_SEGMENTS", "ElfCore", "read_core"]

MAX_SEGMENTS = 4096
"""The most program headers a core may have; QEMU writes one for each block of RAM."""

_PHYSICAL_BITS = 52
_NO_ADDRESS = (1 << 64) - 1
# QEMU calls a machine a 386 whose CPUs aren't in long mode, and uses 64 bits for much memory.
_MACHINES = {("EM_X86_64", 64), ("EM_386", 64), ("EM_386", 32)}
_386 = 3
_CHUNK = 1 << 24


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
        """By what its paging mode was told; empty where EFER is there, or nothing tells it."""
        return self.cpus[self.chosen].why if self.cpus else ""


def read_core(data: mmap, cpu: int = 0) -> ElfCore:
    """Return the physical memory of an ELF core, without a copy, and what it says of its CPUs.

    Of a segment, as many bytes are backed as the file holds (p_filesz). `cpu` counts the
    CPUs from 0. A QEMU note doesn't tell EFER, PKRU and MAXPHYADDR: where no note of this
    project does, they stay open. Where paging with PAE isn't on, EFER is given as 0; where it
    is, `long_mode` says what the registers or the machine decide, else None.

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
            notes += read_notes(part)
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
