"""The notes of ELF cores, and what those of QEMU, VirtualBox and this project say of CPUs.

QEMU's note is a dump of a CPU's state (QEMU target/i386/arch_dump.c), VirtualBox' VBCPU its
DBGFCORECPU (VirtualBox include/VBox/vmm/dbgfcorefmt.h). The note CROSSWALK, of type 1, is this
project's: the state that QEMU's leaves out and a translation depends on. Its content:

    uint32 version (1), uint32 size in bytes, uint64 EFER, uint64 encryption mask,
    uint32 PKRU, uint32 MAXPHYADDR, uint32 features (1: 1-GiB pages, 2: AMD), uint32 PKRS
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from crosswalk.walker.context import CR0, CR4, PagingContext, Vendor
from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.formats.located_errors import one_line
from crosswalk.walker.formats.registers import NOT_GIVEN, Registers
from crosswalk.walker.memory_types import is_pat

__all__ = [
    "MAX_NOTES",
    "OWN_NAME",
    "OWN_TYPE",
    "CoreCpu",
    "Note",
    "cpus_of",
    "notes_in",
    "own_content",
    "vmcoreinfo_of",
]

MAX_NOTES = 1 << 16
"""The most notes a core may have; Linux writes one for each CPU, QEMU and VirtualBox two."""

OWN_NAME, OWN_TYPE = "CROSSWALK", 1
_QEMU = ("QEMU", 0)
_VIRTUALBOX = ("VBCPU", 0xB01)
_VMCOREINFO = "VMCOREINFO"
_LONGEST_NAME = 64
_LONGEST_TEXT = 1 << 20

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

# rax … r15, rip, rsp, rbp, rflags; six segments of base, limit, attributes, selector, pads; cr0,
# cr2, cr3, cr4; dr0 … dr7; GDTR and IDTR of address, limit, pad; LDTR and TR; three MSRs; EFER.
_VIRTUALBOX_STATE = struct.Struct(
    "<18Q" + "QIIHHI" * 6 + "4Q" + "8Q" + "QII" * 2 + "QIIHHI" * 2 + "4Q"
)
_VIRTUALBOX_CONTROL = 18 + 6 * 6
_VIRTUALBOX_RFLAGS = 17
_VIRTUALBOX_PAT = _VIRTUALBOX_STATE.size + 8  # STAR comes before it.
# What is always set, and what never is, in a CPU's RFLAGS, CR0 and EFER.
_RFLAGS_ONE, _RFLAGS_ZERO = 0x2, ~0x3F_7FD7
_CR0_ZERO = ~0xE005_003F
_EFER_ZERO = ~0x36_FD01

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


def notes_in(segment: memoryview) -> Iterator[Note]:
    """Yield the notes of a PT_NOTE segment, or of a kdump file; an empty one ends them.

    `BadInput` where one is cut off, and `LimitExceeded` beyond `MAX_NOTES`. Not by pyelftools:
    that interprets notes too, and fails where one is damaged.
    """
    at = count = 0
    while at + 12 <= len(segment):
        name_size, size, kind = struct.unpack_from("<III", segment, at)
        if not (name_size or size or kind):
            return
        content = at + 12 + -(-name_size // 4) * 4
        if content + size > len(segment):
            raise BadInput("truncated ELF core: a note runs beyond its segment")
        count += 1
        if count > MAX_NOTES:
            raise LimitExceeded(f"ELF core: more than {MAX_NOTES:,} notes")
        shown = min(name_size, _LONGEST_NAME)
        name = segment[at + 12 : at + 12 + shown].tobytes().rstrip(b"\0")
        yield Note(one_line(name.decode("latin-1")), kind, segment[content : content + size])
        at = content + -(-size // 4) * 4


def vmcoreinfo_of(notes: Iterable[Note]) -> str:
    """Return the text of Linux' VMCOREINFO note, at most 1 MiB of it; empty without one."""
    for note in notes:
        if note.name == _VMCOREINFO:
            return note.content[:_LONGEST_TEXT].tobytes().rstrip(b"\0").decode("ascii", "replace")
    return ""


def cpus_of(notes: Iterable[Note], *, is_386: bool) -> tuple[CoreCpu, ...]:
    """Return the state of each CPU by QEMU's or VirtualBox' notes, and this project's own.

    The n-th of these belongs to the n-th CPU. `is_386` says that the core is of a 386: QEMU writes
    that where its first CPU isn't in IA-32e mode. Of a VirtualBox CPU whose note can't be a CPU's
    state nothing is known; where that is so of all, there are none. Raises `BadInput` for notes
    of another form or version.
    """
    notes = list(notes)
    states = [note.content for note in notes if (note.name, note.kind) == _QEMU]
    found = [_qemu(state, narrow=is_386 and not at) for at, state in enumerate(states)]
    if not found:
        theirs = [note.content for note in notes if (note.name, note.kind) == _VIRTUALBOX]
        found = [CoreCpu(_virtualbox(content)) for content in theirs]
        if all(each.registers == NOT_GIVEN for each in found):
            return ()
    own = [note.content for note in notes if (note.name, note.kind) == (OWN_NAME, OWN_TYPE)]
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


def _virtualbox(content: memoryview) -> Registers:
    """Return the registers of a VBCPU note; none where its values can't be a CPU's.

    Before it had a structure of its own for them, VirtualBox dumped its internal one.
    """
    if len(content) < _VIRTUALBOX_STATE.size:
        return NOT_GIVEN
    values = _VIRTUALBOX_STATE.unpack_from(content)
    rflags = values[_VIRTUALBOX_RFLAGS]
    cr0, _, cr3, cr4 = values[_VIRTUALBOX_CONTROL : _VIRTUALBOX_CONTROL + 4]
    efer = values[-1]
    if not rflags & _RFLAGS_ONE or rflags & _RFLAGS_ZERO or cr0 & _CR0_ZERO or efer & _EFER_ZERO:
        return NOT_GIVEN
    return Registers(
        cr0=cr0,
        cr3=cr3,
        cr4=cr4,
        efer=efer,
        rflags_ac=bool(rflags & _RFLAGS_AC),
        pat=_virtualbox_pat(content),
    )


def _virtualbox_pat(content: memoryview) -> int | None:
    if len(content) < _VIRTUALBOX_PAT + 8:
        return None
    (pat,) = struct.unpack_from("<Q", content, _VIRTUALBOX_PAT)
    return pat if is_pat(pat) else None


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
