"""ELF cores of a whole machine: of QEMU, VirtualBox, VMware and Linux' kdump, and /proc/vmcore.

Physical memory is in PT_LOAD segments, by physical address; the registers of CPUs, where they are
there, in notes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from mmap import mmap

import numpy as np

from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.formats.elfheaders import (
    MAX_SEGMENTS,
    NO_ADDRESS,
    PT_LOAD,
    PT_NOTE,
    Programs,
    read_headers,
)
from crosswalk.walker.formats.elfnotes import (
    MAX_NOTES,
    CoreCpu,
    Note,
    cpus_of,
    notes_in,
    vmcoreinfo_of,
)
from crosswalk.walker.formats.elfsegments import Extent, apart, joined_extents, uncovered
from crosswalk.walker.formats.registers import NOT_GIVEN, Registers
from crosswalk.walker.memory import Segments

__all__ = [
    "MAX_SEGMENTS",
    "CoreCpu",
    "ElfCore",
    "Note",
    "cpus_of",
    "note_places",
    "notes_at",
    "notes_in",
    "placed_segments",
    "read_core",
]

_PHYSICAL_END = 1 << 52
_QEMU = "QEMU"


@dataclass(frozen=True, slots=True)
class ElfCore:
    """What an ELF core holds.

    `cpus` are those whose registers it has, in the order of its notes, and `chosen` is the
    number of the one asked for. `excluded` and `missing` are the numbers of bytes that segments
    speak of (p_memsz beyond p_filesz) and that are not backed: left out of a Linux crash dump, by
    rules about what pages hold, or not in the file for another reason. `virtual` is the number of
    segments without a physical address. `vmcoreinfo` is the text of that note, or empty. `is_386`
    says that the core is one of a 386, not of an x86-64 machine.
    """

    memory: Segments
    cpus: tuple[CoreCpu, ...]
    chosen: int
    notes: tuple[Note, ...]
    missing: int
    excluded: int
    virtual: int
    vmcoreinfo: str
    is_386: bool

    @property
    def registers(self) -> Registers:
        """The registers of the CPU asked for; none where the core has none."""
        return self.cpus[self.chosen].registers if self.cpus else NOT_GIVEN

    @property
    def why(self) -> str:
        """What decided its paging mode; empty where EFER is there, or nothing decides it."""
        return self.cpus[self.chosen].why if self.cpus else ""


@dataclass(frozen=True, slots=True)
class Placed:
    """The segments of a core that have a physical address.

    `extents` are in the order of `joined_extents`, and may overlap. `gaps` are the (start, end)
    that segments speak of beyond what is in the file. `virtual` is the number of other segments.
    """

    extents: list[Extent]
    gaps: list[tuple[int, int]]
    virtual: int


def read_core(data: mmap, cpu: int = 0) -> ElfCore:
    """Return the physical memory of an ELF core, without a copy, and the state of its CPUs.

    Of a segment, as many bytes are backed as the file holds (p_filesz). `cpu` counts the
    CPUs from 0. A QEMU note has no EFER, PKRU and MAXPHYADDR: without a note of this project they
    are None. Where paging with PAE isn't on, EFER is given as 0; where it is, `long_mode` is what
    the registers or the machine decide, else None.

    Segments may overlap where they have the same bytes (`apart`). Segments without a physical
    address are left aside. Raises `BadInput` for segments that overlap and differ, for what isn't a
    core of an x86 machine or is truncated, where no segment has a physical address, and where
    there is no such CPU, and `LimitExceeded` beyond what `read_headers`, `notes_at` and `apart`
    take.
    """
    headers = read_headers(data)
    placed = placed_segments(headers.programs, len(data))
    content = memoryview(data)
    notes = notes_at(content[at : at + size] for at, size in note_places(headers.programs))
    cpus = cpus_of(notes, is_386=headers.is_386)
    if cpu != 0 and not 0 <= cpu < len(cpus):
        raise BadInput(f"ELF core: no CPU {cpu}; the file has the registers of {len(cpus)}")
    extents = apart(data, placed.extents)
    whole = np.frombuffer(data, np.uint8)
    memory = Segments((start, whole[at : at + size]) for start, at, size in extents)
    vmcoreinfo = vmcoreinfo_of(notes)
    lacking = uncovered(placed.gaps, memory.ranges)
    # QEMU leaves out blocks of RAM as a whole; its cores may have Linux' note, too.
    filtered = bool(vmcoreinfo) and not any(note.name == _QEMU for note in notes)
    return ElfCore(
        memory=memory,
        cpus=cpus,
        chosen=cpu,
        notes=notes,
        missing=0 if filtered else lacking,
        excluded=lacking if filtered else 0,
        virtual=placed.virtual,
        vmcoreinfo=vmcoreinfo,
        is_386=headers.is_386,
    )


def notes_at(segments: Iterable[memoryview]) -> tuple[Note, ...]:
    """Return the notes of all PT_NOTE segments; `LimitExceeded` beyond `MAX_NOTES`."""
    found: list[Note] = []
    for segment in segments:
        found += notes_in(segment)
        if len(found) > MAX_NOTES:
            raise LimitExceeded(f"ELF core: more than {MAX_NOTES:,} notes")
    return tuple(found)


def note_places(programs: Programs) -> list[tuple[int, int]]:
    """Return the place in the file and the size of each PT_NOTE segment."""
    notes = programs[(programs["type"] == PT_NOTE) & (programs["filesz"] > 0)]
    return list(zip(notes["offset"].tolist(), notes["filesz"].tolist(), strict=True))


def placed_segments(programs: Programs, length: int) -> Placed:
    """Return where the PT_LOAD segments of a core lie; `length` is the file's size in bytes.

    Raises `BadInput` where one or a PT_NOTE segment isn't as a whole in the file, one lies beyond
    52 bits, or none has a physical address.
    """
    _require_whole(programs, length)
    loads = programs[programs["type"] == PT_LOAD]
    # QEMU gives a block that it left out of the dump a size of 0 and an offset of -1.
    held = loads["filesz"] > 0
    if not held.any():
        raise BadInput("ELF core: no PT_LOAD segment, so no memory")
    located = loads["paddr"] != np.uint64(NO_ADDRESS)
    parts = loads[held & located]
    if not len(parts) or _all_at_zero(parts):
        raise BadInput(
            "ELF core: its segments have virtual addresses only, as those of a process: no "
            "physical memory"
        )
    beyond = parts[parts["paddr"] > np.uint64(_PHYSICAL_END) - parts["filesz"]]
    if len(beyond):
        start = int(beyond["paddr"][0])
        raise BadInput(f"ELF core: a segment at {start:#x} ends beyond 52 bits")
    short = loads[located & (loads["memsz"] > loads["filesz"])]
    columns = (short[name].tolist() for name in ("paddr", "filesz", "memsz"))
    gaps = [(pa + size, pa + whole) for pa, size, whole in zip(*columns, strict=True)]
    return Placed(
        joined_extents(parts["paddr"], parts["offset"], parts["filesz"]),
        [(low, min(high, _PHYSICAL_END)) for low, high in gaps if low < _PHYSICAL_END],
        int((held & ~located).sum()),
    )


def _require_whole(programs: Programs, length: int) -> None:
    kinds = (programs["type"] == PT_LOAD) | (programs["type"] == PT_NOTE)
    wanted = programs[kinds & (programs["filesz"] > 0)]
    size, whole = wanted["filesz"], np.uint64(length)
    beyond = wanted[(size > whole) | (wanted["offset"] > whole - np.minimum(size, whole))]
    if len(beyond):
        kind = "PT_LOAD" if int(beyond["type"][0]) == PT_LOAD else "PT_NOTE"
        end = int(beyond["offset"][0]) + int(beyond["filesz"][0])
        raise BadInput(
            f"truncated ELF core: a {kind} segment ends at byte {end}, the file at {length}"
        )


def _all_at_zero(loads: Programs) -> bool:
    """Return whether several different segments have 0 for an address, which then says nothing."""
    if loads["paddr"].any():
        return False
    return all((loads[name] != loads[name][0]).any() for name in ("offset", "vaddr"))
