"""The VMCB, the control block of a guest under SVM: where its fields lie, and how they are read.

Source: AMD APM vol. 2, "Layout of VMCB".
"""

import struct
from enum import IntFlag

from crosswalk.emu.cpu.cpu import Segment
from crosswalk.emu.cpu.ram import Ram
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME

__all__ = [
    "CONTROL_BYTES",
    "GENERAL_INTERCEPTS",
    "VMCB_FIELDS",
    "VMCB_SEGMENTS",
    "General",
    "Interrupts",
    "Vmcb",
    "pack_segment",
]

CONTROL_BYTES = 0x400
"""The size of the control area; the state-save area is behind it."""

VMCB_FIELDS: dict[str, tuple[int, str]] = {
    "cr_reads": (0x000, "H"),
    "cr_writes": (0x002, "H"),
    "dr_reads": (0x004, "H"),
    "dr_writes": (0x006, "H"),
    "exceptions": (0x008, "I"),
    "general": (0x00C, "Q"),
    "io_map": (0x040, "Q"),
    "msr_map": (0x048, "Q"),
    "tsc_offset": (0x050, "Q"),
    "asid": (0x058, "I"),
    "tlb_control": (0x05C, "B"),
    "interrupts": (0x060, "Q"),
    "shadow": (0x068, "Q"),
    "exit_code": (0x070, "Q"),
    "exit_info_1": (0x078, "Q"),
    "exit_info_2": (0x080, "Q"),
    "exit_event": (0x088, "Q"),
    "nested": (0x090, "Q"),
    "entry_event": (0x0A8, "Q"),
    "nested_cr3": (0x0B0, "Q"),
    "cpl": (0x4CB, "B"),
    "efer": (0x4D0, "Q"),
    "cr4": (0x548, "Q"),
    "cr3": (0x550, "Q"),
    "cr0": (0x558, "Q"),
    "dr7": (0x560, "Q"),
    "dr6": (0x568, "Q"),
    "rflags": (0x570, "Q"),
    "rip": (0x578, "Q"),
    "rsp": (0x5D8, "Q"),
    "rax": (0x5F8, "Q"),
    "cr2": (0x640, "Q"),
    "pat": (0x668, "Q"),
}
"""Offset and format (as `struct` has it) of each field that is read or written here."""

VMCB_SEGMENTS = {"es": 0x400, "cs": 0x410, "ss": 0x420, "ds": 0x430, "gdt": 0x460, "idt": 0x480}
"""Offsets of the segment and table registers that VMRUN loads and #VMEXIT saves."""

_SEGMENT = struct.Struct("<HHIQ")
GENERAL_INTERCEPTS = 0x00C
"""Where the 8 bytes of `General` lie."""


class General(IntFlag):
    """Intercepts of the field "general": bit n is exit code 0x60 + n."""

    INTR = 1 << 0
    NMI = 1 << 1
    VINTR = 1 << 4
    HLT = 1 << 24
    INVLPG = 1 << 25
    INVLPGA = 1 << 26
    IOIO = 1 << 27
    MSR = 1 << 28
    SHUTDOWN = 1 << 31
    VMRUN = 1 << 32
    # VMRUN, VMMCALL, VMLOAD, VMSAVE, STGI, CLGI, SKINIT: all that reaches past nested paging.
    ALL_OF_SVM = 0x7F << 32


class Interrupts(IntFlag):
    """Bits of the field "interrupts"; V_TPR is bits 3:0, the priority 19:16, the vector 39:32."""

    V_IRQ = 1 << 8
    V_IGN_TPR = 1 << 20
    V_INTR_MASKING = 1 << 24


def pack_segment(segment: Segment) -> bytes:
    """Return a segment register as a VMCB has it."""
    attributes = segment.flags >> 8 & 0xFF | segment.flags >> 12 & 0xF00
    return _SEGMENT.pack(segment.selector & 0xFFFF, attributes, segment.limit, segment.base)


def _unpack_segment(content: bytes) -> Segment:
    """Return the segment register that these bytes of a VMCB hold."""
    selector, attributes, limit, base = _SEGMENT.unpack(content)
    return Segment(selector, base, limit, (attributes & 0xFF) << 8 | (attributes & 0xF00) << 12)


class Vmcb:
    """A VMCB, or a block of the same layout, at physical address `pa` of `ram`.

    Raises `BadInput` unless it is a page of that RAM.
    """

    def __init__(self, ram: Ram, pa: int) -> None:
        if pa % FRAME or not ram.start <= pa <= ram.start + ram.size - FRAME:
            raise BadInput(f"the VMCB at {pa:#x} is no page of RAM")
        self._ram = ram
        self.pa = pa

    def __getitem__(self, name: str) -> int:
        """Return a field, by its name in `VMCB_FIELDS`."""
        at, form = VMCB_FIELDS[name]
        found: int = struct.unpack(f"<{form}", self._ram.read(self.pa + at, struct.calcsize(form)))[
            0
        ]
        return found

    def __setitem__(self, name: str, value: int) -> None:
        """Write a field, by its name in `VMCB_FIELDS`."""
        at, form = VMCB_FIELDS[name]
        self._ram.write(self.pa + at, struct.pack(f"<{form}", value))

    def segment(self, name: str) -> Segment:
        """Return a segment or table register, by its name in `VMCB_SEGMENTS`."""
        return _unpack_segment(self._ram.read(self.pa + VMCB_SEGMENTS[name], _SEGMENT.size))

    def set_segment(self, name: str, segment: Segment) -> None:
        """Write a segment or table register, by its name in `VMCB_SEGMENTS`."""
        self._ram.write(self.pa + VMCB_SEGMENTS[name], pack_segment(segment))
