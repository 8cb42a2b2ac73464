"""The notes of an ELF core: which there are, and what they say of the CPUs.

QEMU's note is its own dump of a CPU's state (QEMU target/i386/arch_dump.c). The note CROSSWALK,
of type 1, is this project's: what QEMU's leaves out and a translation depends on. Its content:

    uint32 version (1), uint32 size in bytes, uint64 EFER, uint64 encryption mask,
    uint32 PKRU, uint32 MAXPHYADDR, uint32 features (1: 1-GiB pages, 2: AMD), uint32 0
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from crosswalk.walker.context import CR0, CR4, PagingContext, Vendor
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.located_errors import one_line
from crosswalk.walker.formats.registers import Registers

__all__ = ["OWN_NAME", "OWN_TYPE", "CoreCpu", "Note", "cpus_of", "own_content", "read_notes"]

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
    """What a core says of one CPU.

    `registers.efer` and `registers.long_mode` are None where nothing in the notes decides;
    `why` says what decided, and is empty where EFER itself is there or isn't needed.
    """

    registers: Registers
    why: str = ""


def read_notes(segment: memoryview) -> Iterator[Note]:
    """Yield the notes of a PT_NOTE segment; `BadInput` where one runs beyond it.

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
    """Return what QEMU's notes say of each CPU, completed by this project's own notes.

    The n-th of these belongs to the n-th CPU. `is_386` says that the core is one of a 386:
    QEMU makes it so where its first CPU isn't in IA-32e mode. Raises `BadInput` for notes of
    another form or version.
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
    version, _, efer, mask, pkru, maxphyaddr, features, _ = _OWN_STATE.unpack_from(content)
    if version != 1:
        raise BadInput(f"ELF core: a CROSSWALK note of version {version}; version 1 is known")
    return Registers(
        efer=efer,
        pkru=pkru,
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
        0,
    )
